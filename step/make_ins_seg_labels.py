"""Instance labels: class maps cut by the displacement field, spread by the random walk (IRN)."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from misc.cams import load_cam
from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.data.datasets import image_of
from misc.instances import Detections, instances
from misc.runtime.image_task import ImageTask, prepare_output, run_over_images
from misc.storage.cam_files import save_dict
from misc.storage.manifest import file_hash, folder_hash
from misc.storage.outputs import Output
from net.checkpoint import load_boundary_net
from net.inference import boundaries
from step.cam_to_ir_label import sources

LISTS = ("infer",)


def folder(args: Options) -> Output:
    """Where the instance labels go."""
    return Output("--ins_seg_out_dir", args.ins_seg_out_dir, suffix=".npy")


def settings(args: Options) -> dict:
    """The options that the labels depend on."""
    names = ("beta", "exp_times", "walk_radius", "ins_seg_bg_thres", "irn_pad_size")
    return {"step": "make_ins_seg_labels", "version": 1, **args.settings(*names)}


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return (Output("--ins_seg_out_dir", args.ins_seg_out_dir),)


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    preflight.output(folder(args), settings(args))
    preflight.boundary_net(args.irn_weights_name)
    preflight.images(args.image_ids("infer"))
    preflight.cams(args.image_ids("infer"), args.cam_out_dir)


class MakeInstances(ImageTask):
    """Instance labels of one image: `score` (N,), `mask` N x H x W, `class` (N,)."""

    name = "make_ins_seg_labels"

    def __init__(self, args: Options):
        self.args = args

    def outputs(self, image_id: str) -> list[Path]:
        return [self.args.ins_seg_out_dir / f"{image_id}.npy"]

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        self.model = load_boundary_net(self.args.irn_weights_name).to(device).eval()

    def one(self, image_id: str) -> None:
        maps = load_cam(self.args.cam_out_dir / f"{image_id}.npy")
        found = self.detect(image_of(self.args.info, image_id), maps)
        content = {"score": found.score, "mask": found.mask, "class": found.classes}
        save_dict(self.outputs(image_id)[0], content)

    def detect(self, image: np.ndarray, maps: dict[str, np.ndarray]) -> Detections:
        """Instances of an image H x W x 3 uint8 with the maps of its classes."""
        args = self.args
        edge, field = boundaries(self.model, image, args.irn_pad_size)
        return instances(
            maps["cam"],
            maps["keys"],
            field.cpu().numpy(),
            edge,
            image.shape[:2],
            args.ins_seg_bg_thres,
            radius=args.walk_radius,
            beta=args.beta,
            exp_times=args.exp_times,
        )


def run(args: Options) -> None:
    """Make and save the instance labels of every image of the inference list."""
    inputs = {"maps": folder_hash(args.cam_out_dir), "IRN": file_hash(args.irn_weights_name)}
    prepare_output(folder(args), settings(args), inputs, args.overwrite, partial(sources, args))
    run_over_images(MakeInstances(args), args.image_ids("infer"), args.resources)
