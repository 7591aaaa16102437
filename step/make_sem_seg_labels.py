"""Pseudo masks: maps spread by a random walk that boundaries stop (IRN, Sec. 5)."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from misc.cams import CAM_STRIDE, label_map, load_cam
from misc.cli.options import Options
from misc.cli.preflight import Preflight
from misc.data.datasets import multi_scale_pairs, read_image
from misc.indexing import propagate_to_edge
from misc.palette import save_label_png, save_palette_png
from misc.runtime.image_task import ImageTask, claim, run_over_images
from misc.storage.manifest import OutputFolder, file_digest, folder_digest
from net.checkpoint import load_boundary_net


def folder(args: Options) -> OutputFolder:
    """Where the pseudo masks go; coloured ones go to `palette/` in it."""
    return OutputFolder("--sem_seg_out_dir", args.sem_seg_out_dir, ".png")


def settings(args: Options) -> dict:
    """The options that the pseudo masks depend on."""
    names = ("beta", "exp_times", "walk_radius", "seed_power", "sem_seg_bg_thres", "irn_pad_size")
    return {"step": "make_sem_seg_labels", **args.settings(*names)}


def writes(args: Options) -> dict[str, Path]:
    """Folders and files that the step writes, by the option that names them."""
    return {
        "--sem_seg_out_dir": args.sem_seg_out_dir,
        "palette/ of --sem_seg_out_dir": args.sem_seg_out_dir / "palette",
    }


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    preflight.output(folder(args), settings(args))
    preflight.boundary_net(args.irn_weights_name)
    preflight.images(args.image_ids("infer"))
    preflight.cams(args.image_ids("infer"), args.cam_out_dir, "make_recam_with_RIB")


class MakePseudoMask(ImageTask):
    """Pseudo mask of one image."""

    name = "make_sem_seg_labels"

    def __init__(self, args: Options):
        self.args = args

    def outputs(self, image_id: str) -> list[Path]:
        out_dir = self.args.sem_seg_out_dir
        return [out_dir / f"{image_id}.png", out_dir / "palette" / f"{image_id}.png"]

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        self.device = device
        self.model = load_boundary_net(self.args.irn_weights_name).to(device).eval()
        self.model.fold_backbone()

    @torch.no_grad()
    def one(self, image_id: str) -> None:
        args = self.args
        image = read_image(args.info.image_path(image_id))
        maps = load_cam(args.cam_out_dir / f"{image_id}.npy")
        mask = np.zeros(image.shape[:2], dtype=np.uint8)
        if len(maps["keys"]):
            cam = torch.from_numpy(maps["cam"]).to(self.device)
            scores = self.propagate(cam, self.boundary(image), image.shape[:2])
            mask = label_map(scores.cpu().numpy(), maps["keys"], args.sem_seg_bg_thres)
        label_path, palette_path = self.outputs(image_id)
        save_palette_png(palette_path, mask)
        save_label_png(label_path, mask)

    def boundary(self, image: np.ndarray) -> torch.Tensor:
        """Boundary map 1 x h4 x w4 in 0..1 of an image H x W x 3 uint8."""
        pad = self.args.irn_pad_size
        # Padding would cut an image that is larger, and its maps would not fit.
        self.model.crop_size = pad if pad >= max(image.shape[:2]) else None
        (pair,) = multi_scale_pairs(image, (1.0,))
        edge, _ = self.model(pair.to(self.device))
        return edge

    def propagate(self, cam: torch.Tensor, edge: torch.Tensor, size: tuple) -> torch.Tensor:
        """Random walk from maps K x h4 x w4 along boundaries; K x H x W, 1 at the joint maximum."""
        args = self.args
        walk = propagate_to_edge(
            cam**args.seed_power,
            edge,
            radius=args.walk_radius,
            beta=args.beta,
            exp_times=args.exp_times,
        )
        return upsample_walk(walk, size)


def upsample_walk(walk: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Walk K x 1 x h4 x w4 to K x H x W: bilinear, cut to size, divided by the joint maximum."""
    full = F.interpolate(walk, scale_factor=CAM_STRIDE, mode="bilinear", align_corners=False)
    full = full[:, 0, : size[0], : size[1]]
    return full / full.max().clamp_min(torch.finfo(full.dtype).tiny)  # maps may be all zero


def run(args: Options) -> None:
    """Make and save the pseudo mask of every image of the inference list."""
    inputs = {"maps": folder_digest(args.cam_out_dir), "IRN": file_digest(args.irn_weights_name)}
    palette = OutputFolder("--sem_seg_out_dir", args.sem_seg_out_dir / "palette", ".png")
    for out_dir in (folder(args), palette):
        claim(out_dir, settings(args), inputs, args.overwrite)
    run_over_images(MakePseudoMask(args), args.image_ids("infer"), args.resources)
