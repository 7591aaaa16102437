"""Train the segmentation network on pseudo masks (DeepLab-v2; RIB, Sec. 4)."""

import logging
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from misc.cli.options import Options, as_plain
from misc.data.dataset_info import keys_in
from misc.data.segmentation import SegCrop, SegmentationDataset
from misc.seg_loss import scale_losses, stepwise_poly
from net.checkpoint import segmentation_on
from net.deeplab_v2 import COLOURS, network_input
from step.base import TrainStep

log = logging.getLogger(__name__)


class TrainSegmentation(TrainStep):
    """DeepLab-v2 with the settings of --seg_preset, on the label maps of --seg_label_dir."""

    name, network, flag = "train_seg", "seg", "--seg_weights_name"
    options, reads = ("dataset", "seg_preset", "precision", "seed"), ("init", "labels")

    def __init__(self, args: Options, device: torch.device):
        super().__init__(args, device)
        self.preset, labels = args.seg_settings, args.info.num_labels
        self.model = segmentation_on(args.seg_init, labels, scale_by=self.preset.scale_by)
        if (name := self.model.arch["name"]) != "resnet101":
            log.warning("--seg_init is a %s; published results are those of resnet101", name)
        self.model.to(device, memory_format=torch.channels_last)
        self.bf16 = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")
        kind = COLOURS[self.model.colours]  # that the network was trained to see
        crop = SegCrop(args.seg_crop_size, kind.mean, self.preset.scales)
        files = {i: args.seg_label_dir / f"{i}.png" for i in self.ids(args)}
        to_input = partial(network_input, colours=kind)
        self.dataset = SegmentationDataset(args.info, files, crop, to_input, kind.bgr, args.seed)

    @classmethod
    def settings(cls, args: Options) -> dict:
        preset = {f"seg_{name}": as_plain(v) for name, v in vars(args.seg_settings).items()}
        return {**super().settings(args), **preset}

    @classmethod
    def keys(cls, args: Options) -> dict[str, str]:
        return keys_in(args, args.seg_label_dir, ".png", cls.ids(args))

    @classmethod
    def length(cls, args: Options) -> dict[str, int]:
        return {"iterations": args.seg_iterations, "accumulate": args.seg_settings.accumulate}

    def losses(self, network: nn.Module, images: Tensor, labels: Tensor, part: float) -> dict:
        with self.bf16:
            outputs = network(images.contiguous(memory_format=torch.channels_last))
        losses = scale_losses([output.float() for output in outputs], labels, self.preset.loss)
        return {"total": sum(losses) / self.preset.accumulate}

    def optimizer(self, steps: int) -> tuple[Optimizer, LRScheduler]:
        preset = self.preset
        groups = self.model.parameter_groups(preset.learning_rate, preset.weight_decay)
        optimizer = torch.optim.SGD(groups, lr=preset.learning_rate, momentum=preset.momentum)
        return optimizer, stepwise_poly(optimizer, preset.iterations)

    @classmethod
    def run(cls, args: Options) -> None:
        preset, changed = args.seg_settings, args.seg_differences()
        said = (args.seg_preset, changed or "nothing", preset.batch_size, preset.accumulate)
        log.info("preset %s, apart from: %s; batch size %d, gradient accumulation %d", *said)
        super().run(args)


LISTS, settings, writes, check, run = TrainSegmentation.as_step()
