"""RIB's batches of other images, which share no class with the target (RIB, Sec. 3.2)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from misc.data.dataset_info import DatasetInfo
from misc.data.datasets import Crops, byte_crop, image_of
from misc.data.label_rows import LabelRows
from misc.runtime.processes import set_up_reader
from misc.torchutils import worker_rng

_MOST_ANSWERS = 256  # that an index remembers


class DisjointIndex:
    """The images of every class, found once; a query joins those of the classes asked for.

    labels: N x C multi-hot. Results are positions in it, ascending (list order).
    """

    def __init__(self, labels: np.ndarray | LabelRows):
        self._count, num_classes = labels.shape
        images, classes = labels.nonzero()
        images = images[np.argsort(classes, kind="stable")]
        ends = np.cumsum(np.bincount(classes, minlength=num_classes))
        self._members = np.split(images, ends[:-1])
        self._answers: dict[tuple[str, bytes], np.ndarray] = {}

    def disjoint(self, label: np.ndarray) -> np.ndarray:
        """Images without any class of a multi-hot label (C,). Without classes, all images are."""
        return self._query("disjoint", label)

    def joint(self, label: np.ndarray) -> np.ndarray:
        """Images with all classes of a multi-hot label (C,)."""
        return self._query("joint", label)

    def _query(self, kind: str, label: np.ndarray) -> np.ndarray:
        classes = np.flatnonzero(np.asarray(label) > 0)
        key = (kind, classes.tobytes())
        if key not in self._answers:
            shared = np.zeros(self._count, dtype=np.int32)
            for members in (self._members[index] for index in classes):
                shared[members] += 1
            if len(self._answers) >= _MOST_ANSWERS:  # thousands of classes have as many answers
                self._answers.clear()
            wanted = 0 if kind == "disjoint" else len(classes)
            self._answers[key] = np.flatnonzero(shared == wanted)
        return self._answers[key]


@dataclass(frozen=True)
class CropSource:
    """The images that RIB draws its batches from, and how they are cropped."""

    info: DatasetInfo
    image_ids: tuple[str, ...]
    labels: np.ndarray | LabelRows  # N x C multi-hot
    long_range: tuple[int, int]
    crop_size: int
    seed: int

    def image(self, index: int) -> np.ndarray:
        """An image, H x W x 3 uint8."""
        return image_of(self.info, self.image_ids[index])


class _DrawnCrops(Dataset):
    """Crops by (index of the image, id of the target, iteration, row in the batch)."""

    def __init__(self, source: CropSource):
        self.source = source

    def __getitem__(self, draw: tuple) -> tuple[Crops, torch.Tensor, str]:
        source, (index, target_id, iteration, row) = self.source, draw
        rng = worker_rng(source.seed, "RIB crop", target_id, iteration, row)
        crop = byte_crop(source.image(index), source.long_range, source.crop_size, rng)
        return crop, torch.from_numpy(source.labels[index]), target_id


class RIBBatches:
    """Batches of other images for RIB, read ahead by worker processes over all targets.

    device: where they are given; a GPU copies and normalises them while it computes.
    targets: label (C,) of each image that will be fine-tuned on, by its id, in the order in which
    `of` will be called. Draws depend on (seed, id of the target) alone.
    """

    def __init__(
        self,
        source: CropSource,
        targets: Mapping[str, np.ndarray],
        iterations: int,
        batch_size: int,
        disjoint_prob: float = 1.0,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
    ):
        self._source, self._targets, self._index = source, targets, DisjointIndex(source.labels)
        self._iterations, self._batch_size = iterations, batch_size
        self._disjoint_prob = disjoint_prob
        self._device, self._ended = torch.device(device), set[str]()
        loader = DataLoader(
            _DrawnCrops(source),
            batch_sampler=self._draws(),
            num_workers=num_workers,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=set_up_reader,
        )
        self._loaded = iter(loader)

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
                    yield crops.to(self._device, True), labels.to(self._device, non_blocking=True)
        finally:
            self._ended.add(target_id)

    def _draws(self) -> Iterator[list[tuple]]:
        """What the loader shall read; nothing more for a target once it has ended."""
        for target_id, label in self._targets.items():
            members = self.members(target_id, label)
            for iteration in range(self._iterations):
                if target_id in self._ended:
                    break
                batch = enumerate(next(members))
                yield [(member, target_id, iteration, row) for row, member in batch]

    def members(self, target_id: str, label: np.ndarray) -> Iterator[list[int]]:
        """Positions of B images at a time, without end: shuffled passes over the eligible ones.

        The original implementation ends the iterations with the first pass; here drawing continues.
        """
        rng = worker_rng(self._source.seed, "RIB batch", target_id)
        left: dict[bool, list[int]] = {True: [], False: []}
        while True:
            disjoint = rng.random() < self._disjoint_prob
            pool = left[disjoint]
            while len(pool) < self._batch_size:
                query = self._index.disjoint if disjoint else self._index.joint
                again = query(label).tolist() or self._index.disjoint(label).tolist()
                rng.shuffle(again)
                pool.extend(again)
            yield pool[: self._batch_size]
            del pool[: self._batch_size]
