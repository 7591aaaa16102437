"""Pseudo masks: maps spread by a random walk that boundaries stop (IRN, Sec. 5)."""

from functools import partial
from pathlib import Path

import torch

from misc.cams import load_cam
from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.data.datasets import image_of
from misc.indexing import WalkSettings
from misc.labels import of_type, save_label_png, save_palette_png
from misc.runtime.image_task import ImageTask, prepare_output, run_over_images
from misc.storage.manifest import file_hash, folder_hash
from misc.storage.outputs import Output
from net.checkpoint import load_boundary_net
from net.inference import pseudo_mask
from step.cam_to_ir_label import sources

LISTS = ("infer",)


def folder(args: Options) -> Output:
    """Where the pseudo masks go; coloured ones go to `palette/` in it."""
    return Output("--sem_seg_out_dir", args.sem_seg_out_dir, suffix=".png")


def palette(args: Options) -> Output:
    """Where the coloured ones go."""
    return Output("--sem_seg_out_dir", args.sem_seg_out_dir / "palette", suffix=".png")


def settings(args: Options) -> dict:
    """The options that the pseudo masks depend on."""
    names = (
        "beta", "exp_times", "walk_radius", "seed_power", "sem_seg_bg_thres", "walk_norm",
        "irn_pad_size",
    )  # fmt: skip
    return {"step": "make_sem_seg_labels", "version": 3, **args.settings(*names)}


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    place = Output("--sem_seg_out_dir", args.sem_seg_out_dir)
    return place, Output(place.flag, place.path / "palette")


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    for out_dir in (folder(args), palette(args)):
        preflight.output(out_dir, settings(args))
    preflight.boundary_net(args.irn_weights_name)
    preflight.images(args.image_ids("infer"))
    preflight.cams(args.image_ids("infer"), args.cam_out_dir)


class MakePseudoMask(ImageTask):
    """Pseudo mask of one image."""

    name = "make_sem_seg_labels"

    def __init__(self, args: Options):
        self.args, self.settings = args, walk_settings(args)

    def outputs(self, image_id: str) -> list[Path]:
        out_dir = self.args.sem_seg_out_dir
        return [out_dir / f"{image_id}.png", out_dir / "palette" / f"{image_id}.png"]

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        self.model = load_boundary_net(self.args.irn_weights_name).to(device).eval()

    def one(self, image_id: str) -> None:
        image = image_of(self.args.info, image_id)
        maps = load_cam(self.args.cam_out_dir / f"{image_id}.npy")
        mask = pseudo_mask(self.model, image, maps, self.settings, self.args.irn_pad_size)
        mask = of_type(mask, self.args.info.num_labels)
        label_path, palette_path = self.outputs(image_id)
        save_palette_png(palette_path, mask)
        save_label_png(label_path, mask)


def walk_settings(args: Options) -> WalkSettings:
    """Numbers of the random walk and of its masks from the options."""
    return WalkSettings(
        radius=args.walk_radius,
        beta=args.beta,
        exp_times=args.exp_times,
        seed_power=args.seed_power,
        background=args.sem_seg_bg_thres,
        norm=args.walk_norm,
    )


def run(args: Options) -> None:
    """Make and save the pseudo mask of every image of the inference list."""
    inputs = {"maps": folder_hash(args.cam_out_dir), "IRN": file_hash(args.irn_weights_name)}
    for out_dir in (folder(args), palette(args)):
        prepare_output(out_dir, settings(args), inputs, args.overwrite, partial(sources, args))
    run_over_images(MakePseudoMask(args), args.image_ids("infer"), args.resources)
