"""Confident labels for IRN: maps at two thresholds, refined by a dense CRF (IRN, Sec. 4.2)."""

from functools import partial
from pathlib import Path

import numpy as np

from misc.cams import key_labels, label_map, load_cam
from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.crf import refine_label_maps
from misc.data.datasets import image_of
from misc.data.image_keys import keys_in
from misc.labels import ignored_value, of_type, save_label_png
from misc.runtime.image_task import ImageTask, prepare_output, run_over_images
from misc.storage.manifest import Sources, folder_hash
from misc.storage.outputs import Output

LISTS = ("infer",)


def folder(args: Options) -> Output:
    """Where the labels go."""
    return Output("--ir_label_out_dir", args.ir_label_out_dir, suffix=".png")


def settings(args: Options) -> dict:
    """The options that the labels depend on."""
    options = args.settings("conf_fg_thres", "conf_bg_thres")
    return {"step": "cam_to_ir_label", "version": 3, **options}


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return (Output("--ir_label_out_dir", args.ir_label_out_dir),)


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    preflight.output(folder(args), settings(args))
    preflight.images(args.image_ids("infer"))
    preflight.cams(args.image_ids("infer"), args.cam_out_dir)


def confident_labels(
    image: np.ndarray, cams: np.ndarray, keys: np.ndarray, fg_th: float, bg_th: float
) -> np.ndarray:
    """Labels that both thresholds agree on, H x W: 0 background, class + 1, 255 ignored.

    Of classes beyond 8 bits they are uint16, with 65535 for ignored.

    image: H x W x 3 uint8; cams: K x H x W in 0..1; keys: K classes, 0-based.
    """
    if len(keys) == 0:
        return np.zeros(image.shape[:2], dtype=np.uint8)
    local = np.arange(len(keys))
    # 1. confident foreground: where a map exceeds a high background score
    # 2. confident background: where no map exceeds a low one
    label_maps = np.stack([label_map(cams, local, threshold) for threshold in (fg_th, bg_th)])
    foreground, background = refine_label_maps(image, label_maps, n_labels=len(keys) + 1)
    labels = key_labels(keys)[foreground]
    labels[foreground == 0] = ignored_value(labels)
    labels[(foreground == 0) & (background == 0)] = 0
    return labels


class MakeIRLabel(ImageTask):
    """Confident labels of one image."""

    name = "cam_to_ir_label"
    on_gpu = False

    def __init__(self, args: Options):
        self.args = args

    def outputs(self, image_id: str) -> list[Path]:
        return [self.args.ir_label_out_dir / f"{image_id}.png"]

    def one(self, image_id: str) -> None:
        image = image_of(self.args.info, image_id)
        maps = load_cam(self.args.cam_out_dir / f"{image_id}.npy")
        labels = confident_labels(
            image, maps["high_res"], maps["keys"], self.args.conf_fg_thres, self.args.conf_bg_thres
        )
        labels = of_type(labels, self.args.info.num_labels)
        save_label_png(self.outputs(image_id)[0], labels)


def sources(args: Options) -> Sources:
    """What the labels of each image are made from: its photograph and its maps."""
    return Sources(keys_in(args, args.cam_out_dir, ".npy", args.image_ids("infer")))


def run(args: Options) -> None:
    """Make and save the confident labels of every image of the inference list."""
    inputs = {"maps": folder_hash(args.cam_out_dir)}
    prepare_output(folder(args), settings(args), inputs, args.overwrite, partial(sources, args))
    run_over_images(MakeIRLabel(args), args.image_ids("infer"), args.resources)
