"""The classifier, and the class activation maps it gives (RIB)."""

import torch
from torch import Tensor, nn

from net.resnet50 import ResNet50, freeze


class Net(nn.Module):
    """ResNet-50, global average pooling and a 1x1 convolution without bias.

    Stem, layer1 and layer2 never train: their parameters are frozen and their output carries no
    gradient, as in the original implementation.
    """

    def __init__(
        self,
        n_classes: int = 20,
        width: int = 64,
        stride_in_1x1: bool = False,
        stem: int = 64,
    ):
        super().__init__()
        self.resnet50 = ResNet50(width=width, stride_in_1x1=stride_in_1x1, stem=stem)
        self.classifier = nn.Conv2d(self.resnet50.out_channels[-1], n_classes, 1, bias=False)
        freeze(*self._frozen_modules())

    @property
    def arch(self) -> dict:
        """Constructor values, as stored in a checkpoint."""
        return {**self.resnet50.arch, "num_classes": self.classifier.out_channels}

    def _frozen_modules(self) -> tuple[nn.Module, ...]:
        backbone = self.resnet50
        return backbone.conv1, backbone.bn1, backbone.layer1, backbone.layer2

    def frozen_features(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> layer2 features, B x C2 x h x w, stride 8."""
        with torch.no_grad():
            return self.resnet50.layer2(self.resnet50.layer1(self.resnet50.stem(images)))

    def head_features(self, frozen: Tensor) -> Tensor:
        """Layer2 features, B x C2 x h x w -> layer4 features, B x C4 x h x w, stride 16."""
        return self.resnet50.layer4(self.resnet50.layer3(frozen))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> logits, B x C."""
        features = self.head_features(self.frozen_features(images))
        return self.classifier(features.mean(dim=(2, 3), keepdim=True))[:, :, 0, 0]

    def trainable_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the trained part of the backbone (layer3, layer4) and of the classifier."""
        backbone = [*self.resnet50.layer3.parameters(), *self.resnet50.layer4.parameters()]
        return backbone, list(self.classifier.parameters())


class CAM(Net):
    """The same network, which returns a score for every position instead of one for the image."""

    def maps(self, frozen: Tensor) -> Tensor:
        """Layer2 features, B x C2 x h x w -> signed scores, B x C x h x w, stride 16."""
        return self.classifier(self.head_features(frozen))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> signed scores (no ReLU), B x C x h x w, stride 16."""
        return self.maps(self.frozen_features(images))
