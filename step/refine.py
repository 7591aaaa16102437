"""The driver of all map refiners: what makes better maps of one image, image by image.

A refiner is one subclass of `Refiner` in a step module of its own: what it is called, what its maps
depend on, how it makes them. Files, resuming, pictures and checks are the same for all.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import torch

from misc.cams import merge_scales, save_cam
from misc.cli.options import Options
from misc.cli.preflight import Preflight
from misc.data.datasets import image_of, load_labels, multi_scale_pairs
from misc.data.image_keys import labelled_keys
from misc.data.label_rows import LabelsById
from misc.errors import UserError
from misc.rib import Maps
from misc.runtime.image_task import ImageTask, claim, run_over_images
from misc.runtime.memory import about_image
from misc.storage.files import remove_leftovers
from misc.storage.manifest import OutputFolder, Sources, file_digest
from misc.storage.outputs import Output

# Iterations that --visualize draws (as far as an image gets there).
SHOWN_ITERATIONS = (1, 5, 10)

_MAP_OPTIONS = ("dataset", "cam_scales", "max_long", "precision")


class Refiner(ImageTask):
    """Makes the maps of one image after the other; must be picklable until `start` was called.

    A subclass sets `name` (its step), `version` (raised when the same options give other maps),
    `options` (names of those that its maps depend on, beside the common ones), `recorded` (further
    entries of the manifest), `flag` (the option of the folder that it fills) and
    `images_worth_a_process`, and overrides `start` and `maps`.
    """

    version = 1
    options: tuple[str, ...] = ()
    recorded: ClassVar[dict] = {}
    flag = "--cam_out_dir"
    lists = ("infer", "labels")
    advice = "give another classifier, or --precision float32"  # where maps are not finite

    def __init__(self, args: Options):
        image_ids = args.image_ids("infer")
        self.args = args
        labels = load_labels(args.cls_labels, image_ids, args.info)
        self.labels = LabelsById(image_ids, labels)
        self.shown = frozenset(image_ids[: args.visualize])

    @classmethod
    def place(cls, args: Options) -> tuple[str, Path]:
        """The folder of the maps, behind the option that names it."""
        return cls.flag, getattr(args, cls.flag.removeprefix("--"))

    @classmethod
    def iterations(cls, args: Options) -> int:
        """After how many iterations the maps of an image are complete at the latest."""
        return 0

    @classmethod
    def depends_on(cls, args: Options) -> tuple[str, ...]:
        """Names of the options that the maps depend on, beside the common ones."""
        return cls.options

    @classmethod
    def drawn_from(cls, args: Options) -> tuple[str, ...]:
        """Other images that the maps of every image are made with."""
        return ()

    @classmethod
    def check(cls, args: Options, preflight: Preflight) -> None:
        """Further checks before a run."""

    def maps(self, image_id: str, pairs: list[torch.Tensor]) -> Iterator[Maps]:
        """The maps so far, C x h x w for each scale, after every iteration; the last are saved.

        pairs: the image and its mirror image at each of --cam_scales, 2 x 3 x h x w, on the
        processor. Called for images with a class alone.
        """
        raise NotImplementedError

    def outputs(self, image_id: str) -> list[Path]:
        return [
            folder(self, self.args).path / f"{image_id}.npy",
            *self._shown(image_id).values(),
        ]

    def _shown(self, image_id: str) -> dict[int, Path]:
        shown = SHOWN_ITERATIONS if image_id in self.shown else ()
        last = self.iterations(self.args)
        return {k: shown_path(self.args, self.name, image_id, k) for k in shown if k <= last}

    def one(self, image_id: str) -> None:
        label = self.labels[image_id]
        image = image_of(self.args.info, image_id)
        save = partial(self._save, image_id, size=image.shape[:2], label=label)
        path, shown = self.outputs(image_id)[0], self._shown(image_id)
        maps: Maps = [torch.zeros(len(label), 1, 1)]
        if label.any():  # an image without classes has no maps: nothing to refine
            pairs = multi_scale_pairs(image, self.args.cam_scales, self.args.max_long)
            with about_image(image_id, self.device):
                for k, maps in enumerate(self.maps(image_id, pairs), start=1):  # noqa: B007
                    if k in shown:
                        save(shown.pop(k), maps)
        for later in shown.values():  # ended before this iteration
            save(later, maps)
        save(path, maps)

    def _save(
        self, image_id: str, path: Path, maps: Maps, size: tuple[int, int], label: np.ndarray
    ) -> None:
        keys = torch.from_numpy(label).nonzero()[:, 0]
        if not all(of_scale.isfinite().all() for of_scale in maps):
            raise UserError(f"image {path.stem}: its maps are not finite; {self.advice}")
        arrays = merge_scales(maps, size, keys.to(maps[0].device))
        save_cam(path, keys.numpy(), *(array.float().cpu().numpy() for array in arrays))


def folder(refiner: type[Refiner] | Refiner, args: Options) -> OutputFolder:
    """Where a refiner's maps go."""
    return OutputFolder(*refiner.place(args), ".npy")


def shown_path(args: Options, step: str, image_id: str, iteration: int) -> Path:
    """Maps after some iterations, kept for the images that --visualize draws."""
    name = f"{image_id}_{iteration}.npy"
    return args.result_dir / "visualize" / "iterations" / step / name


def step_of(refiner: type[Refiner]) -> SimpleNamespace:
    """What a step module of a refiner has: LISTS, settings, writes, check, run."""

    def settings(args: Options) -> dict:
        own = args.settings(*_MAP_OPTIONS, *refiner.depends_on(args))
        return {"step": refiner.name, "version": refiner.version, **refiner.recorded, **own}

    def writes(args: Options) -> tuple[Output, ...]:
        maps = Output(*refiner.place(args))
        kept = args.visualize and refiner.iterations(args)
        shown = shown_path(args, refiner.name, "", 0).parent
        return (maps, Output("--result_dir", shown)) if kept else (maps,)

    def check(args: Options, preflight: Preflight) -> None:
        preflight.output(folder(refiner, args), settings(args))
        preflight.classifier(args.cam_weights_name)
        refiner.check(args, preflight)
        preflight.labels(args.image_ids("infer"))
        preflight.images(args.image_ids("infer"))

    def sources(args: Options) -> Sources:
        keys = labelled_keys(args, args.image_ids("infer"))
        return Sources(keys, refiner.drawn_from(args))

    def begin(args: Options) -> Refiner:
        inputs = {"classifier": file_digest(args.cam_weights_name)}
        claim(folder(refiner, args), settings(args), inputs, args.overwrite, partial(sources, args))
        shown_dir = shown_path(args, refiner.name, "", 0).parent
        if args.visualize and refiner.iterations(args):
            shown_dir.mkdir(parents=True, exist_ok=True)
            remove_leftovers(shown_dir)
        return refiner(args)

    def run(args: Options) -> None:
        run_over_images(begin(args), args.image_ids("infer"), args.resources)

    return SimpleNamespace(
        LISTS=refiner.lists, settings=settings, writes=writes, check=check, run=run
    )
