"""Networks as they are computed: fewer operations, another layout, the same maps."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.backbones import FixedBatchNorm
from net.resnet50_cam import CAM

Network = TypeVar("Network", bound=nn.Module)


class FoldedConv(nn.Module):
    """A convolution and the fixed normalisation after it as one convolution with bias.

    It saves the normalisation's passes over the features, and half of what is kept for the
    gradient. The two modules that it is made of stay what is trained: `refresh` follows their
    weights, `return_gradient` gives them theirs.
    """

    def __init__(self, conv: nn.Conv2d, norm: FixedBatchNorm):
        super().__init__()
        self._made_of = (conv, norm)  # in a tuple: not modules of this one
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        trained = conv.weight.requires_grad
        self.weight = nn.Parameter(torch.empty_like(conv.weight), requires_grad=trained)
        self.bias = nn.Parameter(torch.empty_like(norm.bias), requires_grad=trained)
        self.refresh()

    def forward(self, features: Tensor) -> Tensor:
        """B x C x H x W -> B x C' x h x w."""
        return F.conv2d(
            features, self.weight, self.bias, self.stride, self.padding, groups=self.groups
        )

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the weights of the two modules."""
        conv, norm = self._made_of
        scale = norm.weight * self._inverse_deviation()
        torch.mul(conv.weight, scale[:, None, None, None], out=self.weight)
        torch.addcmul(norm.bias, norm.running_mean, scale, value=-1, out=self.bias)

    @torch.no_grad()
    def return_gradient(self) -> None:
        """Set the gradients of the two modules from the ones collected here, which are used up."""
        conv, norm = self._made_of
        inverse = self._inverse_deviation()
        grad, norm.bias.grad = self.weight.grad, self.bias.grad
        of_scale = (grad * conv.weight).sum(dim=(1, 2, 3)) - norm.running_mean * self.bias.grad
        norm.weight.grad = of_scale * inverse
        conv.weight.grad = grad.mul_((norm.weight * inverse)[:, None, None, None])
        self.weight.grad = self.bias.grad = None

    def _inverse_deviation(self) -> Tensor:
        norm = self._made_of[1]
        return torch.rsqrt(norm.running_var + norm.eps)


class LiveFoldedConv(nn.Module):
    """A trained convolution and the frozen normalisation after it, computed as one convolution.

    The gradient reaches the convolution itself, whose weights may change at any time.
    """

    def __init__(self, conv: nn.Conv2d, norm: FixedBatchNorm):
        super().__init__()
        self._made_of = (conv, norm)  # in a tuple: not modules of this one

    def forward(self, features: Tensor) -> Tensor:
        """B x C x H x W -> B x C' x h x w."""
        conv, norm = self._made_of
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight, bias = (
            conv.weight * scale[:, None, None, None],
            norm.bias - norm.running_mean * scale,
        )
        return F.conv2d(
            features, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )


def folded_copy(model: Network, kind: type[nn.Module] = FoldedConv) -> Network:
    """A copy of a network with a `FoldedConv` for each convolution and its `FixedBatchNorm`."""
    folded = copy.deepcopy(model)
    for new, old in zip(list(folded.modules()), list(model.modules()), strict=True):
        layers = dict(old.named_children())
        for name, norm in layers.items():
            if name.startswith("bn") and isinstance(norm, FixedBatchNorm):
                setattr(new, f"conv{name[2:]}", kind(layers[f"conv{name[2:]}"], norm))
                setattr(new, name, nn.Identity())
        if layers.get("downsample") is not None:
            new.downsample = kind(*old.downsample)
    return folded


def frozen_copy(model: Network) -> Network:
    """A copy to compute with whose weights stay as they are: folded, channels last."""
    return folded_copy(model).requires_grad_(False).to(memory_format=torch.channels_last)


class FoldedCAM:
    """Computes the maps of a model on the model's device.

    precision: "bf16" computes the backbone in bfloat16 where autocast finds that safe; the
    classifier, whose scores are compared with thresholds, all weights and their gradients stay
    float32. trained: the parameters that gradients are taken for, of the folded convolutions and of
    the classifier. compiled: by torch.compile, once for all sizes of images.
    """

    def __init__(self, model: CAM, precision: str = "float32", compiled: bool = False):
        self._network = folded_copy(model)
        self._network.classifier = model.classifier
        self._convs = [m for m in self._network.modules() if isinstance(m, FoldedConv)]
        self._trained = [conv for conv in self._convs if conv.weight.requires_grad]
        self.trained = [p for p in self._network.parameters() if p.requires_grad]
        self._device = model.classifier.weight.device
        self._bf16 = precision == "bf16"
        # On the CPU oneDNN trains layer3 and layer4 faster in its own layout.
        self._layout = (
            torch.channels_last if self._device.type == "cuda" else torch.contiguous_format
        )
        for conv in self._convs:
            trained_layout = self._layout if conv.weight.requires_grad else torch.channels_last
            conv.to(memory_format=trained_layout)
        self._frozen_features = _compiled(self._network.frozen_features, compiled)
        self._trained_features = _compiled(self._network.trained_features, compiled)

    def refresh(self) -> None:
        """Follow the model's trained weights."""
        for conv in self._trained:
            conv.refresh()

    def set_gradients(self, gradients: list[Tensor]) -> None:
        """Give the model's parameters the gradients of `trained`, in that order; used up."""
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            parameter.grad = gradient
        for conv in self._trained:
            conv.return_gradient()

    def frozen_features(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> layer2 features, B x C2 x h x w, stride 8."""
        with self._autocast():
            features = self._frozen_features(images.contiguous(memory_format=torch.channels_last))
        return features.contiguous(memory_format=self._layout)

    def maps(self, frozen: Tensor) -> Tensor:
        """Layer2 features, B x C2 x h x w -> signed scores, B x C x h x w float32, stride 16."""
        with self._autocast():
            features = self._trained_features(frozen)
        return self._network.classifier(features.float())

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> signed scores, B x C x h x w float32, stride 16."""
        return self.maps(self.frozen_features(images))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)


def _compiled(function: Callable[[Tensor], Tensor], compiled: bool) -> Callable[[Tensor], Tensor]:
    return torch.compile(function, dynamic=True) if compiled else function
