"""Train the image classifier whose maps everything starts from (paper, implementation details)."""

import logging

import numpy as np
import torch
from torch.nn import functional as F

from misc import imutils
from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.data.datasets import ClassificationDataset, image_of, normalized
from misc.data.image_keys import labelled_keys
from misc.data.label_file import load_labels
from misc.metrics import average_precision
from misc.runtime import distributed
from misc.runtime.devices import main_device, read_ahead_workers
from misc.runtime.training import (
    Training,
    check_batch,
    is_trained,
    save_trained,
    state_of,
    train,
)
from misc.storage.manifest import IMAGES, settings_of, weights_hash
from misc.storage.outputs import Output
from misc.torchutils import PolyOptimizer, parameter_groups
from net.checkpoint import on_backbone, save_checkpoint
from net.resnet50_cam import Net

log = logging.getLogger(__name__)

LISTS = ("train", "labels")

_SHOWN = 5  # classes that the log names


def target(args: Options) -> Output:
    """The checkpoint to write."""
    return Output("--cam_weights_name", args.cam_weights_name, is_file=True)


def settings(args: Options) -> dict:
    """The options that the classifier depends on."""
    names = (
        "dataset", "cam_crop_size", "cam_long", "cam_batch_size", "cam_num_epoches",
        "cam_learning_rate", "cam_weight_decay", "seed",
    )  # fmt: skip
    return {"step": "train_cam", "version": 3, **args.settings(*names)}


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return target(args), state_of(target(args))


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first batch."""
    preflight.output_file(target(args), settings(args))
    images = len(args.image_ids("train"))
    preflight.collect(lambda: check_batch("--cam_batch_size", args.cam_batch_size, images))
    preflight.backbone(args.imagenet_weights)
    preflight.labels(args.image_ids("train"))
    preflight.images(args.image_ids("train"))


def run(args: Options) -> None:
    """Train from ImageNet weights and save the checkpoint."""
    image_ids = args.image_ids("train")
    inputs = {"imagenet weights": weights_hash(args.imagenet_weights)}
    images = distributed.on_first_rank(lambda: labelled_keys(args, image_ids))
    noted = {**settings_of(settings(args), inputs), IMAGES: images}
    readers = read_ahead_workers(args.resources)
    training = Training(
        **args.training("cam"), file=target(args), settings=noted, num_workers=readers
    )
    if is_trained(training):
        return
    torch.manual_seed(args.seed)
    device = main_device(args.resources)
    model = on_backbone(Net, args.imagenet_weights, args.info.num_classes)
    model.to(device).train()
    labels = load_labels(args.cls_labels, image_ids, args.info)
    dataset = ClassificationDataset(
        args.info, labels, args.cam_long, args.cam_crop_size, args.seed
    )  # fmt: skip

    def losses_of(network, batch: list[torch.Tensor], part: float) -> dict[str, torch.Tensor]:
        images, present = normalized(batch[0], device), batch[1].to(device, non_blocking=True)
        return {"total": part * F.multilabel_soft_margin_loss(network(images), present)}

    rate, decay = args.cam_learning_rate, args.cam_weight_decay
    groups = parameter_groups(*model.trainable_parameters(), rate, decay)
    optimizer = PolyOptimizer(groups, rate, decay, training.steps(len(dataset))[1])
    train(training, model, optimizer, dataset, losses_of)
    save_trained(training, model, save_checkpoint)
    held_out = args.held_out_ids()
    if held_out and distributed.rank() == 0:
        say_precision(args, model, held_out)


@torch.no_grad()
def say_precision(args: Options, model: Net, image_ids: tuple[str, ...]) -> np.ndarray:
    """Log how well the classifier tells the classes on images that it was not trained on.

    Returns the average precision of each class, (C,), nan where none of the images shows it.
    """
    labels = load_labels(args.cls_labels, image_ids, args.info).rows.toarray()
    device, longer = next(model.parameters()).device, sum(args.cam_long) // 2
    model.eval()
    scores = []
    for image_id in image_ids:
        image = imutils.random_resize_long(image_of(args.info, image_id), longer, longer)
        tensor = torch.from_numpy(imutils.HWC_to_CHW(imutils.normalize(image)))
        scores.append(model(tensor[None].to(device))[0].float().cpu().numpy())
    found = average_precision(np.stack(scores), labels)
    known = {n: ap for n, ap in zip(args.info.class_names, found, strict=True) if np.isfinite(ap)}
    if known:
        worst = sorted(known, key=known.get)[:_SHOWN]
        log.info(
            "classifier on %d images held out: mean average precision %.1f %%; lowest: %s",
            len(image_ids), 100 * np.mean(list(known.values())),
            ", ".join(f"{name} {100 * known[name]:.1f}" for name in worst),
        )  # fmt: skip
    return found
