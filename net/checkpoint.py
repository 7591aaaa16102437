"""Reading and writing network weights: own files, torchvision's, and those published with IRN, RIB.

A checkpoint is a dict with `arch` (constructor values of the network), `state_dict` (float tensors;
the backbone under torchvision's names, a head under its own) and any further plain values.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from misc.errors import UserError
from misc.runtime.programs import shielded
from misc.storage.files import reason
from misc.storage.manifest import weights_name
from misc.storage.torch_files import read_torch, write_torch
from net.backbones import ResNet, inferred_arch, require_fit
from net.deeplab_v2 import COLOURS, DeepLabV2
from net.names import is_deeplab, original_names, plain_names
from net.published import published_backbone
from net.resnet50_cam import CAM
from net.resnet50_irn import EdgeDisplacement

Network = TypeVar("Network", bound=nn.Module)

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # under which others save weights
_HEADS = ("classifier.", "fc_edge", "fc_dp", "mean_shift.", "aspp.")
_BACKBONE = ("name", "width", "stem", "stride_in_1x1")  # of an arch
# The networks of the original code, which has no option for it and would load others silently.
_OF_IRN = {"name": "resnet50", "stride_in_1x1": False}
_OF_DEEPLAB = {"name": "resnet101", "stride_in_1x1": True, "colours": "caffe"}
_MAX_CHANNELS = 1 << 16  # of a layer, above all classes


def save_checkpoint(
    path: str | Path, model: nn.Module, dtype: torch.dtype = torch.float32, **extra: Any
) -> None:
    """Write a network with an `arch` in this precision, and other plain values beside it.

    An older file is replaced when the new one is complete. Raises UserError where it cannot be.
    """
    state = plain_names(model.state_dict())
    state = {name: tensor.detach().to("cpu", dtype) for name, tensor in state.items()}
    with shielded():
        write_torch(Path(path), {**extra, "arch": dict(model.arch), "state_dict": state})


def original_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict as the original code loads it; UserError for another network than theirs."""
    checkpoint = read_checkpoint(path)
    arch, state = checkpoint["arch"], checkpoint["state_dict"]
    wanted = _OF_DEEPLAB if "aspp.0.weight" in state else _OF_IRN
    found = {key: arch[key] for key in wanted}
    if found != wanted:
        raise UserError(
            f"{path}: is a network of {found}, and the original code builds one of {wanted}, which "
            "would compute something else with these weights; they are not exported"
        )
    return original_names(state)


def read_checkpoint(path: str | Path) -> dict[str, dict]:
    """Read a file of any accepted kind, running no code from it; UserError where it is of none.

    Returns `arch` (inferred from the tensors where the file has none), `state_dict` (name ->
    float32 tensor on the CPU) and `extra` (further values of the file).
    """
    path = Path(path)
    state = read_torch(path)
    given, extra = {}, {}
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            extra = {k: v for k, v in state.items() if k not in ("arch", key)}
            given, state = state.get("arch", {}), state[key]
            break
    named = isinstance(state, Mapping) and state and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path} holds no network weights; give a ResNet checkpoint")
    if not isinstance(given, Mapping):
        raise UserError(f"{path} has an arch that is not a dict; give a ResNet checkpoint")
    if is_deeplab(state):
        given = {"stride_in_1x1": True, "colours": "caffe", **given}
    state = plain_names(state)
    # Many names may stand for one tensor; each becomes one of its own.
    if sum(tensor.numel() for tensor in state.values()) > path.stat().st_size:
        raise UserError(f"{path} has more weights than bytes; give a ResNet checkpoint")
    state = {name: tensor.float() for name, tensor in state.items()}
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise UserError(
            f"{path} has weights that are not finite ({reason(broken[0])}); its training failed, "
            "or it is damaged: give another file"
        )
    return {"arch": _complete_arch(path, given, state), "state_dict": state, "extra": extra}


def _complete_arch(path: Path, given: Mapping, state: Mapping[str, Tensor]) -> dict:
    """The file's arch, checked against its tensors, or what the tensors tell."""
    inferred = inferred_arch(state)
    for key, name in (("num_classes", "classifier.weight"), ("num_labels", "aspp.0.weight")):
        if name in state:
            inferred[key] = len(state[name].flatten(1))
    if max(number for number in inferred.values() if isinstance(number, int)) > _MAX_CHANNELS:
        raise UserError(f"{path} has tensors of more than {_MAX_CHANNELS} channels; give another")
    arch = {"stride_in_1x1": False, "colours": "torchvision", **inferred, **given}
    expected = {**inferred, "stride_in_1x1": bool(arch["stride_in_1x1"])}
    for key, value in expected.items():
        if type(arch[key]) is not type(value) or arch[key] != value:
            raise UserError(
                f"{path} has an arch with {key} {arch[key]!r:.40}, but its tensors are those of "
                f"{key} {value!r}; give a ResNet checkpoint"
            )
    if arch["colours"] not in tuple(COLOURS):
        raise UserError(f"{path} has an arch whose colours are not known; give another file")
    return {key: arch[key] for key in ("colours", *expected)}


def _load(path: str | Path, cls: type[Network], advice: str, **options: Any) -> Network:
    checkpoint = read_checkpoint(path)
    arch, state = checkpoint["arch"], checkpoint["state_dict"]
    found = arch.get("num_classes", arch.get("num_labels"))
    wanted = options.get("n_classes", options.get("num_labels"))
    if found and wanted and found != wanted:
        raise UserError(
            f"{path} tells {found} classes apart, but the dataset has {wanted}; {advice} for this "
            "dataset"
        )
    options |= {key: arch[key] for key in _BACKBONE}
    if cls is DeepLabV2:
        options["colours"] = arch["colours"]
    state = {n if n.startswith(_HEADS) else f"backbone.{n}": t for n, t in state.items()}
    require_fit(path, cls, options, state, advice)
    model = cls(**options)
    model.load_state_dict(state)
    return model.eval()


def load_classifier(path: str | Path, num_classes: int, cls: type[Network] = CAM) -> Network:
    """A trained classifier of `num_classes` classes; cls: `net.resnet50_cam.CAM` or `Net`."""
    return _load(path, cls, "give a classifier, as train_cam writes it", n_classes=num_classes)


def load_boundary_net(
    path: str | Path, cls: type[Network] = EdgeDisplacement, **options: Any
) -> Network:
    """A trained boundary network, a class of `net.resnet50_irn` with further options."""
    return _load(path, cls, "give a boundary network, as train_irn writes it", **options)


def load_segmentation(path: str | Path, num_labels: int, **options: Any) -> DeepLabV2:
    """A trained segmentation network; options: further constructor arguments."""
    advice = "give a segmentation network, as train_seg writes it"
    return _load(path, DeepLabV2, advice, num_labels=num_labels, **options)


def on_backbone(cls: type[Network], path: str | Path | None, *arguments: Any) -> Network:
    """A new network of this class, untrained but for the backbone of `load_backbone`."""
    arch, state = load_backbone(path)
    model = cls(*arguments, **arch)
    model.backbone.load_state_dict(state)
    return model


def segmentation_on(path: str | Path | None, num_labels: int, **options: Any) -> DeepLabV2:
    """A new segmentation network on a backbone's weights; None: torchvision's ResNet-101."""
    arch, state = load_backbone(path, "--seg_init", "ResNet101")
    is_file = path is not None and not weights_name(path)
    colours = read_checkpoint(path)["arch"]["colours"] if is_file else "torchvision"
    model = DeepLabV2(num_labels, colours=colours, **options, **arch)
    model.backbone.load_state_dict(state)
    return model


def load_backbone(
    path: str | Path | None,
    flag: str = "--imagenet_weights",
    network: str = "ResNet50",
    download: bool = True,
) -> tuple[dict, dict[str, Tensor]]:
    """Arch (name, width, stem, stride_in_1x1) and state dict that a training starts from.

    path: a file of a ResNet or of a network of this project, or the name of published weights,
    "resnet18" (torchvision) or "timm:resnet18.a1_in1k"; None is torchvision's `network`.
    download: False checks a name only. Raises UserError for what does not fit or download.
    """
    if path is None or weights_name(path):
        return published_backbone(weights_name(path) or network.lower(), flag, download)
    checkpoint = read_checkpoint(path)
    arch = {key: checkpoint["arch"][key] for key in _BACKBONE}
    state = {n: t for n, t in checkpoint["state_dict"].items() if not n.startswith(_HEADS)}
    require_fit(path, ResNet, arch, state, f"give ResNet weights for {flag}")
    return arch, state
