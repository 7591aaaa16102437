"""Backbones by name: ImageNet weights of torchvision, and of timm where that is installed."""

import http.client

import torch
from torch import Tensor, nn

from misc.errors import UserError
from misc.imutils import IMAGENET_MEAN, IMAGENET_STD
from net.backbones import KINDS, ResNet

TIMM = "timm:"
FITTING = ", ".join(KINDS)
# Rounding of some fifty layers that are added up in another order.
_RELATIVE = 1e-3


def torchvision_weights(name: str) -> dict[str, Tensor]:
    """torchvision's IMAGENET1K_V1 of a key of `net.backbones.KINDS`, downloaded once.

    Raises UserError for a download that fails.
    """
    # Importing torchvision takes seconds, which every process of a step would spend.
    from torchvision import models

    try:
        weights = models.get_model_weights(name).IMAGENET1K_V1
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(
            f"the ImageNet weights of torchvision cannot be downloaded ({_in_a_line(error)}); "
            "download them elsewhere and give --imagenet_weights FILE (--seg_init FILE)"
        ) from error


def timm_network(name: str, pretrained: bool = True) -> nn.Module:
    """timm's network of a name such as "resnet50.a1_in1k", in evaluation mode.

    pretrained: with its weights, which timm downloads once. Raises UserError where timm is not
    installed, does not know the name, cannot download, or the network sees other colours.
    """
    try:
        import timm
    except ImportError:
        raise UserError(
            f"{TIMM}{name}: timm is not installed; pip install timm, or give a file or one of "
            f"{FITTING}, which are torchvision's"
        ) from None
    try:
        network = timm.create_model(name, pretrained=pretrained).eval()
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        raise UserError(
            f"{TIMM}{name}: timm has no such weights, or cannot download them "
            f"({_in_a_line(error)}); give another name, or a file"
        ) from error
    seen = tuple(tuple(network.pretrained_cfg.get(key) or ()) for key in ("mean", "std"))
    if seen != (tuple(IMAGENET_MEAN), tuple(IMAGENET_STD)):
        raise UserError(
            f"{TIMM}{name}: was trained on images with a mean of {seen[0]} and a deviation of "
            f"{seen[1]}, but images have ImageNet's here; give another of timm's {FITTING}"
        )
    return network


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


@torch.no_grad()
def require_same_features(name: str, theirs: nn.Module, arch: dict, state: dict) -> None:
    """Raise UserError unless a `ResNet` with these weights computes the features of timm's network.

    The names of the weights do not tell another activation, pooling or stride.
    """
    ours = ResNet(**arch, strides=(2, 2, 2, 2)).eval()
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    expected, found = theirs.forward_features(images), ours(images)[-1]
    same = expected.shape == found.shape
    if not same or (expected - found).abs().max() > _RELATIVE * expected.abs().max():
        raise UserError(
            f"{TIMM}{name}: computes other features than a {arch['name']} with its weights does "
            f"(another activation, pooling or stride); give one of timm's {FITTING}"
        )
