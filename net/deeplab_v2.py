"""DeepLab-v2: a dilated ResNet with atrous spatial pyramid pooling, on several scales.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution,
and Fully Connected CRFs", TPAMI 2018, Sec. 3; sizes and rates as in the published settings.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from misc.imutils import IMAGENET_MEAN, IMAGENET_STD
from net.backbones import ResNet, folded_once

RATES = (6, 12, 18, 24)  # dilations of the four classifiers
SCALES = (1.0, 0.5, 0.75)  # of the input, the first one whole


class Colours(NamedTuple):
    """The input that a backbone was trained on: (value - mean) / deviation, of bytes 0..255."""

    bgr: bool
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


COLOURS = {
    "caffe": Colours(True, (104.008, 116.669, 122.675), (1.0, 1.0, 1.0)),
    "torchvision": Colours(
        False, tuple(255 * m for m in IMAGENET_MEAN), tuple(255 * d for d in IMAGENET_STD)
    ),
}


def network_input(image: np.ndarray, colours: Colours) -> np.ndarray:
    """An image in the order of the network's channels, H x W x 3 in 0..255, as 3 x H x W float32.

    Computed in double precision and rounded once.
    """
    values = (image - np.asarray(colours.mean)) / np.asarray(colours.deviation)
    return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)


class DeepLabV2(nn.Module):
    """The network with its wrapper over scales.

    num_labels: classes and background. scale_by: "size" resizes inputs by the ratio of the rounded
    sizes; "factor" by the given scale, as PyTorch does it where it is given the scale alone, which
    differs where a size is not whole. colours: a name of COLOURS. arch: as in `ResNet`; the
    normalisation's statistics, scales and shifts are frozen.
    """

    def __init__(
        self, num_labels: int = 21, scale_by: str = "size", colours: str = "caffe", **arch
    ):
        super().__init__()
        layout = {"strides": (2, 2, 1, 1), "dilations": (1, 1, 2, 4), "ceil_pool": True}
        self.backbone = ResNet(**{"name": "resnet101", "stride_in_1x1": True, **arch}, **layout)
        channels = self.backbone.out_channels[-1]
        self.aspp = nn.ModuleList(
            nn.Conv2d(channels, num_labels, 3, padding=rate, dilation=rate) for rate in RATES
        )
        for classifier in self.aspp:
            nn.init.normal_(classifier.weight, std=0.01)
            nn.init.zeros_(classifier.bias)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_("bn" not in name and "downsample.1" not in name)
        self.scale_by, self.colours = scale_by, colours

    @property
    def arch(self) -> dict:
        """Constructor values, as stored in a checkpoint."""
        own = {"num_labels": self.aspp[0].out_channels, "colours": self.colours}
        return {**self.backbone.arch, **own}

    def scores(self, images: Tensor) -> Tensor:
        """Images of one scale, B x 3 x H x W -> logits B x L x h x w, stride 8."""
        features = self.backbone(images)[-1]
        return sum(classifier(features) for classifier in self.aspp)

    def scaled(self, images: Tensor, scale: float) -> Tensor:
        """Images resized bilinearly to floor(scale x size)."""
        if scale == 1.0:
            return images
        if self.scale_by == "factor":
            return F.interpolate(
                images, scale_factor=scale, mode="bilinear", recompute_scale_factor=False
            )
        size = [int(scale * side) for side in images.shape[-2:]]
        return F.interpolate(images, size, mode="bilinear", align_corners=False)

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        """Images B x 3 x H x W -> logits of every scale and their maximum; without training that.

        The maximum is taken at the size of the first scale, to which the others are resized.
        """
        with folded_once(self.backbone):
            outputs = [self.scores(self.scaled(images, scale)) for scale in SCALES]
        highest, *others = outputs
        for other in others:
            same = F.interpolate(other, highest.shape[-2:], mode="bilinear", align_corners=False)
            highest = torch.maximum(highest, same)
        return [*outputs, highest] if self.training else highest

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict]:
        """Backbone at `lr`, classifiers' weights at 10 times, biases at 20 times without decay."""
        return [
            {"params": [p for p in self.backbone.parameters() if p.requires_grad],
             "lr": lr, "weight_decay": weight_decay},
            {"params": [c.weight for c in self.aspp], "lr": 10 * lr, "weight_decay": weight_decay},
            {"params": [c.bias for c in self.aspp], "lr": 20 * lr, "weight_decay": 0.0},
        ]  # fmt: skip


@torch.no_grad()
def probabilities(network: DeepLabV2, image: np.ndarray) -> Tensor:
    """Probabilities of the labels of an image, L x H x W float32 on the network's device.

    image: H x W x 3 uint8 RGB, at its own size.
    """
    colours = COLOURS[network.colours]
    shown = image[..., ::-1] if colours.bgr else image
    device = next(network.parameters()).device
    images = torch.from_numpy(network_input(shown, colours))[None].to(device)
    return _softmax(network(images), image.shape[:2])


def _softmax(logits: Tensor, size: Sequence[int]) -> Tensor:
    full = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
    return full.softmax(dim=1)[0]
