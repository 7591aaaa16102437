"""Counts what a step asks of a device, at small sizes: operations, and waits for results."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from misc.advcam import AdvCAMSettings, advcam
from misc.rib import fine_tune
from misc.seg_loss import scale_losses
from net.backbones import fold_norms
from net.deeplab_v2 import DeepLabV2, probabilities
from net.inference import pseudo_mask
from net.resnet50_cam import CAM
from net.resnet50_irn import EdgeDisplacement
from tests.conftest import THIN
from tests.tools.comparisons import RIB, IRNStep


class Launches(TorchDispatchMode):
    """Counts in its block; views and allocations start nothing."""

    started = waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, result = func.overloadpacket.__name__, func(*args, **(kwargs or {}))
        fetched = name == "_to_copy" and args[0].is_cuda and result.is_cpu
        if fetched or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal"):
            self.waits += 1
        elif not (func.is_view or "empty" in name or name.startswith("_record_function")):
            self.started += 1
        return result


def pieces(device: torch.device) -> dict[str, Callable[[], object]]:
    """The inner piece of each step, by its name."""
    rib = RIB(device, size=(64, 80), batch=4, crop=32, iterations=1, width=8)
    irn = IRNStep(device, batch=4, crop=128, radius=10, width=8)
    made = CAM(20, **THIN), EdgeDisplacement(**THIN).eval(), DeepLabV2(**THIN)
    cam, masks, seg = (net.to(device) for net in made)
    for net in (cam, masks):  # as the steps do it
        fold_norms(net.requires_grad_(False))
    image, maps = np.zeros((65, 65, 3), np.uint8), np.ones((2, 17, 17), np.float32)
    images, labels = (torch.zeros(2, *size, device=device) for size in ((3, 65, 65), (65, 65)))
    advs = rib.pairs[:1], rib.label, AdvCAMSettings(1, scales=(1.0,))
    return {
        "RIB, an iteration": lambda: [*fine_tune(rib.model, rib.pairs, rib.label,
                                                 iter(rib.batches), rib.settings)],
        "AdvCAM, a step of 2 classes": lambda: [*advcam(
            lambda pair: cam.classifier(cam.backbone(pair)[-1]), cam.classifier.weight, *advs)],
        "IRN, a training step of 4 images": irn.ours,
        "mask of an image": lambda: pseudo_mask(masks, image, {"keys": np.arange(2), "cam": maps}),
        "DeepLab, a training step": lambda: sum(
            scale_losses(seg.train()(images), labels.byte())).backward(),
        "DeepLab, an image": lambda: probabilities(seg.eval(), image),
    }  # fmt: skip


def table(device: torch.device) -> str:
    """One line for each piece."""
    lines = ["launches waits"]
    for name, work in pieces(device).items():
        with Launches() as counted:
            work()
        lines.append(f"{counted.started:8} {counted.waits:5}  {name}")
    return "\n".join(lines)
