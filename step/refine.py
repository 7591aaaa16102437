"""The driver of all map refiners: what makes better maps of one image, image by image.

A refiner is one subclass of `Refiner` in a step module of its own: what it is called, what its maps
depend on, how it makes them. Files, resuming, pictures and checks are the same for all.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from misc.cams import merge_scales, save_cam
from misc.cli.options import Options, chosen_steps
from misc.cli.preflight import Preflight
from misc.data.datasets import (
    ByteViews,
    image_of,
    load_labels,
    multi_scale_pairs,
    multi_scale_views,
)
from misc.data.label_rows import LabelsById
from misc.errors import UserError
from misc.rib import Maps
from misc.runtime.devices import main_device, side_processes
from misc.runtime.image_task import ImageTask, claim, run_over_images
from misc.runtime.memory import about_image
from misc.runtime.overlap import OnItsWay
from misc.storage.manifest import OutputFolder, file_digest
from misc.storage.outputs import Output, State, output_state
from step.cam_to_ir_label import claim_labels
from step.meanwhile import LabelsMeanwhile

# Iterations that --visualize draws (as far as an image gets there).
SHOWN_ITERATIONS = (1, 5, 10)

_MAP_OPTIONS = ("dataset", "cam_scales", "max_long", "precision")


class Refiner(ImageTask):
    """Makes the maps of one image after the other; must be picklable until `start` was called.

    A subclass sets `name` (its step), `version` (raised when the same options give other maps),
    `options` (names of those that its maps depend on, beside the common ones), `flag` (the option
    of the folder that it fills) and `images_worth_a_process`, and overrides `start` and `maps`.
    """

    version = 1
    options: tuple[str, ...] = ()
    flag = "--cam_out_dir"
    lists = ("infer",)
    advice = "give another classifier, or --precision float32"  # where maps are not finite
    labels_meanwhile: LabelsMeanwhile | None = None  # of the maps, where their step is next
    same_after_first: ImageTask | None = None  # whose maps are these after the first iteration

    def __init__(self, args: Options):
        image_ids = args.image_ids("infer")
        self.args = args
        labels = load_labels(args.cls_labels, image_ids, args.info)
        self.labels = LabelsById(image_ids, labels)
        self.shown = frozenset(image_ids[: args.visualize])

    @classmethod
    def iterations(cls, args: Options) -> int:
        """After how many iterations the maps of an image are complete at the latest."""
        return 0

    @classmethod
    def depends_on(cls, args: Options) -> tuple[str, ...]:
        """Names of the options that the maps depend on, beside the common ones."""
        return cls.options

    @classmethod
    def inputs(cls, args: Options) -> dict[str, str]:
        """Digests of what the maps are made from, beside classifier and labels."""
        return {}

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

    def read(self, image_id: str) -> tuple[np.ndarray, list[torch.Tensor] | ByteViews | None]:
        """The photograph, and what its maps are made from; None without a class.

        Read ahead it goes to the device as bytes, which are mirrored and normalised there.
        """
        args, image = self.args, image_of(self.args.info, image_id)
        if not self.labels[image_id].any():
            return image, None
        if self.overlap.threads:
            views = multi_scale_views(image, args.cam_scales, args.max_long)
            return image, ByteViews.of(views, self.device)
        return image, multi_scale_pairs(image, args.cam_scales, args.max_long)

    def one(self, image_id: str) -> None:
        label = self.labels[image_id]
        image, pairs = self.overlap.read(self.read, image_id)
        if isinstance(pairs, ByteViews):
            pairs = pairs.to(self.device)
        save = partial(self._save, image_id, size=image.shape[:2], label=label)
        path, shown = self.outputs(image_id)[0], self._shown(image_id)
        maps: Maps = [torch.zeros(len(label), 1, 1)]
        if pairs:  # an image without classes has no maps: nothing to refine
            with about_image(image_id, self.device):
                for k, maps in enumerate(self.maps(image_id, pairs), start=1):  # noqa: B007
                    if k == 1:
                        self._save_first(image_id, maps, save)
                    if k in shown:
                        save(shown.pop(k), maps)
        else:
            self._save_first(image_id, maps, save)
        for later in shown.values():  # ended before this iteration
            save(later, maps)
        save(path, maps)
        if self.labels_meanwhile:  # after the maps: by the one that writes them
            self.overlap.write(image_id, self.labels_meanwhile.make, image_id)

    def _save_first(self, image_id: str, maps: Maps, save: Callable) -> None:
        """Save the other task's maps of an image, unless they are there."""
        if self.same_after_first:
            (path,) = self.same_after_first.outputs(image_id)
            if output_state(path) in (State.MISSING, State.DAMAGED):
                save(path, maps)

    def finish(self) -> None:
        if self.labels_meanwhile:
            self.labels_meanwhile.close()

    def _save(
        self, image_id: str, path: Path, maps: Maps, size: tuple[int, int], label: np.ndarray
    ) -> None:
        """Merge and save maps; nothing here waits for the device or for the disk beside a GPU."""
        keys = torch.from_numpy(label).nonzero()[:, 0]
        finite = torch.stack([of_scale.isfinite().all() for of_scale in maps]).all()
        cam, high_res = merge_scales(maps, size, keys.to(maps[0].device))
        arrays = OnItsWay([finite, cam.float(), high_res.float()])
        self.overlap.write(image_id, self._write, path, keys, arrays)

    def _write(self, path: Path, keys: torch.Tensor, arrays: OnItsWay) -> None:
        finite, cam, high_res = (tensor.numpy() for tensor in arrays.arrived())
        if not finite:
            raise UserError(f"image {path.stem}: its maps are not finite; {self.advice}")
        save_cam(path, keys.numpy(), cam, high_res)


def folder(refiner: type[Refiner] | Refiner, args: Options) -> OutputFolder:
    """Where a refiner's maps go."""
    return OutputFolder(refiner.flag, getattr(args, refiner.flag.removeprefix("--")), ".npy")


def labels_follow(refiner: type[Refiner], args: Options) -> bool:
    """Whether this run goes on to make IR labels from this refiner's maps."""
    own = folder(refiner, args).path == args.cam_out_dir
    return own and "cam_to_ir_label" in chosen_steps(args)


def shown_path(args: Options, step: str, image_id: str, iteration: int) -> Path:
    """Maps after some iterations, kept for the images that --visualize draws."""
    name = f"{image_id}_{iteration}.npy"
    return args.result_dir / "visualize" / "iterations" / step / name


def step_of(refiner: type[Refiner]) -> SimpleNamespace:
    """What a step module of a refiner has: LISTS, settings, writes, check, run.

    begin: what `run` does before the first image; returns its task.
    """

    def settings(args: Options) -> dict:
        own = args.settings(*_MAP_OPTIONS, *refiner.depends_on(args))
        return {"step": refiner.name, "version": refiner.version, **own}

    def writes(args: Options) -> tuple[Output, ...]:
        maps = Output(refiner.flag, folder(refiner, args).path)
        kept = args.visualize and refiner.iterations(args)
        shown = shown_path(args, refiner.name, "", 0).parent
        return (maps, Output("--result_dir", shown)) if kept else (maps,)

    def check(args: Options, preflight: Preflight) -> None:
        preflight.output(folder(refiner, args), settings(args))
        preflight.classifier(args.cam_weights_name)
        refiner.check(args, preflight)
        preflight.labels(args.image_ids("infer"))
        preflight.images(args.image_ids("infer"))

    def begin(args: Options) -> Refiner:
        inputs: Mapping[str, str] = {
            "classifier": file_digest(args.cam_weights_name),
            "labels": file_digest(args.cls_labels),
            **refiner.inputs(args),
        }
        claim(folder(refiner, args), settings(args), inputs, args.overwrite)
        shown_dir = shown_path(args, refiner.name, "", 0).parent
        if args.visualize and refiner.iterations(args):
            shown_dir.mkdir(parents=True, exist_ok=True)
        task = refiner(args)
        side = side_processes(args.resources, main_device(args.resources))
        if side and labels_follow(refiner, args):
            claim_labels(args)
            task.labels_meanwhile = LabelsMeanwhile(args, side)
        return task

    def run(args: Options) -> None:
        run_over_images(begin(args), args.image_ids("infer"), args.resources)

    return SimpleNamespace(
        LISTS=refiner.lists, settings=settings, writes=writes, check=check, begin=begin, run=run
    )
