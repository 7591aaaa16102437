"""The classifier, and the class activation maps it gives (RIB)."""

import torch
from torch import Tensor, nn

from misc.torchutils import gap2d
from net.backbones import ResNet


class Net(nn.Module):
    """A backbone, global average pooling and a 1x1 convolution without bias.

    The first part of the backbone never trains: its parameters are frozen and its output carries
    no gradient, as in the original implementation. arch: values of `net.backbones.ResNet`.
    """

    def __init__(self, n_classes: int = 20, **arch):
        super().__init__()
        self.backbone = ResNet(**arch)
        self.classifier = nn.Conv2d(self.backbone.out_channels[-1], n_classes, 1, bias=False)
        for part in self.backbone.parts(ResNet.FROZEN):
            part.requires_grad_(False)

    @property
    def arch(self) -> dict:
        """Constructor values, as stored in a checkpoint."""
        return {**self.backbone.arch, "num_classes": self.classifier.out_channels}

    def frozen_features(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> features of the part that never trains, stride 8."""
        # On a CPU these layers are faster channels last, and the trained ones are not.
        layout = torch.channels_last if images.is_cuda else torch.contiguous_format
        with torch.no_grad():
            images = images.contiguous(memory_format=torch.channels_last)
            return self.backbone.frozen_features(images).contiguous(memory_format=layout)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> logits, B x C."""
        features = self.backbone.trained_features(self.frozen_features(images))
        return self.classifier(gap2d(features)[..., None, None])[:, :, 0, 0]

    def trainable_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the trained part of the backbone and of the classifier."""
        trained = nn.ModuleList(getattr(self.backbone, name) for name in ResNet.TRAINED)
        return list(trained.parameters()), list(self.classifier.parameters())


class CAM(Net):
    """The same network, which returns a score for every position instead of one for the image.

    bf16: compute the backbone in bfloat16 where autocast finds that safe. The classifier, weights
    and gradients are float32; unless --precision is, a GPU rounds to TF32 what it multiplies.
    """

    bf16 = False

    def autocast(self) -> torch.autocast:
        """The context in which the backbone is computed."""
        device = self.classifier.weight.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.bf16)

    def frozen_features(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> features of the part that never trains, stride 8."""
        with self.autocast():
            return super().frozen_features(images)

    def maps(self, frozen: Tensor) -> Tensor:
        """Features of the frozen part, B x C2 x h x w -> signed scores, B x C x h x w."""
        with self.autocast():
            features = self.backbone.trained_features(frozen)
        return self.classifier(features.to(self.classifier.weight.dtype))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> signed scores (no ReLU), B x C x h x w, stride 16."""
        return self.maps(self.frozen_features(images))
