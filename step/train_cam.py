"""Train the image classifier whose maps everything starts from (paper, implementation details)."""

import torch
from torch.nn import functional as F

from misc.datasets import ClassificationDataset, load_labels
from misc.manifest import file_digest, ids_digest, weights_digest
from misc.options import Options
from misc.parallel import main_device, read_ahead_workers
from misc.preflight import Preflight
from misc.torchutils import parameter_groups
from misc.training import CheckpointFile, Schedule, check_target, is_trained, train
from net.checkpoint import on_backbone, save_checkpoint
from net.resnet50_cam import Net


def target(args: Options) -> CheckpointFile:
    """The checkpoint to write."""
    return CheckpointFile("--cam_weights_name", args.cam_weights_name)


def settings(args: Options) -> dict:
    """The options that the classifier depends on."""
    names = (
        "dataset",
        "cam_crop_size",
        "cam_long",
        "cam_batch_size",
        "cam_num_epoches",
        "cam_learning_rate",
        "cam_weight_decay",
        "seed",
    )
    return {"step": "train_cam", **args.settings(*names)}


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first batch."""
    check_target(target(args), settings(args), args.overwrite)
    preflight.backbone(args.imagenet_weights)
    preflight.labels(args.image_ids("train"))
    preflight.images(args.image_ids("train"))


def run(args: Options) -> None:
    """Train from ImageNet weights and save the checkpoint."""
    image_ids = args.image_ids("train")
    inputs = {
        "imagenet weights": weights_digest(args.imagenet_weights),
        "labels": file_digest(args.cls_labels),
        "train list": ids_digest(image_ids),
    }
    noted = {**settings(args), "inputs": inputs}
    if is_trained(target(args), noted, args.overwrite):
        return
    torch.manual_seed(args.seed)
    device = main_device(args)
    model = on_backbone(Net, args.imagenet_weights, args.info.num_classes)
    model.to(device).train()
    labels = load_labels(args.cls_labels, image_ids, args.info)
    dataset = ClassificationDataset(
        args.info, image_ids, labels, args.cam_long, args.cam_crop_size, args.seed
    )
    schedule = Schedule(
        "train_cam", args.cam_num_epoches, args.cam_batch_size, args.seed, read_ahead_workers(args)
    )

    def losses_of(batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        images, present = (tensor.to(device, non_blocking=True) for tensor in batch)
        return {"total": F.multilabel_soft_margin_loss(model(images), present)}

    groups = parameter_groups(
        *model.trainable_parameters(), args.cam_learning_rate, args.cam_weight_decay
    )
    train(dataset, schedule, groups, losses_of)
    save_checkpoint(args.cam_weights_name, model, settings=noted)
