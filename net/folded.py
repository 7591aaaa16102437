"""Networks as they are computed: fewer operations, another layout, the same maps."""

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.backbones import FixedBatchNorm
from net.resnet50_cam import CAM

Network = TypeVar("Network", bound=nn.Module)

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by --precision


class FoldedConv(nn.Module):
    """A convolution and the fixed normalisation after it as one convolution with bias.

    It saves the normalisation's passes over the features, and half of what is kept for the
    gradient. The two modules that it is made of stay what is trained: a `Folding` follows their
    weights, and gives them their gradients.
    """

    def __init__(self, conv: nn.Conv2d, norm: FixedBatchNorm):
        super().__init__()
        self.made_of = (conv, norm)  # in a tuple: not modules of this one
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        trained = conv.weight.requires_grad
        self.weight = nn.Parameter(torch.empty_like(conv.weight), requires_grad=trained)
        self.bias = nn.Parameter(torch.empty_like(norm.bias), requires_grad=trained)
        Folding([self])

    def forward(self, features: Tensor) -> Tensor:
        """B x C x H x W -> B x C' x h x w."""
        return F.conv2d(
            features, self.weight, self.bias, self.stride, self.padding, groups=self.groups
        )


class Folding:
    """What folded convolutions and the modules that they are made of hand to each other.

    It starts with the modules' weights handed over. All convolutions together: on a GPU the time
    goes by the number of operations.
    """

    def __init__(self, convs: list[FoldedConv]):
        self._convs = convs
        made_of = [conv.made_of for conv in convs]
        self._weights = [conv.weight for conv, _ in made_of]
        self._gains = [norm.weight for _, norm in made_of]
        self._offsets = [norm.bias for _, norm in made_of]
        self._means = [norm.running_mean for _, norm in made_of]
        # The statistics never change, nor does this.
        self._inverse = [torch.rsqrt(norm.running_var + norm.eps) for _, norm in made_of]
        self._scales = [torch.empty_like(inverse) for inverse in self._inverse]
        self._rounded_later = [torch.empty_like(offset) for offset in self._offsets]
        self._by_filter = [scale.detach()[:, None, None, None] for scale in self._scales]
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the weights of the modules."""
        torch._foreach_copy_(self._scales, self._gains)
        torch._foreach_mul_(self._scales, self._inverse)
        for conv, weight, scale in zip(self._convs, self._weights, self._by_filter, strict=True):
            torch.mul(weight, scale, out=conv.weight)  # rounded once where that has 16 bits
        biases = [conv.bias for conv in self._convs]
        exact = biases if biases[0].dtype == self._offsets[0].dtype else self._rounded_later
        torch._foreach_copy_(exact, self._offsets)
        torch._foreach_addcmul_(exact, self._means, self._scales, value=-1)
        if exact is not biases:
            torch._foreach_copy_(biases, exact)

    @torch.no_grad()
    def return_gradients(self, gradients: dict[nn.Parameter, Tensor] | None = None) -> None:
        """Set the gradients of the modules from those of the convolutions, which are used up.

        gradients: by parameter, in the modules' precision; those collected here where not given.
        The weights are those of the last `refresh`.
        """
        convs = self._convs
        if gradients is None:
            gradients = {p: p.grad for conv in convs for p in _own(conv)}
        of_weights, of_biases = (
            [gradients[p] for p in ps] for ps in zip(*map(_own, convs), strict=True)
        )
        products = torch._foreach_mul(of_weights, self._weights)
        of_scales = [product.sum(dim=(1, 2, 3)) for product in products]
        torch._foreach_sub_(of_scales, torch._foreach_mul(self._means, of_biases))
        torch._foreach_mul_(of_scales, self._inverse)
        for gradient, scale in zip(of_weights, self._by_filter, strict=True):
            gradient.mul_(scale)
        found = zip(convs, of_weights, of_scales, of_biases, strict=True)
        for folded, of_weight, of_scale, of_bias in found:
            conv, norm = folded.made_of
            conv.weight.grad, norm.weight.grad, norm.bias.grad = of_weight, of_scale, of_bias
            folded.weight.grad = folded.bias.grad = None


def _own(conv: FoldedConv) -> tuple[nn.Parameter, nn.Parameter]:
    return conv.weight, conv.bias


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

    precision: "bf16" and "fp16" compute the backbone in 16 bits where autocast finds that safe,
    with weights that are rounded once for each `refresh`; the classifier, whose scores are compared
    with thresholds, the model's weights and their gradients stay float32. Of a model in float64 all
    is float64. trained: the parameters that gradients are taken
    for, of the folded convolutions and of the classifier. for_gpu: channels last throughout, the
    model's weights too; as it is on a GPU where it is not said.
    """

    def __init__(self, model: CAM, precision: str = "float32", for_gpu: bool | None = None):
        self._device, self._dtype = model.classifier.weight.device, model.classifier.weight.dtype
        for_gpu = self._device.type == "cuda" if for_gpu is None else for_gpu
        # On the CPU oneDNN trains layer3 and layer4 faster in its own layout.
        self._layout = torch.channels_last if for_gpu else torch.contiguous_format
        if for_gpu:  # gradients lie in memory as weights do: one operation takes all of them
            model.to(memory_format=torch.channels_last)
        self._network = folded_copy(model)
        self._network.classifier = model.classifier
        convs = [m for m in self._network.modules() if isinstance(m, FoldedConv)]
        self._folding = Folding([conv for conv in convs if conv.weight.requires_grad])
        self.trained = [p for p in self._network.parameters() if p.requires_grad]
        self._half = HALF.get(precision)
        for conv in convs:
            trained_layout = self._layout if conv.weight.requires_grad else torch.channels_last
            conv.to(memory_format=trained_layout)
            if self._half:
                conv.to(self._half)

    def refresh(self) -> None:
        """Follow the model's trained weights."""
        self._folding.refresh()

    def set_gradients(self, gradients: list[Tensor]) -> None:
        """Give the model's parameters the gradients of `trained`, in that order; used up."""
        pairs = zip(self.trained, gradients, strict=True)
        found = {p: laid_out_as(p, gradient.to(self._dtype)) for p, gradient in pairs}
        classifier = self._network.classifier.weight
        classifier.grad = found.pop(classifier)
        self._folding.return_gradients(found)

    def frozen_features(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> layer2 features, B x C2 x h x w, stride 8."""
        with self._autocast():
            images = images.to(self._dtype, memory_format=torch.channels_last)
            features = self._network.frozen_features(images)
        return features.contiguous(memory_format=self._layout)

    def maps(self, frozen: Tensor) -> Tensor:
        """Layer2 features, B x C2 x h x w -> signed scores, B x C x h x w, stride 16."""
        with self._autocast():
            features = self._network.trained_features(frozen)
        return self._network.classifier(features.to(self._dtype))

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised RGB, B x 3 x H x W -> signed scores, B x C x h x w, stride 16."""
        return self.maps(self.frozen_features(images))

    def _autocast(self) -> torch.autocast:
        dtype = self._half or torch.bfloat16
        return torch.autocast(self._device.type, dtype, enabled=self._half is not None)


def laid_out_as(weight: Tensor, gradient: Tensor) -> Tensor:
    """A dense gradient in the memory layout of its weight; copied only where the layouts differ."""
    if gradient.stride() == weight.stride():
        return gradient
    sides = zip(weight.shape, weight.stride(), gradient.stride(), strict=True)
    if all(one == other for side, one, other in sides if side > 1):
        return gradient.as_strided(weight.shape, weight.stride())  # of 1 x 1 filters both are one
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)
