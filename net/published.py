"""Backbones by name: ImageNet weights of torchvision, and of timm where that is installed."""

import http.client

import torch
from torch import Tensor, nn

from misc.errors import UserError
from misc.imutils import IMAGENET_MEAN, IMAGENET_STD
from misc.storage.files import reason
from net.backbones import KINDS, ResNet, inferred_arch, require_fit
from net.names import plain_names

_TIMM = "timm:"
_FITTING = ", ".join(KINDS)
_RELATIVE = 1e-3  # rounding of some fifty layers that are added up in another order


def published_backbone(
    name: str, flag: str, download: bool = True
) -> tuple[dict, dict[str, Tensor]]:
    """Arch and state dict of torchvision's IMAGENET1K_V1 or timm's weights of this name.

    download: False checks the name, with random weights. Raises UserError for what does not fit.
    """
    if name in KINDS:
        arch = {"name": name, "width": 64, "stem": 64, "stride_in_1x1": False}
        return arch, plain_names(_torchvision_weights(name)) if download else {}
    if not name.startswith(_TIMM):
        raise UserError(
            f"{flag} {name}: is neither a file nor a name of published weights; give a file, "
            f"one of {_FITTING}, or {_TIMM}NAME"
        )
    theirs = _timm_network(name, download)
    state = plain_names(theirs.state_dict())
    arch = {"stride_in_1x1": False, **inferred_arch(state)}
    require_fit(name, ResNet, arch, state, f"give one of timm's {_FITTING}")
    ours = ResNet(**arch, strides=(2, 2, 2, 2)).eval()
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # names of weights do not tell another activation, pooling or stride
        expected, found = theirs.forward_features(images), ours(images)[-1]
    same = expected.shape == found.shape
    if not same or (expected - found).abs().max() > _RELATIVE * expected.abs().max():
        raise UserError(
            f"{name}: computes other features than a {arch['name']} with its weights does "
            f"(another activation, pooling or stride); give one of timm's {_FITTING}"
        )
    return arch, state


def _torchvision_weights(name: str) -> dict[str, Tensor]:
    from torchvision import models  # which takes seconds in every process of a step

    try:
        weights = models.get_model_weights(name).IMAGENET1K_V1
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(
            f"the ImageNet weights of torchvision cannot be downloaded ({reason(error)}); "
            "download them elsewhere and give --imagenet_weights FILE (--seg_init FILE)"
        ) from error


def _timm_network(name: str, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError(
            f"{name}: timm is not installed; pip install timm, or give a file or one of {_FITTING}"
        ) from None
    try:
        network = timm.create_model(name.removeprefix(_TIMM), pretrained=pretrained).eval()
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        raise UserError(
            f"{name}: timm has no such weights, or cannot download them ({reason(error)}); "
            "give another name, or a file"
        ) from error
    seen = tuple(tuple(network.pretrained_cfg.get(key) or ()) for key in ("mean", "std"))
    if seen != (tuple(IMAGENET_MEAN), tuple(IMAGENET_STD)):
        raise UserError(
            f"{name}: was trained on images with a mean of {seen[0]} and a deviation of {seen[1]}, "
            f"but images have ImageNet's here; give another of timm's {_FITTING}"
        )
    return network
