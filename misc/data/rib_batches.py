"""RIB's batches of other images, which share no class with the target (RIB, Sec. 3.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.utils.data import DataLoader, Dataset

from misc.data.dataset_info import DatasetInfo
from misc.data.datasets import image_of, normalized, training_crop
from misc.data.label_file import Labels, load_labels
from misc.errors import UserError, raise_problems
from misc.runtime.processes import set_up_reader
from misc.torchutils import worker_rng


def disjoint(labels: np.ndarray | csr_array, label: np.ndarray) -> np.ndarray:
    """Rows of multi-hot labels N x C without any class of a label (C,); all where it has none."""
    return np.flatnonzero(labels @ label == 0)


def joint(labels: np.ndarray | csr_array, label: np.ndarray) -> np.ndarray:
    """Rows of multi-hot labels N x C with all classes of a label (C,)."""
    return np.flatnonzero(labels @ label == label.sum())


def require_disjoint(args: SimpleNamespace, drawn: Sequence[str], targets: Sequence[str]) -> None:
    """Raise UserError where a target of RIB shares a class with every image that can be drawn."""
    known = load_labels(args.cls_labels, (*drawn, *targets), args.info)
    rows, alike = known.of(drawn).rows, {}
    counts = rows.sum(axis=0)
    if drawn and counts.max() == len(drawn):
        name = args.info.class_names[int(counts.argmax())]
        raise UserError(
            f"{args.train_list}: all {len(drawn)} images show {name!r}, so RIB can draw no batches "
            f"without it; add {args.RIB_batch_size} or more images of anything else (without any "
            "class is fine), or give --recam none"
        )
    for image_id in targets:  # images of the same classes together
        alike.setdefault(tuple(known.classes_of(image_id).tolist()), []).append(image_id)
    raise_problems("RIB target", [
        f"{args.train_list}: every image shares a class with {image_id}, so RIB can draw "
        f"no batches for it; give a --train_list with other classes too"
        for classes, ids in alike.items()
        if classes and not disjoint(rows, known[ids[0]]).size
        for image_id in ids
    ])  # fmt: skip


@dataclass(frozen=True)
class CropSource(Dataset):
    """The images that RIB draws its batches from, which are those of `labels`, and their crops."""

    info: DatasetInfo
    labels: Labels
    long_range: tuple[int, int]
    crop_size: int
    seed: int

    def __getitem__(self, draw: tuple[str, str, int, int]) -> tuple:
        """A crop by ids of image and target, iteration and place in the batch; label, target."""
        image_id, target_id, iteration, row = draw
        rng = worker_rng(self.seed, "RIB crop", target_id, iteration, row)
        crop = training_crop(image_of(self.info, image_id), self.long_range, self.crop_size, rng)
        return crop, torch.from_numpy(self.labels[image_id]), target_id


class RIBBatches:
    """Batches of other images for RIB, read ahead by worker processes over all targets.

    targets: labels of the images that will be fine-tuned on, in the order in which `of` will be
    called. Draws depend on (seed, id of the target) alone.
    """

    def __init__(
        self, source: CropSource, targets: Labels, iterations: int, batch_size: int,
        disjoint_prob: float = 1.0, num_workers: int = 0, device: torch.device | str = "cpu",
    ):  # fmt: skip
        self._source, self._targets, self._ids = source, targets, list(source.labels)
        self._iterations, self._batch_size = iterations, batch_size
        self._disjoint_prob = disjoint_prob
        self._device, self._ended = torch.device(device), set[str]()
        self._loaded = iter(DataLoader(
            source, batch_sampler=self._draws(), num_workers=num_workers,
            pin_memory=self._device.type == "cuda", worker_init_fn=set_up_reader,
        ))  # fmt: skip

    def of(self, target_id: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of one target, one for each iteration: normalised B x 3 x S x S and B x C.

        Close the iterator (contextlib.closing) when the target ends early.
        """
        taken = 0
        try:
            while taken < self._iterations:
                crops, labels, owners = next(self._loaded)
                if owners[0] == target_id:  # others were read ahead for a target that ended early
                    taken += 1
                    labels = labels.to(self._device, non_blocking=True)
                    yield normalized(crops, self._device), labels
        finally:
            self._ended.add(target_id)

    def _draws(self) -> Iterator[list[tuple]]:
        for target_id, label in self._targets.items():
            members = self.members(target_id, label)
            for iteration in range(self._iterations):
                if target_id in self._ended:
                    break
                batch = enumerate(next(members))
                yield [(self._ids[member], target_id, iteration, row) for row, member in batch]

    def members(self, target_id: str, label: np.ndarray) -> Iterator[list[int]]:
        """Positions of B images at a time, without end: shuffled passes over the eligible ones."""
        # The original implementation ends the iterations with the first pass.
        rng, labels = worker_rng(self._source.seed, "RIB batch", target_id), self._source.labels
        left: dict[bool, list[int]] = {True: [], False: []}
        while True:
            apart = rng.random() < self._disjoint_prob
            pool = left[apart]
            while len(pool) < self._batch_size:
                found = disjoint(labels.rows, label) if apart else joint(labels.rows, label)
                again = found.tolist() or disjoint(labels.rows, label).tolist()
                rng.shuffle(again)
                pool.extend(again)
            yield pool[: self._batch_size]
            del pool[: self._batch_size]
