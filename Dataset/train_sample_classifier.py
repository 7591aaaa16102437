"""Train the classifier of a synthetic sample (Dataset/sample_classifier.pth) from scratch.

    python -m Dataset.train_sample_classifier [--layout voc]

No ImageNet weights fit its width: all layers and the statistics of the normalisation are learnt.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from Dataset.make_sample import make_sample
from misc.data.dataset_info import DatasetInfo, dataset_module, read_image_list
from misc.data.datasets import ClassificationDataset, normalized
from misc.data.label_file import Labels, load_labels
from misc.runtime.programs import said_plainly
from net.backbones import KINDS, FixedBatchNorm
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net

WIDTH = 16
LONG_RANGE, CROP_SIZE = (160, 320), 224
BATCH_SIZE, PEAK_RATE, WEIGHT_DECAY = 32, 3e-3, 1e-2

log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """Dataset of a layout of the sample, and its classifier."""

    dataset: str
    checkpoint: Path


SAMPLES = {
    "voc": Sample("voc12", Path("Dataset/sample_classifier.pth")),
    "coco": Sample("coco14", Path("Dataset/sample_classifier_coco.pth")),
}


def train(info: DatasetInfo, labels: Labels, epochs: int, seed: int, backbone: str) -> Net:
    """A classifier of WIDTH, trained on image-level labels; backbone: a name of KINDS."""
    torch.manual_seed(seed)
    model = Net(info.num_classes, name=backbone, width=WIDTH).requires_grad_(True).train()
    for module in [*model.modules()]:
        for name, norm in [*module.named_children()]:
            if isinstance(norm, FixedBatchNorm):
                setattr(module, name, nn.BatchNorm2d(norm.num_features))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    dataset = ClassificationDataset(info, labels, LONG_RANGE, CROP_SIZE, seed)
    steps = epochs * (len(labels) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        losses = []
        for images, present in DataLoader(dataset, BATCH_SIZE, shuffle=True, drop_last=True):
            features = model.backbone(normalized(images, "cpu"))[-1]  # with gradients in all layers
            logits = model.classifier(features.mean(dim=(2, 3), keepdim=True))[:, :, 0, 0]
            loss = F.multilabel_soft_margin_loss(logits, present)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        log.info("epoch %d: mean loss %.4f", epoch + 1, np.mean(losses))
    trained = Net(info.num_classes, name=backbone, width=WIDTH)
    trained.load_state_dict(model.state_dict())
    return trained


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--layout", choices=tuple(SAMPLES), default="voc", help="(%(default)s)")
    add("--out", type=Path, help="(default: where the scripts look for it)")
    add("--backbone", choices=tuple(KINDS), default="resnet50", help="(%(default)s)")
    for name, default in (("images", 800), ("epochs", 10), ("borrowed", 0.25), ("seed", 7)):
        add(f"--{name}", type=type(default), default=default, help="(%(default)s)")
    args = parser.parse_args()
    sys.exit(said_plainly(lambda: _train_and_save(args)))


def _train_and_save(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sample = SAMPLES[args.layout]
    out = args.out or sample.checkpoint
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        make_sample(root, args.images, 1, args.seed, args.borrowed, args.layout)
        info, lists = dataset_module(sample.dataset).describe(root), root / "lists"
        dataset_module(sample.dataset, "prepare").prepare(info, lists)
        ids = read_image_list(lists / f"{info.train_split}.txt", info)
        labels = load_labels(lists / info.label_file, ids, info)
        model = train(info, labels, args.epochs, args.seed, args.backbone)
    save_checkpoint(out, model, torch.float16)
    log.info("%s", out)


if __name__ == "__main__":
    main()
