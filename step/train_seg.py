"""Train the segmentation network on pseudo masks (DeepLab-v2; RIB, Sec. 4)."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import torch

from misc.cli.options import Options
from misc.cli.preflight import Preflight
from misc.data.datasets import image_of, mask_of
from misc.data.segmentation import SegCrop, SegmentationDataset
from misc.errors import UserError
from misc.metrics import confusion_matrix, mean_iou
from misc.runtime import distributed
from misc.runtime.devices import main_device, read_ahead_workers
from misc.runtime.training import (
    CheckpointFile,
    Training,
    check_batch,
    is_trained,
    save_trained,
    train,
)
from misc.seg_loss import scale_losses, stepwise_poly
from misc.storage.manifest import folder_digest, ids_digest, settings_of, weights_digest
from misc.storage.outputs import Output
from net.checkpoint import read_checkpoint, save_checkpoint, segmentation_on
from net.deeplab_v2 import COLOURS, DeepLabV2, network_input, probabilities

log = logging.getLogger(__name__)

LISTS = ("infer",)
VALIDATED = 100  # images
PUBLISHED_BACKBONE = "resnet101"


def target(args: Options, run: int) -> CheckpointFile:
    """The checkpoint of a run, counted from 0; the first has the name that is given."""
    path = args.seg_weights_name
    named = path.with_name(f"{path.stem}.run{run + 1}{path.suffix}") if run else path
    return CheckpointFile("--seg_weights_name", named)


def best_of(file: CheckpointFile) -> CheckpointFile:
    """Where the best weights of a run are kept beside its last ones."""
    return CheckpointFile(file.flag, file.path.with_stem(f"{file.path.stem}.best"))


def settings(args: Options, run: int = 0) -> dict:
    """The options that the network of a run depends on."""
    names = (
        "dataset", "seg_preset", "seg_batch_size", "seg_accumulate", "seg_iterations",
        "seg_learning_rate", "seg_crop_size", "seg_scales", "seg_loss", "seg_momentum",
        "seg_weight_decay", "seg_scale_by", "precision",
    )  # fmt: skip
    return {"step": "train_seg", "version": 1, "seed": args.seed + run, **args.settings(*names)}


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    files = [target(args, run) for run in range(args.seg_runs)]
    best = [best_of(file) for file in files] if args.seg_val_every else []
    return tuple(output for file in (*files, *best) for output in file.outputs)


def label_files(args: Options) -> dict[str, Path]:
    """Label PNG of every image to train on; --seg_skip_missing leaves out those that have none."""
    files = {i: args.seg_label_dir / f"{i}.png" for i in args.image_ids("infer")}
    if args.seg_skip_missing:
        files = {image_id: path for image_id, path in files.items() if path.is_file()}
    if not files:
        raise UserError(f"--seg_label_dir {args.seg_label_dir}: has no label PNG of --infer_list")
    return files


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first batch."""
    for run in range(args.seg_runs):
        preflight.output_file(target(args, run), settings(args, run))
        if args.seg_val_every:
            preflight.output_file(best_of(target(args, run)), settings(args, run))
    preflight.collect(lambda: require_known_precision(args, "train_seg"))
    preflight.backbone(args.seg_init, "ResNet101", "--seg_init")
    if preflight.is_made(args.seg_label_dir):
        ids = args.image_ids("infer")
    else:
        ids = tuple(label_files(args))
    batch = (args.seg_batch_size, len(ids), args.seg_accumulate)
    preflight.collect(lambda: check_batch("--seg_batch_size", *batch))
    preflight.images((*ids, *validated_ids(args)))
    preflight.masks(validated_ids(args))
    advice = "--seg_skip_missing leaves such images out"
    preflight.label_maps(ids, args.seg_label_dir, advice, trained_on=True)


def require_known_precision(args: Options, step: str) -> None:
    """Raise UserError for a precision of maps alone."""
    if args.precision in ("float64", "fp16"):
        raise UserError(f"--precision {args.precision}: is for maps; leave it out for {step}")


def run(args: Options) -> None:
    """Train one network for each of --seg_runs seeds."""
    changed = args.seg_differences()
    log.info("preset %s, apart from: %s", args.seg_preset, changed or "nothing")
    log.info("a step has %d images in %d passes, on all processes together",
             args.seg_batch_size, args.seg_accumulate)  # fmt: skip
    for number in range(args.seg_runs):
        train_run(args, number)


def training_of(args: Options, number: int, files: dict[str, Path]) -> Training:
    """The training of a run on these label maps."""
    inputs = {
        "init": weights_digest(args.seg_init),
        "labels": folder_digest(args.seg_label_dir),
        "images": ids_digest(tuple(files)),
    }
    return Training(
        name="train_seg",
        file=target(args, number),
        settings=settings_of(settings(args, number), inputs),
        batch_size=args.seg_batch_size,
        seed=args.seed + number,
        num_workers=read_ahead_workers(args.resources),
        iterations=args.seg_iterations,
        accumulate=args.seg_accumulate,
        overwrite=args.overwrite,
    )


def train_run(args: Options, number: int) -> None:
    """Train the network of one seed, unless it is there already."""
    files = label_files(args)
    training = training_of(args, number, files)
    if is_trained(training):
        return
    torch.manual_seed(training.seed)
    device = main_device(args.resources)
    model = segmentation_on(args.seg_init, args.info.num_labels, scale_by=args.seg_scale_by)
    if (name := model.arch["name"]) != PUBLISHED_BACKBONE:
        log.warning(
            "--seg_init is a %s; published results are those of %s", name, PUBLISHED_BACKBONE
        )
    model.to(device, memory_format=torch.channels_last).train()
    model.fold_backbone()
    dataset = crops_of(args, files, model.colours, training.seed)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")

    def losses_of(network, batch: list[torch.Tensor], part: float) -> dict[str, torch.Tensor]:
        images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
        with bf16:
            outputs = network(images.contiguous(memory_format=torch.channels_last))
        losses = scale_losses([output.float() for output in outputs], labels, args.seg_loss)
        return {"total": sum(losses) / args.seg_accumulate}

    groups = model.parameter_groups(args.seg_learning_rate, args.seg_weight_decay)
    optimizer = torch.optim.SGD(groups, lr=args.seg_learning_rate, momentum=args.seg_momentum)
    schedule = stepwise_poly(optimizer, args.seg_iterations)
    validate = partial(keep_best, args, model, training)
    train(training, model, optimizer, dataset, losses_of, schedule, validate)
    save_trained(training, model, save_checkpoint)


def crops_of(args: Options, files: dict[str, Path], colours: str, seed: int) -> SegmentationDataset:
    """Training crops with these label maps, in the colours that the network was trained to see."""
    kind = COLOURS[colours]
    crop = SegCrop(args.seg_crop_size, kind.mean, args.seg_scales)
    to_input = partial(network_input, colours=kind)
    return SegmentationDataset(args.info, files, crop, to_input, kind.bgr, seed)


def validated_ids(args: Options) -> tuple[str, ...]:
    """The images that the best weights are chosen on; none without --seg_val_every."""
    return args.image_ids("seg")[:VALIDATED] if args.seg_val_every else ()


def keep_best(args: Options, model: DeepLabV2, training: Training, done: int) -> None:
    """Every --seg_val_every steps: score some images, keep the weights if none were better."""
    if not args.seg_val_every or done % args.seg_val_every:
        return
    ids = validated_ids(args)
    confusion = np.zeros((args.info.num_labels,) * 2, dtype=np.int64)
    model.eval()
    for image_id in distributed.share(ids):
        predicted = probabilities(model, image_of(args.info, image_id)).argmax(dim=0)
        truth = mask_of(args.info, image_id)
        confusion += confusion_matrix(truth, predicted.cpu().numpy(), len(confusion))
    model.train()
    miou = float(mean_iou(sum(distributed.gathered(confusion))))
    log.info("train_seg: step %d, mIoU %.2f %% on %d images", done, 100 * miou, len(ids))

    def save() -> None:
        path = best_of(training.file).path
        before = read_checkpoint(path)["extra"] if path.is_file() else {}
        # Those of other settings are no rival; --overwrite has replaced the training.
        if before.get("settings") != training.settings or miou > before["miou"]:
            extra = {"settings": training.settings, "miou": miou, "steps": done}
            save_checkpoint(path, model, **extra)

    distributed.on_first_rank(save)
