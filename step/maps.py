"""Steps that make maps, each one class that says what they depend on and makes those of an image.

`step/make_cam.py` is the shortest.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from misc.cams import merge_scales, save_cam
from misc.cli.options import Options
from misc.data.datasets import image_of, multi_scale_pairs
from misc.data.label_file import labelled_keys, load_labels
from misc.errors import UserError
from misc.rib import Maps
from misc.storage.manifest import Sources
from misc.storage.outputs import Output
from net.backbones import fold_norms
from net.checkpoint import load_classifier
from step.base import FolderStep

SHOWN_ITERATIONS = (1, 5, 10)  # that --visualize draws, as far as an image gets there


class MapMethod(FolderStep):
    """Makes the maps of one image after the other; a subclass overrides `maps`."""

    flag, suffix = "--cam_out_dir", ".npy"
    common = ("dataset", "cam_scales", "max_long", "precision")
    lists, reads = ("infer", "labels"), ("classifier",)
    trains = False  # its maps come from weights that change
    iterations = ""  # the option of their number, of maps that grow
    advice = "give another classifier, or --precision float32"  # where maps are not finite
    memory_options = ("--max_long", "--num_processes")

    def __init__(self, args: Options):
        super().__init__(args)
        ids = self.ids(args)
        self.labels = load_labels(args.cls_labels, ids, args.info)
        self.shown = frozenset(ids[: args.visualize] if self.iterations else ())

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        model = load_classifier(self.args.cam_weights_name, self.args.info.num_classes)
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.device, self.model = device, model.to(device, memory_format=layout)
        if not self.trains:
            fold_norms(self.model.requires_grad_(False))
        self.model.bf16 = self.args.precision == "bf16"

    def maps(self, image_id: str, pairs: list[Tensor], label: Tensor) -> Iterator[Maps]:
        """Yield the maps so far, C x h x w for each scale, after every iteration; the last count.

        pairs: the image and its mirror image at each of --cam_scales, 2 x 3 x h x w. label:
        multi-hot C, not all zero.
        """
        raise NotImplementedError

    def states(self, image_id: str) -> Iterator[Maps]:
        """`maps` of an image from its files; zeros of one without classes."""
        label = torch.from_numpy(self.labels[image_id])
        if not label.any():
            return iter([[torch.zeros(len(label), 1, 1)]])
        image = image_of(self.args.info, image_id)
        pairs = multi_scale_pairs(image, self.args.cam_scales, self.args.max_long, self.device)
        return self.maps(image_id, pairs, label.to(self.device))

    def outputs(self, image_id: str) -> list[Path]:
        return [*super().outputs(image_id), *self._shown(image_id).values()]

    def _shown(self, image_id: str) -> dict[int, Path]:
        last = getattr(self.args, self.iterations) if image_id in self.shown else 0
        shown = [k for k in SHOWN_ITERATIONS if k <= last]
        return {k: shown_path(self.args, self.name, image_id, k) for k in shown}

    def one(self, image_id: str) -> None:
        shown, kept = self._shown(image_id), {}
        for k, maps in enumerate(self.states(image_id), start=1):
            kept = {n: kept[n] for n in kept if n in shown} | {k: maps}
        last = max(kept)  # it may have ended before an iteration that is shown
        for k, path in shown.items():
            self._save(image_id, path, kept[min(k, last)])
        self._save(image_id, self.outputs(image_id)[0], kept[last])

    def _save(self, image_id: str, path: Path, maps: Maps) -> None:
        if not all(of_scale.isfinite().all() for of_scale in maps):
            raise UserError(f"image {image_id}: its maps are not finite; {self.advice}")
        keys = torch.from_numpy(self.labels[image_id]).nonzero()[:, 0]
        size = self.args.info.image_size(image_id)
        merged = merge_scales(maps, size, keys.to(maps[0].device))
        save_cam(path, keys.numpy(), *(part.float().cpu().numpy() for part in merged))

    @classmethod
    def sources(cls, args: Options) -> Sources:
        return Sources(labelled_keys(args, cls.ids(args)))

    @classmethod
    def writes(cls, args: Options) -> tuple[Output, ...]:
        if not (args.visualize and cls.iterations):
            return super().writes(args)
        shown = Output("--result_dir", shown_path(args, cls.name, "", 0).parent)
        return (*super().writes(args), shown)


def shown_path(args: Options, step: str, image_id: str, iteration: int) -> Path:
    """Maps after some iterations, kept for the images that --visualize draws."""
    name = f"{image_id}_{iteration}.npy"
    return args.result_dir / "visualize" / "iterations" / step / name
