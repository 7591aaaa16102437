"""ResNet-50 backbone whose batch normalisation never updates its statistics (RIB; IRN)."""

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = (3, 4, 6, 3)  # bottlenecks in layer1 .. layer4
EXPANSION = 4  # output channels of a bottleneck over its inner width


class FixedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the stored running statistics, in training too.

    Weight and bias stay trainable.
    """

    def forward(self, features: Tensor) -> Tensor:
        """B x C x H x W -> B x C x H x W."""
        return F.batch_norm(
            features,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=False,
            eps=self.eps,
        )


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a shortcut; the stride sits on the 3x3 or the first 1x1."""

    def __init__(self, in_channels: int, width: int, stride: int, stride_in_1x1: bool):
        super().__init__()
        out_channels = EXPANSION * width
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=stride_1x1, bias=False)
        self.bn1 = FixedBatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride_3x3, padding=1, bias=False)
        self.bn2 = FixedBatchNorm(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = FixedBatchNorm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                FixedBatchNorm(out_channels),
            )

    def forward(self, features: Tensor) -> Tensor:
        """B x in_channels x H x W -> B x 4 width x ceil(H / stride) x ceil(W / stride)."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = self.relu(self.bn1(self.conv1(features)))
        features = self.relu(self.bn2(self.conv2(features)))
        return self.relu(self.bn3(self.conv3(features)) + shortcut)


class ResNet50(nn.Module):
    """ResNet-50 without its last layer; parameters are named as in torchvision.

    width: inner width of the bottlenecks of layer1 (64 is the usual network, 32 and 16 thin ones);
    it doubles with every layer. stem: channels of the first convolution. stride_in_1x1: a block's
    stride is on its first 1x1 convolution (Caffe) and not on the 3x3 one (torchvision).
    strides: of the first convolution, layer2, layer3 and layer4. The default (IRN) gives outputs
    at strides 4, 4, 8, 16, 16.
    """

    def __init__(
        self,
        width: int = 64,
        stride_in_1x1: bool = False,
        strides: tuple[int, int, int, int] = (2, 2, 2, 1),
        stem: int = 64,
    ):
        super().__init__()
        self.arch = {
            "name": "resnet50",
            "width": width,
            "stem": stem,
            "stride_in_1x1": stride_in_1x1,
        }
        widths = [width * 2**i for i in range(len(BLOCKS))]
        self.out_channels = (stem, *(EXPANSION * w for w in widths))
        self.conv1 = nn.Conv2d(3, stem, 7, stride=strides[0], padding=3, bias=False)
        self.bn1 = FixedBatchNorm(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for i, stride in enumerate((1, *strides[1:])):
            first = Bottleneck(self.out_channels[i], widths[i], stride, stride_in_1x1)
            others = [
                Bottleneck(self.out_channels[i + 1], widths[i], 1, stride_in_1x1)
                for _ in range(BLOCKS[i] - 1)
            ]
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *others))

    def stem(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> B x stem x h x w after max pooling, stride 4."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalised RGB, B x 3 x H x W -> the outputs of the stem and layer1 .. layer4."""
        outputs = [self.stem(images)]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            outputs.append(layer(outputs[-1]))
        return tuple(outputs)


def freeze(*modules: nn.Module) -> None:
    """Takes every parameter of the modules out of training."""
    for module in modules:
        module.requires_grad_(False)
