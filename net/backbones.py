"""The backbones: ResNets whose batch normalisation never updates its statistics (RIB; IRN).

Parameters are named as torchvision names them.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from misc.errors import UserError

_SHOWN = 120  # characters of each line about names that differ


class FixedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the stored running statistics, in training too."""

    kept: tuple[Tensor, Tensor] | None = None  # of `fold_norms`

    def forward(self, features: Tensor) -> Tensor:
        """B x C x H x W -> B x C x H x W."""
        statistics = (self.running_mean, self.running_var)
        return F.batch_norm(features, *statistics, self.weight, self.bias, False, eps=self.eps)


def folded(conv: nn.Conv2d, norm: FixedBatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that computes `norm(conv(features))`."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def normalized(conv: nn.Conv2d, norm: FixedBatchNorm, features: Tensor) -> Tensor:
    """`norm(conv(features))`: what lies between the two is neither computed nor kept."""
    weight, bias = norm.kept or folded(conv, norm)
    return F.conv2d(features, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def fold_norms(network: nn.Module) -> list[FixedBatchNorm]:
    """Fold every normalisation into its convolution for all passes to come; returns those."""
    pairs = [pair for module in network.modules() for pair in pairwise(module.children())]
    pairs = [pair for pair in pairs if isinstance(pair[1], FixedBatchNorm) and not pair[1].kept]
    for conv, norm in pairs:
        norm.kept = folded(conv, norm)
    return [norm for _, norm in pairs]


@contextlib.contextmanager
def folded_once(network: nn.Module) -> Iterator[None]:
    """Fold every normalisation once for all passes in the block."""
    norms = fold_norms(network)
    try:
        yield
    finally:
        for norm in norms:
            norm.kept = None


class Kind(NamedTuple):
    """Architecture of a backbone."""

    expansion: int  # output channels of a block over its width: 4 of bottlenecks, 1 of others
    counts: tuple[int, int, int, int]  # blocks in layer1 .. layer4
    widening: int = 1  # inner channels of a bottleneck over the width
    group_width: int = 0  # channels of a group of layer1's 3x3 convolutions; 0: no groups


KINDS = {
    "resnet18": Kind(1, (2, 2, 2, 2)),
    "resnet34": Kind(1, (3, 4, 6, 3)),
    "resnet50": Kind(4, (3, 4, 6, 3)),
    "resnet101": Kind(4, (3, 4, 23, 3)),
    "resnext50_32x4d": Kind(4, (3, 4, 6, 3), widening=2, group_width=4),
    "wide_resnet50_2": Kind(4, (3, 4, 6, 3), widening=2),
}


def _conv(inputs: int, outputs: int, side: int, stride: int = 1, **options: int) -> nn.Conv2d:
    padding = side // 2 * options.get("dilation", 1)
    return nn.Conv2d(inputs, outputs, side, stride, padding, bias=False, **options)


class Block(nn.Module):
    """Convolutions beside a shortcut, which has one of its own where sizes differ."""

    def __init__(self, convs: list[nn.Conv2d], stride: int):
        super().__init__()
        inputs, outputs = convs[0].in_channels, convs[-1].out_channels
        for number, conv in enumerate(convs, start=1):
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", FixedBatchNorm(conv.out_channels))
        self.count, self.relu, self.downsample = len(convs), nn.ReLU(inplace=True), None
        if stride > 1 or inputs != outputs:
            conv = _conv(inputs, outputs, 1, stride)
            self.downsample = nn.Sequential(conv, FixedBatchNorm(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """B x inputs x H x W -> B x outputs x ceil(H / stride) x ceil(W / stride)."""
        shortcut = normalized(*self.downsample, features) if self.downsample else features
        for number in range(1, self.count + 1):
            conv, norm = getattr(self, f"conv{number}"), getattr(self, f"bn{number}")
            features = normalized(conv, norm, features)
            features = self.relu(features + shortcut if number == self.count else features)
        return features


class ResNet(nn.Module):
    """A ResNet without its last layer.

    name: a key of KINDS. width: inner width of the blocks of layer1 (usually 64); it doubles with
    every layer. stem: channels of the first convolution. stride_in_1x1: a bottleneck's stride is on
    its first 1x1 convolution (Caffe) and not on the 3x3 one (torchvision). strides: of the first
    convolution, layer2, layer3 and layer4; the default (IRN) gives outputs at strides 4, 4, 8, 16,
    16. dilations: of the 3x3 convolutions of layer1 .. layer4. ceil_pool: the stem's pooling counts
    a last incomplete window (Caffe).

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
        widths = [width * 2**i for i in range(4)]
        self.out_channels = (stem, *(kind.expansion * w for w in widths))
        self.out_strides = [2 * strides[0]] * 2
        self.conv1 = nn.Conv2d(3, stem, 7, stride=strides[0], padding=3, bias=False)
        self.bn1 = FixedBatchNorm(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=ceil_pool)
        for i, stride in enumerate((1, *strides[1:])):
            inputs, blocks = self.out_channels[i], []
            for step in (stride, *[1] * (kind.counts[i] - 1)):
                convs = self._convolutions(kind, inputs, widths[i], step, dilations[i])
                blocks.append(Block(convs, step))
                inputs = self.out_channels[i + 1]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            self.out_strides += [self.out_strides[-1] * stride] if i else []

    def _convolutions(
        self, kind: Kind, inputs: int, width: int, stride: int, dilation: int
    ) -> list[nn.Conv2d]:
        if kind.expansion == 1:
            first = _conv(inputs, width, 3, stride, dilation=dilation)
            return [first, _conv(width, width, 3, dilation=dilation)]
        stride_1x1, stride_3x3 = (stride, 1) if self.arch["stride_in_1x1"] else (1, stride)
        inner = kind.widening * width
        # The groups of later layers are as many, and so twice as wide with every layer.
        groups = kind.widening * self.arch["width"] // (kind.group_width or math.inf)
        return [
            _conv(inputs, inner, 1, stride_1x1),
            _conv(inner, inner, 3, stride_3x3, dilation=dilation, groups=max(1, int(groups))),
            _conv(inner, kind.expansion * width, 1),
        ]

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


def require_fit(
    path: object, cls: type[nn.Module], arguments: dict, state: Mapping[str, Tensor], advice: str
) -> None:
    """Raise UserError, with the first differences, unless `cls(**arguments)` has these tensors."""
    try:
        with torch.device("meta"):  # a network of any size needs no memory there
            cls(**arguments).load_state_dict(state, assign=True)
    except RuntimeError as error:
        text = str(error).replace("Missing key(s) in state_dict", "missing")
        text = text.replace("Unexpected key(s) in state_dict", "unexpected")
        lines = text.replace('"', "").replace("backbone.", "").split("\n\t")[1:4]
        short = "; ".join(" ".join(line.split())[:_SHOWN] for line in lines).rstrip(". ")
        raise UserError(f"{path} is of another network ({short}); {advice}") from None


def inferred_arch(state: Mapping[str, Tensor]) -> dict:
    """Name, width and stem of the backbone of these tensors; a ResNet-50's where unknown."""

    def channels(name: str) -> int:
        tensor = state.get(name)
        return len(tensor) if tensor is not None and tensor.ndim > 0 and len(tensor) > 0 else 64

    counts = [0] * 4
    for name in state:
        if found := re.match(r"layer([1-4])\.(\d{1,3})\.", name):
            layer = int(found[1]) - 1
            counts[layer] = max(counts[layer], int(found[2]) + 1)
    expansion = 4 if "layer1.0.conv3.weight" in state else 1
    width = channels("layer1.0.conv1.weight")
    kind, grouped = Kind(expansion, tuple(counts)), state.get("layer1.0.conv2.weight")
    if expansion == 4 and channels("layer1.0.conv3.weight") == 2 * width and width % 4 == 0:
        per_group = grouped.shape[1] if grouped is not None and grouped.ndim > 1 else width
        kind = kind._replace(widening=2, group_width=0 if per_group == width else per_group)
        width //= 2
    name = next((name for name, known in KINDS.items() if known == kind), "resnet50")
    return {"name": name, "width": width, "stem": channels("conv1.weight")}
