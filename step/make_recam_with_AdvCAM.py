"""AdvCAM maps: every image is manipulated towards its classes, its maps on the way are summed."""

from collections.abc import Iterator

import torch
from torch import Tensor

from misc.advcam import AdvCAMSettings, advcam
from misc.cli.options import Options
from misc.rib import Maps
from misc.storage.outputs import Output
from step.maps import MapMethod


class MakeAdvCAM(MapMethod):
    """AdvCAM on one image: see `misc.advcam.advcam`."""

    name = "make_recam_with_AdvCAM"
    options = ("adv_iter", "AD_coeff", "AD_stepsize", "AD_score_th")
    images_worth_a_process, iterations = 1, "adv_iter"

    @classmethod
    def folders(cls, args: Options) -> list[tuple[Output, dict]]:
        flag = "--cam_out_dir" if args.recam == "advcam" else "--result_dir"
        return [(Output(flag, args.adv_cam_out_dir, suffix=".npy"), cls.settings(args))]

    def scores(self, pair: Tensor) -> Tensor:
        """2 x 3 x H x W -> raw scores 2 x C x h x w, differentiable down to the image."""
        with self.model.autocast():
            features = self.model.backbone(pair.contiguous(memory_format=torch.channels_last))[-1]
        return self.model.classifier(features.float())

    def maps(self, image_id: str, pairs: list[Tensor], label: Tensor) -> Iterator[Maps]:
        args, weights = self.args, self.model.classifier.weight
        numbers = AdvCAMSettings(args.adv_iter, args.AD_coeff, args.AD_stepsize, args.AD_score_th,
                                 args.cam_scales)  # fmt: skip
        return advcam(self.scores, weights, pairs, label, numbers)


LISTS, settings, writes, check, run = MakeAdvCAM.as_step()
