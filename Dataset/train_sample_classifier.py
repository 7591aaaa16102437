"""Train the thin classifier of an embedded sample (Dataset/sample_classifier.pth) from scratch.

    python -m Dataset.train_sample_classifier [--layout voc]

The step train_cam starts from ImageNet weights, which no network of this width has. Here all layers
and the statistics of the batch normalisation are learnt, on many more images of the sample's kind.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import argparse
import logging
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from Dataset.make_sample import make_sample
from misc.data.dataset_info import DatasetInfo, read_image_list
from misc.data.datasets import ClassificationDataset, normalized
from misc.data.label_file import Labels, load_labels
from misc.data.registry import describe, preparation
from misc.runtime.programs import said_plainly
from net.backbones import KINDS, FixedBatchNorm
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net

WIDTH = 16
LONG_RANGE, CROP_SIZE = (160, 320), 224
BATCH_SIZE, PEAK_RATE, WEIGHT_DECAY = 32, 3e-3, 1e-2

log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """What belongs to a layout of the sample: dataset, list of val images, checkpoint."""

    dataset: str
    val_list: str
    checkpoint: Path


SAMPLES = {
    "voc": Sample("voc12", "val", Path("Dataset/sample_classifier.pth")),
    "coco": Sample("coco14", "val14", Path("Dataset/sample_classifier_coco.pth")),
}


class _LearntBatchNorm(FixedBatchNorm):
    """Batch normalisation that follows its batches while training."""

    forward = nn.BatchNorm2d.forward


def train(info: DatasetInfo, epochs: int, seed: int, backbone: str = "resnet50") -> Net:
    """A classifier of WIDTH, trained on the image-level labels of a drawn dataset.

    backbone: a name of `net.backbones.KINDS`.
    """
    labels = _labels_of(info, info.train_split)
    torch.manual_seed(seed)
    model = Net(info.num_classes, name=backbone, width=WIDTH).requires_grad_(True).train()
    _set_norm(model, FixedBatchNorm, _LearntBatchNorm)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    dataset = ClassificationDataset(info, labels, LONG_RANGE, CROP_SIZE, seed)
    steps = epochs * (len(labels) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, drop_last=True, num_workers=1)
        losses = []
        for images, present in loader:
            features = _features(model, normalized(images, "cpu"))
            logits = model.classifier(features.mean(dim=(2, 3), keepdim=True))[:, :, 0, 0]
            loss = F.multilabel_soft_margin_loss(logits, present)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        log.info("epoch %d: mean loss %.4f", epoch + 1, np.mean(losses))
    _set_norm(model, _LearntBatchNorm, FixedBatchNorm)
    return model


def _labels_of(info: DatasetInfo, list_name: str) -> Labels:
    """Labels of the images of a prepared list."""
    folder = info.root / "lists"
    ids = read_image_list(folder / f"{list_name}.txt", info)
    return load_labels(folder / info.label_file, ids, info)


def _features(model: Net, images: torch.Tensor) -> torch.Tensor:
    """Last features B x C x h x w with gradients into all layers, unlike `Net.forward`."""
    return model.backbone(images)[-1]


def _set_norm(model: nn.Module, old: type, new: type) -> None:
    for module in model.modules():
        if type(module) is old:
            module.__class__ = new


@torch.no_grad()
def mean_average_precision(model: Net, info: DatasetInfo, list_name: str) -> float:
    """Mean average precision over the classes that occur, on the images of a list."""
    labels = _labels_of(info, list_name)
    dataset = ClassificationDataset(info, labels, (256, 256), 256)
    logits = torch.cat(
        [model(normalized(images, "cpu")) for images, _ in DataLoader(dataset, BATCH_SIZE)]
    )
    logits = logits.numpy()
    precisions = []
    for score, truth in zip(logits.T, labels.rows.toarray().T, strict=True):
        hits = truth[np.argsort(-score, kind="stable")] > 0
        if hits.any():
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            precisions.append(precision[hits].mean())
    return float(np.mean(precisions))


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layout", choices=tuple(SAMPLES), default="voc", help="(default: voc)")
    parser.add_argument("--out", type=Path, help="(default: where the scripts look for it)")
    parser.add_argument(
        "--backbone", choices=tuple(KINDS), default="resnet50", help="(default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=800, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--borrowed", type=float, default=0.25, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="(default: %(default)s)")
    args = parser.parse_args()
    sys.exit(said_plainly(partial(_train_and_save, args)))


def _train_and_save(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sample = SAMPLES[args.layout]
    out = args.out or sample.checkpoint
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        make_sample(root, args.images, 100, args.seed, args.borrowed, args.layout)
        info = describe(sample.dataset, root)
        preparation(sample.dataset).prepare(info, root / "lists")
        model = train(info, args.epochs, args.seed, args.backbone)
        score = mean_average_precision(model, info, sample.val_list)
        save_checkpoint(out, model, torch.float16)
    log.info("%s: mean average precision %.3f on 100 other images", out, score)


if __name__ == "__main__":
    main()
