"""Pseudo masks: maps spread by a random walk that boundaries stop (IRN, Sec. 5)."""

import torch

from misc.cams import load_cam
from misc.cli.options import Options
from misc.data.datasets import image_of
from misc.indexing import WalkSettings
from misc.labels import of_type, save_label_png, save_palette_png
from net.backbones import fold_norms
from net.checkpoint import load_boundary_net
from net.inference import pseudo_mask
from step.base import FolderStep


class MakePseudoMask(FolderStep):
    """Pseudo mask of one image, and the same in colours."""

    name, flag, version = "make_sem_seg_labels", "--sem_seg_out_dir", 3
    subfolders, reads = (".", "palette"), ("maps", "IRN")
    options = ("beta", "exp_times", "walk_radius", "seed_power", "sem_seg_bg_thres", "walk_norm",
               "irn_pad_size")  # fmt: skip

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        self.model = load_boundary_net(self.args.irn_weights_name).to(device).eval()
        fold_norms(self.model.requires_grad_(False))

    def one(self, image_id: str) -> None:
        args, image = self.args, image_of(self.args.info, image_id)
        maps = load_cam(args.cam_out_dir / f"{image_id}.npy")
        mask = pseudo_mask(self.model, image, maps, walk_settings(args), args.irn_pad_size)
        mask = of_type(mask, args.info.num_labels)
        label_path, palette_path = self.outputs(image_id)
        save_palette_png(palette_path, mask)
        save_label_png(label_path, mask)


def walk_settings(args: Options) -> WalkSettings:
    return WalkSettings(
        radius=args.walk_radius, beta=args.beta, exp_times=args.exp_times, norm=args.walk_norm,
        seed_power=args.seed_power, background=args.sem_seg_bg_thres,
    )  # fmt: skip


LISTS, settings, writes, check, run = MakePseudoMask.as_step()
