"""Plain class activation maps of the classifier: the baseline of RIB's maps."""

import functools
from pathlib import Path

import numpy as np
import torch

from misc.cams import merge_scales, pair_map, save_cam
from misc.cli.options import Options
from misc.cli.preflight import Preflight
from misc.data.datasets import load_labels, multi_scale_pairs, read_image
from misc.errors import UserError
from misc.runtime.image_task import ImageTask, claim, run_over_images
from misc.runtime.memory import PixelBudget, about_image
from misc.storage.manifest import OutputFolder, file_digest
from net.checkpoint import load_classifier
from net.folded import FoldedCAM


def folder(args: Options) -> OutputFolder:
    """Where the maps go."""
    return OutputFolder("--plain_cam_out_dir", args.plain_cam_out_dir, ".npy")


def settings(args: Options) -> dict:
    """The options that the maps depend on."""
    names = ("dataset", "cam_scales", "max_long", "precision", "compile")
    return {"step": "make_cam", **args.settings(*names)}


def writes(args: Options) -> dict[str, Path]:
    """Folders and files that the step writes, by the option that names them."""
    return {"--plain_cam_out_dir": args.plain_cam_out_dir}


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    preflight.output(folder(args), settings(args))
    preflight.classifier(args.cam_weights_name)
    preflight.labels(args.image_ids("infer"))
    preflight.images(args.image_ids("infer"))


class MakeCAM(ImageTask):
    """Maps of one image: those of all scales and mirror images, summed and normalised."""

    name = "make_cam"

    def __init__(self, args: Options, image_ids: tuple[str, ...]):
        self.args = args
        labels = load_labels(args.cls_labels, image_ids, args.info)
        self.labels = dict(zip(image_ids, labels, strict=True))

    def outputs(self, image_id: str) -> list[Path]:
        return [self.args.plain_cam_out_dir / f"{image_id}.npy"]

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        self.device = device
        model = load_classifier(self.args.cam_weights_name, self.args.info.num_classes)
        self.network = FoldedCAM(model.to(device), self.args.precision, self.args.compile)
        self.budget = PixelBudget()

    @torch.no_grad()
    def one(self, image_id: str) -> None:
        image = read_image(self.args.info.image_path(image_id))
        pairs = multi_scale_pairs(image, self.args.cam_scales, self.args.max_long)
        with about_image(image_id, self.device):
            maps = [self.budget.fitted(functools.partial(self._map, pair)) for pair in pairs]
        label, advice = self.labels[image_id], "give another classifier, or --precision float32"
        save_merged(self.outputs(image_id)[0], maps, image.shape[:2], label, advice)

    def _map(self, pair: torch.Tensor) -> torch.Tensor:
        """The image and its mirror image, 2 x 3 x h x w -> C x h/16 x w/16."""
        pair = pair.to(self.device)
        parts = self.budget.parts(len(pair), tuple(pair.shape[-2:]))
        return pair_map(torch.cat([self.network(pair[part]) for part in parts]))


def save_merged(
    path: Path, maps: list[torch.Tensor], size: tuple[int, int], label: np.ndarray, advice: str
) -> None:
    """Merge the maps of all scales (C x h x w each) of an image and save those of its classes.

    size: (height, width) of the image; label: its multi-hot vector (C,). Raises UserError, with
    this advice, where the maps are not finite.
    """
    keys = torch.from_numpy(label).nonzero()[:, 0]
    if not all(of_scale.isfinite().all() for of_scale in maps):
        raise UserError(f"image {path.stem}: its maps are not finite; {advice}")
    cam, high_res = merge_scales(maps, size, keys.to(maps[0].device))
    save_cam(path, keys.numpy(), cam.cpu().numpy(), high_res.cpu().numpy())


def run(args: Options) -> None:
    """Make and save the maps of every image of the inference list."""
    image_ids = args.image_ids("infer")
    inputs = {
        "classifier": file_digest(args.cam_weights_name),
        "labels": file_digest(args.cls_labels),
    }
    claim(folder(args), settings(args), inputs, args.overwrite)
    run_over_images(MakeCAM(args, image_ids), image_ids, args.resources)
