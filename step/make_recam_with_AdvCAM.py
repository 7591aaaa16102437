"""AdvCAM maps: every image climbs towards its classes, the maps on the way are summed."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from misc.advcam import AdvCAMSettings, advcam
from misc.cli.options import Options
from misc.cli.preflight import Preflight
from misc.errors import UserError
from misc.rib import Maps
from misc.runtime.memory import InParts, PixelBudget
from misc.torchutils import weights_in
from net.checkpoint import load_classifier
from net.folded import frozen_copy
from step.refine import Refiner, step_of


class MakeAdvCAM(Refiner):
    """AdvCAM on one image: see `misc.advcam.advcam`."""

    name = "make_recam_with_AdvCAM"
    options = ("adv_iter", "AD_coeff", "AD_stepsize", "AD_score_th")
    images_worth_a_process = 1

    @classmethod
    def place(cls, args: Options) -> tuple[str, Path]:
        chosen = args.recam == "advcam"
        return "--cam_out_dir" if chosen else "--result_dir", args.adv_cam_out_dir

    @classmethod
    def iterations(cls, args: Options) -> int:
        return args.adv_iter

    @classmethod
    def check(cls, args: Options, preflight: Preflight) -> None:
        preflight.collect(lambda: require_range(args))

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        args, self.device = self.args, device
        model = load_classifier(args.cam_weights_name, args.info.num_classes)
        self.model = model.to(device, weights_in(args.precision)).requires_grad_(False)
        self.weight = self.model.classifier.weight
        self.backbone = frozen_copy(self.model.backbone)
        self.bf16 = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")
        self.budget = PixelBudget()

    def scores(self, pair: Tensor) -> Tensor:
        """2 x 3 x H x W -> raw scores 2 x C x h x w, differentiable down to the image."""
        return InParts.apply(pair, self.scores_of_rows, self.budget)

    def scores_of_rows(self, rows: Tensor) -> Tensor:
        """N x 3 x H x W -> N x C x h x w in one pass."""
        with self.bf16:
            features = self.backbone(rows.contiguous(memory_format=torch.channels_last))[-1]
        return self.model.classifier(features.to(self.weight.dtype))

    def maps(self, image_id: str, pairs: list[Tensor]) -> Iterator[Maps]:
        pairs = [pair.to(self.device, self.weight.dtype) for pair in pairs]
        label = torch.from_numpy(self.labels[image_id])
        return advcam(self.scores, self.weight, pairs, label, advcam_settings(self.args))


def require_range(args: Options) -> None:
    """Raise UserError for a precision whose overflows nobody would see here."""
    if args.precision == "fp16":
        raise UserError("--precision fp16: is not for AdvCAM; give --precision bf16 or tf32")


def advcam_settings(args: Options) -> AdvCAMSettings:
    """AdvCAM's numbers from the options."""
    return AdvCAMSettings(
        args.adv_iter, args.AD_coeff, args.AD_stepsize, args.AD_score_th, args.cam_scales
    )


_step = step_of(MakeAdvCAM)
LISTS, settings, writes, check, run = (
    _step.LISTS, _step.settings, _step.writes, _step.check, _step.run,
)  # fmt: skip
