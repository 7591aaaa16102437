"""Train the segmentation network on pseudo masks (DeepLab-v2; RIB, Sec. 4)."""

import logging
from functools import partial
from pathlib import Path

import torch

from misc.cli.check import Preflight
from misc.cli.options import Options, as_plain
from misc.data.image_keys import keys_in
from misc.data.segmentation import SegCrop, SegmentationDataset
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
from misc.seg_loss import scale_losses, stepwise_poly
from misc.storage.manifest import IMAGES, folder_hash, settings_of, weights_hash
from misc.storage.outputs import Output
from net.checkpoint import save_checkpoint, segmentation_on
from net.deeplab_v2 import COLOURS, network_input

log = logging.getLogger(__name__)

LISTS = ("infer",)
PUBLISHED_BACKBONE = "resnet101"


def target(args: Options) -> Output:
    """The checkpoint of the network."""
    return Output("--seg_weights_name", args.seg_weights_name, is_file=True)


def settings(args: Options) -> dict:
    """The options that the network depends on."""
    preset = {f"seg_{name}": as_plain(v) for name, v in vars(args.seg_settings).items()}
    own = args.settings("dataset", "seg_preset", "precision", "seed")
    return {"step": "train_seg", "version": 1, **own, **preset}


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return target(args), state_of(target(args))


def label_files(args: Options) -> dict[str, Path]:
    """Label PNG of every image to train on."""
    return {i: args.seg_label_dir / f"{i}.png" for i in args.image_ids("infer")}


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first batch."""
    preflight.output_file(target(args), settings(args))
    preflight.backbone(args.seg_init, "ResNet101", "--seg_init")
    ids = args.image_ids("infer")
    batch = (args.seg_batch_size, len(ids), args.seg_settings.accumulate)
    preflight.collect(lambda: check_batch("--seg_batch_size", *batch))
    preflight.images(ids)
    advice = "give the labels of all images, or an --infer_list of those that have one"
    preflight.label_maps(ids, args.seg_label_dir, advice, trained_on=True)


def run(args: Options) -> None:
    """Train the network, unless it is there already."""
    changed, preset = args.seg_differences(), args.seg_settings
    log.info("preset %s, apart from: %s", args.seg_preset, changed or "nothing")
    log.info("a step has %d images in %d passes, on all processes together",
             preset.batch_size, preset.accumulate)  # fmt: skip
    files = label_files(args)
    training = training_of(args, files)
    if is_trained(training):
        return
    torch.manual_seed(training.seed)
    device = main_device(args.resources)
    model = segmentation_on(args.seg_init, args.info.num_labels, scale_by=preset.scale_by)
    if (name := model.arch["name"]) != PUBLISHED_BACKBONE:
        log.warning(
            "--seg_init is a %s; published results are those of %s", name, PUBLISHED_BACKBONE
        )
    model.to(device, memory_format=torch.channels_last).train()
    dataset = crops_of(args, files, model.colours)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")

    def losses_of(network, batch: list[torch.Tensor], part: float) -> dict[str, torch.Tensor]:
        images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
        with bf16:
            outputs = network(images.contiguous(memory_format=torch.channels_last))
        losses = scale_losses([output.float() for output in outputs], labels, preset.loss)
        return {"total": sum(losses) / preset.accumulate}

    groups = model.parameter_groups(preset.learning_rate, preset.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=preset.learning_rate, momentum=preset.momentum)
    schedule = stepwise_poly(optimizer, preset.iterations)
    train(training, model, optimizer, dataset, losses_of, schedule)
    save_trained(training, model, save_checkpoint)


def training_of(args: Options, files: dict[str, Path]) -> Training:
    """The training on these label maps."""
    inputs = {
        "init": weights_hash(args.seg_init),
        "labels": folder_hash(args.seg_label_dir),
    }
    ids = tuple(files)
    images = distributed.on_first_rank(lambda: keys_in(args, args.seg_label_dir, ".png", ids))
    return Training(
        name="train_seg",
        file=target(args),
        settings={**settings_of(settings(args), inputs), IMAGES: images},
        batch_size=args.seg_batch_size,
        seed=args.seed,
        num_workers=read_ahead_workers(args.resources),
        iterations=args.seg_iterations,
        accumulate=args.seg_settings.accumulate,
        overwrite=args.overwrite,
    )


def crops_of(args: Options, files: dict[str, Path], colours: str) -> SegmentationDataset:
    """Training crops with these label maps, in the colours that the network was trained to see."""
    kind = COLOURS[colours]
    crop = SegCrop(args.seg_crop_size, kind.mean, args.seg_settings.scales)
    to_input = partial(network_input, colours=kind)
    return SegmentationDataset(args.info, files, crop, to_input, kind.bgr, args.seed)
