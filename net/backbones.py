"""The backbones: ResNets whose batch normalisation never updates its statistics (RIB; IRN).

Everything that a network may know of its backbone is asked here: what it is made of by name, the
channels and strides of its stages, which of them never train. Parameters are named as torchvision
names them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FixedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the stored running statistics, in training too.

    Weight and bias stay trainable.
    """

    def forward(self, features: Tensor) -> Tensor:
        """B x C x H x W -> B x C x H x W."""
        statistics = (self.running_mean, self.running_var)
        return F.batch_norm(features, *statistics, self.weight, self.bias, False, eps=self.eps)


def normalized(conv: nn.Conv2d, norm: FixedBatchNorm, features: Tensor) -> Tensor:
    """`norm(conv(features))` as one convolution, since the statistics are fixed.

    What lies between the two is neither computed nor kept for the gradient.
    """
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    return F.conv2d(features, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _conv3x3(
    in_channels: int, out_channels: int, stride: int, dilation: int, groups: int = 1
) -> nn.Conv2d:
    options = {"stride": stride, "padding": dilation, "dilation": dilation, "bias": False}
    return nn.Conv2d(in_channels, out_channels, 3, groups=groups, **options)


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """What a shortcut needs to fit; None where it fits as it is."""
    if stride == 1 and in_channels == out_channels:
        return None
    conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return nn.Sequential(conv, FixedBatchNorm(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the stride is on the first (ResNet-18 and -34)."""

    EXPANSION = 1  # output channels over inner width

    def __init__(
        self, in_channels: int, width: int, stride: int, stride_in_1x1: bool, dilation: int = 1
    ):
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, stride, dilation)
        self.bn1 = FixedBatchNorm(width)
        self.conv2 = _conv3x3(width, width, 1, dilation)
        self.bn2 = FixedBatchNorm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, width, stride)

    def forward(self, features: Tensor) -> Tensor:
        """B x in_channels x H x W -> B x width x ceil(H / stride) x ceil(W / stride)."""
        shortcut = normalized(*self.downsample, features) if self.downsample else features
        features = self.relu(normalized(self.conv1, self.bn1, features))
        return self.relu(normalized(self.conv2, self.bn2, features) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution; the stride is on the 3x3 or the first 1x1.

    widening: inner channels over `width`. groups: of the 3x3 convolution.
    """

    EXPANSION = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        stride_in_1x1: bool,
        dilation: int = 1,
        widening: int = 1,
        groups: int = 1,
    ):
        super().__init__()
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        inner = widening * width
        self.conv1 = nn.Conv2d(in_channels, inner, 1, stride=stride_1x1, bias=False)
        self.bn1 = FixedBatchNorm(inner)
        self.conv2 = _conv3x3(inner, inner, stride_3x3, dilation, groups)
        self.bn2 = FixedBatchNorm(inner)
        self.conv3 = nn.Conv2d(inner, self.EXPANSION * width, 1, bias=False)
        self.bn3 = FixedBatchNorm(self.EXPANSION * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, self.EXPANSION * width, stride)

    def forward(self, features: Tensor) -> Tensor:
        """B x in_channels x H x W -> B x 4 width x ceil(H / stride) x ceil(W / stride)."""
        shortcut = normalized(*self.downsample, features) if self.downsample else features
        features = self.relu(normalized(self.conv1, self.bn1, features))
        features = self.relu(normalized(self.conv2, self.bn2, features))
        return self.relu(normalized(self.conv3, self.bn3, features) + shortcut)


class Kind(NamedTuple):
    """What a backbone's name stands for."""

    block: type[BasicBlock] | type[Bottleneck]
    counts: tuple[int, int, int, int]  # blocks in layer1 .. layer4
    widening: int = 1  # inner channels of a bottleneck over the width
    group_width: int = 0  # channels of a group of layer1's 3x3 convolutions; 0: no groups

    def options(self, width: int) -> dict[str, int]:
        """Further constructor values of the blocks, for layer1's `width`."""
        if self.widening == 1 and self.group_width == 0:
            return {}
        # The groups of later layers are as many, and so twice as wide with every layer.
        groups = max(1, self.widening * width // self.group_width) if self.group_width else 1
        return {"widening": self.widening, "groups": groups}


KINDS = {
    "resnet18": Kind(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Kind(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Kind(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Kind(Bottleneck, (3, 4, 23, 3)),
    "resnext50_32x4d": Kind(Bottleneck, (3, 4, 6, 3), widening=2, group_width=4),
    "wide_resnet50_2": Kind(Bottleneck, (3, 4, 6, 3), widening=2),
}


class ResNet(nn.Module):
    """A ResNet without its last layer.

    name: a key of KINDS. width: inner width of the blocks of layer1 (64 is the usual network, 32
    and 16 thin ones); it doubles with every layer. stem: channels of the first convolution.
    stride_in_1x1: a bottleneck's stride is on its first 1x1 convolution (Caffe) and not on the 3x3
    one (torchvision). strides: of the first convolution, layer2, layer3 and layer4; the default
    (IRN) gives outputs at strides 4, 4, 8, 16, 16. dilations: of the 3x3 convolutions of layer1 ..
    layer4. ceil_pool: the stem's pooling counts a last incomplete window (Caffe).

    arch: the values that a checkpoint stores. out_channels, out_strides: of the five outputs.
    """

    FROZEN = ("conv1", "bn1", "layer1", "layer2")  # these never train in RIB
    TRAINED = ("layer3", "layer4")

    def __init__(
        self,
        name: str = "resnet50",
        width: int = 64,
        stem: int = 64,
        stride_in_1x1: bool = False,
        strides: tuple[int, int, int, int] = (2, 2, 2, 1),
        dilations: tuple[int, int, int, int] = (1, 1, 1, 1),
        ceil_pool: bool = False,
    ):
        super().__init__()
        self.arch = {"name": name, "width": width, "stem": stem, "stride_in_1x1": stride_in_1x1}
        kind = KINDS[name]
        block, counts, options = kind.block, kind.counts, kind.options(width)
        widths = [width * 2**i for i in range(len(counts))]
        self.out_channels = (stem, *(block.EXPANSION * w for w in widths))
        self.out_strides = [2 * strides[0]] * 2
        self.conv1 = nn.Conv2d(3, stem, 7, stride=strides[0], padding=3, bias=False)
        self.bn1 = FixedBatchNorm(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=ceil_pool)
        for i, stride in enumerate((1, *strides[1:])):
            inputs = (self.out_channels[i], *[self.out_channels[i + 1]] * (counts[i] - 1))
            blocks = [
                block(channels, widths[i], step, stride_in_1x1, dilations[i], **options)
                for channels, step in zip(inputs, (stride, *[1] * (counts[i] - 1)), strict=True)
            ]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            self.out_strides += [self.out_strides[-1] * stride] if i else []

    def stem(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> B x stem x h x w after max pooling, stride 4."""
        return self.maxpool(self.relu(normalized(self.conv1, self.bn1, images)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalised RGB, B x 3 x H x W -> the outputs of the stem and layer1 .. layer4."""
        outputs = [self.stem(images)]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            outputs.append(layer(outputs[-1]))
        return tuple(outputs)

    def frozen_features(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> output of the part that never trains, stride 8."""
        return self.layer2(self.layer1(self.stem(images)))

    def trained_features(self, frozen: Tensor) -> Tensor:
        """Output of `frozen_features`, B x C2 x h x w -> layer4 features, B x C4 x h x w."""
        return self.layer4(self.layer3(frozen))

    def parts(self, names: Iterable[str]) -> list[nn.Module]:
        """Modules by name, as in FROZEN and TRAINED."""
        return [getattr(self, name) for name in names]


def inferred_arch(state: Mapping[str, Tensor]) -> dict:
    """Name, width and stem of the backbone whose tensors these are, by torchvision's names.

    What cannot be told is that of the usual ResNet-50: a comparison of names will say the rest.
    """

    def channels(name: str) -> int:
        tensor = state.get(name)
        return len(tensor) if tensor is not None and tensor.ndim > 0 and len(tensor) > 0 else 64

    counts = [0] * 4
    for name in state:
        if found := re.match(r"layer([1-4])\.(\d{1,3})\.", name):
            layer = int(found[1]) - 1
            counts[layer] = max(counts[layer], int(found[2]) + 1)
    block = Bottleneck if "layer1.0.conv3.weight" in state else BasicBlock
    width = channels("layer1.0.conv1.weight")
    kind, grouped = Kind(block, tuple(counts)), state.get("layer1.0.conv2.weight")
    if block is Bottleneck and channels("layer1.0.conv3.weight") == 2 * width and width % 4 == 0:
        per_group = grouped.shape[1] if grouped is not None and grouped.ndim > 1 else width
        kind = kind._replace(widening=2, group_width=0 if per_group == width else per_group)
        width //= 2
    names = [name for name, known in KINDS.items() if known == kind]
    return {
        "name": names[0] if names else "resnet50",
        "width": width,
        "stem": channels("conv1.weight"),
    }
