"""Train the image classifier whose maps everything starts from (paper, implementation details)."""

import logging

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from misc import imutils
from misc.cli.options import Options
from misc.data.datasets import ClassificationDataset, image_of, normalized
from misc.data.label_file import labelled_keys, load_labels
from misc.metrics import average_precision
from misc.runtime import distributed
from net.checkpoint import on_backbone
from net.resnet50_cam import Net
from step.base import TrainStep

log = logging.getLogger(__name__)


class TrainCAM(TrainStep):
    """The classifier, from ImageNet weights on photographs with image-level labels."""

    name, network, flag, version = "train_cam", "cam", "--cam_weights_name", 3
    lists, reads = ("train", "labels"), ("imagenet weights",)
    options = ("dataset", "cam_crop_size", "cam_long", "cam_batch_size", "cam_num_epoches",
               "cam_learning_rate", "cam_weight_decay", "seed")  # fmt: skip

    def __init__(self, args: Options, device: torch.device):
        super().__init__(args, device)
        self.model = on_backbone(Net, args.imagenet_weights, args.info.num_classes).to(device)
        labels = load_labels(args.cls_labels, self.ids(args), args.info)
        crops = args.cam_long, args.cam_crop_size, args.seed
        self.dataset = ClassificationDataset(args.info, labels, *crops)

    @classmethod
    def keys(cls, args: Options) -> dict[str, str]:
        return labelled_keys(args, cls.ids(args))

    def losses(self, network: nn.Module, images: Tensor, labels: Tensor, part: float) -> dict:
        scores = network(normalized(images, self.device))
        return {"total": part * F.multilabel_soft_margin_loss(scores, labels)}

    @classmethod
    def run(cls, args: Options) -> None:
        model, validation = super().run(args), args.validation_ids()
        if model is not None and validation and distributed.rank() == 0:
            say_precision(args, model, validation)


@torch.no_grad()
def say_precision(args: Options, model: Net, image_ids: tuple[str, ...]) -> np.ndarray:
    """Log and return the average precision of each class, (C,), on images of no training."""
    labels = load_labels(args.cls_labels, image_ids, args.info).rows.toarray()
    device, longer = next(model.parameters()).device, sum(args.cam_long) // 2
    model.eval()
    scores = []
    for image_id in image_ids:
        image = imutils.random_resize_long(image_of(args.info, image_id), longer, longer)
        pixels = normalized(torch.tensor(image)[None], device)
        scores.append(model(pixels)[0].float().cpu().numpy())
    found = average_precision(np.stack(scores), labels)  # nan of a class that no image shows
    if np.isfinite(found).any():
        log.info("classifier on %d images of the validation split: mean average precision %.1f %%; "
                 "lowest: %s %.1f", len(image_ids), 100 * np.nanmean(found),
                 args.info.class_names[np.nanargmin(found)], 100 * np.nanmin(found))  # fmt: skip
    return found


LISTS, settings, writes, check, run = TrainCAM.as_step()
