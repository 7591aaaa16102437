"""What a run will cost, said by --check: arithmetic, time on this machine, disk."""

import logging
import random
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from misc.cli.options import Options
from misc.data.datasets import load_labels
from misc.errors import UserError
from misc.runtime.devices import main_device
from net.checkpoint import load_backbone
from net.resnet50_cam import CAM
from net.resnet50_irn import Net as BoundaryNet

log = logging.getLogger(__name__)

_LOOKED_AT = 60  # images whose sizes and classes stand for all
_MEASURED = 256  # side of the image of the measurement, pixels
_SECONDS = 1.0  # that it takes at least
_BACKWARD = 2  # a backward pass is two forward ones: by inputs and by weights
_LOSS_VIEWS = (1.0, 1.5, 2.0)  # scales that take part in RIB's loss
_MAP_BYTES = 4 * (1 + 1 / 16)  # of a pixel of a map: at full size and at stride 4, float32


class Bill:
    """Arithmetic of the steps with a network, in floating-point operations for all images."""

    def __init__(self, args: Options):
        self.args, self.images = args, len(args.image_ids("infer"))
        self.size = usual_size(args)
        trained = args.cam_weights_name
        path = trained if trained.is_file() else args.imagenet_weights
        self.arch = load_backbone(path)[0] if path else {}
        with torch.device("meta"):  # shapes alone: nothing is computed
            self.classifier = CAM(args.info.num_classes, **self.arch).eval()
            self.boundary = BoundaryNet(**self.arch).eval()

    def of(self, steps: Iterable[str]) -> dict[str, float]:
        """Operations by step, of those that are known here."""
        known = {
            "train_cam": self._train_cam, "make_cam": self._make_cam,
            "make_recam_with_RIB": self._rib, "train_irn": self._train_irn,
            "make_sem_seg_labels": self._walk,
        }  # fmt: skip
        return {name: known[name]() for name in steps if name in known}

    def forward(self, height: float, width: float) -> tuple[float, float]:
        """Of one pass of the classifier: in the frozen part, in the trained one."""
        image = torch.empty(1, 3, max(32, round(height)), max(32, round(width)), device="meta")
        frozen, features = _count(self.classifier.frozen_features, image)
        return frozen, _count(self.classifier.maps, features)[0]

    def _train_cam(self) -> float:
        crop = self.args.cam_crop_size
        frozen, trained = self.forward(crop, crop)
        seen = self.args.cam_num_epoches * len(self.args.image_ids("train"))
        return seen * (frozen + (1 + _BACKWARD) * trained)

    def _views(self) -> dict[float, tuple[float, float]]:
        """Of an image and its mirror image at every scale."""
        height, width = self.size
        shrunk = min(1.0, (self.args.max_long or max(self.size)) / max(self.size))
        sizes = {s: (height * shrunk * s, width * shrunk * s) for s in self.args.cam_scales}
        return {s: tuple(2 * part for part in self.forward(*size)) for s, size in sizes.items()}

    def _make_cam(self) -> float:
        return self.images * sum(sum(parts) for parts in self._views().values())

    def _rib(self) -> float:
        views = self._views()
        once = sum(frozen for frozen, _ in views.values())
        again = sum(trained for _, trained in views.values())
        again += _BACKWARD * sum(part[1] for s, part in views.items() if s in _LOSS_VIEWS)
        frozen, trained = self.forward(self.args.cam_crop_size, self.args.cam_crop_size)
        again += self.args.RIB_batch_size * (frozen + (1 + _BACKWARD) * trained)
        return self.images * (once + self.args.RIB_iter * again)

    def _train_irn(self) -> float:
        image = torch.empty(1, 3, *(self.args.irn_crop_size,) * 2, device="meta")
        whole = _count(self.boundary, image)[0]
        backbone = sum(self.forward(self.args.irn_crop_size, self.args.irn_crop_size))
        seen = self.args.irn_num_epoches * self.images
        return seen * (backbone + (1 + _BACKWARD) * max(0.0, whole - backbone))

    def _walk(self) -> float:
        size = [max(side, self.args.irn_pad_size) for side in self.size]
        return self.images * _count(self.boundary, torch.empty(2, 3, *size, device="meta"))[0]

    def disk(self, steps: Iterable[str]) -> float:
        """Bytes of the maps of all images; masks are a hundredth of them."""
        folders = sum(name.startswith(("make_cam", "make_recam")) for name in steps)
        if not folders:
            return 0.0
        ids = _some(self.args.image_ids("infer"))
        labels = load_labels(self.args.cls_labels, ids, self.args.info)
        classes = float(np.mean([row.sum() for row in labels]))
        return folders * self.images * classes * _MAP_BYTES * self.size[0] * self.size[1]


def say_bill(args: Options, steps: Iterable[str]) -> None:
    """Log what the steps with a network will compute, how long that takes, and the disk needed.

    What none of the steps reads may be missing: then the log says so in place of a bill.
    """
    try:
        _say_bill(args, list(steps))
    except UserError as error:
        log.info("what the run costs cannot be said: %s", error)


def _say_bill(args: Options, steps: list[str]) -> None:
    bill = Bill(args)
    flops = bill.of(steps)
    if not flops:
        return
    device = main_device(args.resources)
    rate = measured_rate(bill, device)
    for name, count in flops.items():
        log.info("%-20s %10.1f GFLOP, about %s", name, count / 1e9, duration(count / rate))
    log.info(
        "together about %s at the %.0f GFLOP/s measured now on %s; CRF, random walk and reading "
        "come on top, other programs slow it down, more GPUs share it",
        *(duration(sum(flops.values()) / rate), rate / 1e9, device.type),
    )
    needed, free = bill.disk(steps), shutil.disk_usage(existing(args.result_dir)).free
    say = log.warning if needed > free else log.info
    say("maps need about %.2f GB of disk, %.2f GB are free in %s", needed / 1e9, free / 1e9,
        args.result_dir)  # fmt: skip


def usual_size(args: Options) -> tuple[int, int]:
    """Mean (height, width) of some images, from their headers."""
    sizes = [args.info.image_size(image_id) for image_id in _some(args.image_ids("infer"))]
    return tuple(round(side) for side in np.mean(sizes, axis=0))


def measured_rate(bill: Bill, device: torch.device) -> float:
    """Operations a second of forward passes of the classifier, measured in about a second."""
    model = CAM(bill.args.info.num_classes, **bill.arch).eval().to(device)
    image = torch.zeros(1, 3, _MEASURED, _MEASURED, device=device)
    with torch.no_grad():
        model(image).sum().item()  # the first pass also prepares
        start, passes = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < _SECONDS:
            model(image).sum().item()
            passes += 1
    return passes * sum(bill.forward(_MEASURED, _MEASURED)) / seconds


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def existing(path: Path) -> Path:
    """The nearest folder above a path that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _count(function: Callable, tensor: Tensor) -> tuple[float, Tensor]:
    """Operations of a call, and its result."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        result = function(tensor)
    return float(counter.get_total_flops()), result


def _some(image_ids: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(random.Random(0).sample(image_ids, min(_LOOKED_AT, len(image_ids))))
