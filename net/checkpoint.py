"""Reading and writing network weights: own files, torchvision's, and those published with IRN, RIB.

A checkpoint is a dict with `arch` (constructor values of the network), `state_dict` (float tensors;
the backbone under torchvision's names, a head under its own) and any further plain values.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from misc.errors import UserError
from misc.runtime.programs import shielded
from misc.storage.manifest import weights_name
from misc.storage.torch_files import read_torch, write_torch
from net.backbones import KINDS, ResNet, inferred_arch
from net.deeplab_v2 import COLOURS, DeepLabV2
from net.names import is_deeplab, original_names, plain_names
from net.published import FITTING, TIMM, require_same_features, timm_network, torchvision_weights
from net.resnet50_cam import CAM
from net.resnet50_irn import EdgeDisplacement

Network = TypeVar("Network", bound=nn.Module)

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # under which others save weights
_HEADS = ("classifier.", "fc_edge", "fc_dp", "mean_shift.", "aspp.")
_ARCH = ("name", "width", "stem", "stride_in_1x1")  # of a backbone
# What the originals build: they have no option for it, and would load others without a word.
_OF_IRN = {"name": "resnet50", "stride_in_1x1": False}
_OF_DEEPLAB = {"name": "resnet101", "stride_in_1x1": True, "colours": "caffe"}
_MAX_CHANNELS = 1 << 16  # of a layer, above all classes
_SHOWN = 3  # differing names of each kind in a message


def save_checkpoint(
    path: str | Path, model: nn.Module, dtype: torch.dtype = torch.float32, **extra: Any
) -> None:
    """Writes a network with an `arch` in this precision; other plain values are stored beside it.

    extra: numbers, strings, tensors, and lists, tuples or dicts of them; TypeError for anything
    else, which could not be read back safely. An older file is replaced when the new one is
    complete. Raises UserError where the file cannot be written.
    """
    for name, value in extra.items():
        if not _is_plain(value):
            raise TypeError(f"{name} is a {type(value).__name__} and not plain data")
    state = plain_names(model.state_dict())
    state = {name: tensor.detach().to("cpu", dtype) for name, tensor in state.items()}
    with shielded():
        write_torch(Path(path), {**extra, "arch": dict(model.arch), "state_dict": state})


def original_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint as IRN, RIB and, of a segmentation network, deeplab-pytorch
    load it. Raises UserError for a network of another kind than theirs.
    """
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


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, Tensor))


def read_checkpoint(path: str | Path) -> dict[str, dict]:
    """Reads a file of any accepted kind, running no code from it.

    Returns `arch` (name, width, stem, stride_in_1x1 and, of a classifier, num_classes; inferred
    from the tensors where the file has none), `state_dict` (name -> float32 tensor on the CPU) and
    `extra` (further values of the file). Raises UserError for a missing file and for one that is
    not a checkpoint of a ResNet.
    """
    path = Path(path)
    content = read_torch(path)
    extra = {}
    wrapper = next((key for key in _WRAPPERS if _is_wrapped(content, key)), None)
    if wrapper:
        extra = {k: v for k, v in content.items() if k not in ("arch", wrapper)}
        given, state = content.get("arch", {}), content[wrapper]
    else:
        given, state = {}, content
    if not _is_state_dict(state) or not isinstance(given, Mapping):
        raise UserError(f"{path} holds no network weights; give a ResNet checkpoint")
    if is_deeplab(state):
        given = {"stride_in_1x1": True, "colours": "caffe", **given}
    state = plain_names(state)
    # Many names may stand for one tensor; each becomes one of its own.
    if sum(tensor.numel() for tensor in state.values()) > path.stat().st_size:
        raise UserError(f"{path} has more weights than bytes; give a ResNet checkpoint")
    state = {name: tensor.float() for name, tensor in state.items()}
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"{path} has weights that are not finite ({_first(broken)}); its training failed, or "
            "it is damaged: give another file"
        )
    return {"arch": _complete_arch(path, given, state), "state_dict": state, "extra": extra}


def _is_wrapped(content: Any, key: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(key), Mapping)


def _is_state_dict(state: Any) -> bool:
    return (
        isinstance(state, Mapping)
        and len(state) > 0
        and all(isinstance(name, str) for name in state)
        and all(isinstance(tensor, Tensor) for tensor in state.values())
    )


def _complete_arch(path: Path, given: Mapping, state: Mapping[str, Tensor]) -> dict:
    """The file's arch, checked against its tensors, or what the tensors tell."""

    inferred = inferred_arch(state)
    if "aspp.0.weight" in state:
        inferred["num_labels"] = len(state["aspp.0.weight"].flatten(1))
    if "classifier.weight" in state:
        inferred["num_classes"] = len(state["classifier.weight"].flatten(1))
    if max(number for number in inferred.values() if isinstance(number, int)) > _MAX_CHANNELS:
        raise UserError(f"{path} has tensors of more than {_MAX_CHANNELS} channels; give another")
    arch = {"stride_in_1x1": False, **inferred, **given}
    for key, value in inferred.items():
        if type(arch[key]) is not type(value) or arch[key] != value:
            raise UserError(
                f"{path} has an arch with {key} {arch[key]!r:.40}, but its tensors are those of "
                f"{key} {value!r}; give a ResNet checkpoint"
            )
    if not isinstance(arch["stride_in_1x1"], bool):
        raise UserError(f"{path} has an arch whose stride_in_1x1 is not a bool; give another file")
    if arch.setdefault("colours", "torchvision") not in tuple(COLOURS):
        raise UserError(f"{path} has an arch whose colours are not known; give another file")
    names = (*_ARCH, "num_classes", "num_labels", "colours")
    return {key: arch[key] for key in names if key in arch}


def _options(arch: Mapping) -> dict:
    """The part of an arch that every network's constructor takes: that of the backbone."""
    return {key: arch[key] for key in _ARCH}


def _check_fit(
    path: Path | str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], advice: str
) -> None:
    """Raises UserError, with the first differing names, unless the tensors are those wanted."""
    common = [name for name in wanted if name in state]
    shapes = [(name, state[name].shape, wanted[name].shape) for name in common]
    differences = {
        "missing": [name for name in wanted if name not in state],
        "unexpected": [name for name in state if name not in wanted],
        "of another shape": [
            f"{name} ({_size(found)} and not {_size(expected)})"
            for name, found, expected in shapes
            if found != expected
        ],
    }
    if any(differences.values()):
        listed = "; ".join(f"{kind}: {_first(n)}" for kind, n in differences.items() if n)
        raise UserError(f"{path} is of another network ({listed}); {advice}")


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _first(names: list[str]) -> str:
    shown = ", ".join(" ".join(name.split()) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _load(
    path: Path, state: Mapping[str, Tensor], build: Callable[[], Network], advice: str
) -> Network:
    """Copies the tensors into the network, which is returned in evaluation mode."""
    with torch.device("meta"):  # a network of any size needs no memory there
        wanted = plain_names(build().state_dict())
    _check_fit(path, state, wanted, advice)
    model = build()
    backbone = {name: t for name, t in state.items() if not name.startswith(_HEADS)}
    heads = {name: t for name, t in state.items() if name.startswith(_HEADS)}
    model.load_state_dict({**{f"backbone.{name}": t for name, t in backbone.items()}, **heads})
    return model.eval()


def on_backbone(cls: type[Network], path: str | Path | None, *arguments: Any) -> Network:
    """A new network of this class, untrained but for the backbone of `load_backbone`."""
    arch, state = load_backbone(path)
    model = cls(*arguments, **arch)
    model.backbone.load_state_dict(state)
    return model


def load_classifier(path: str | Path, num_classes: int, cls: type[Network] = CAM) -> Network:
    """A trained classifier of `num_classes` classes, in evaluation mode on the CPU.

    cls: `net.resnet50_cam.CAM` or `Net`. Raises UserError for a file that does not fit.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    found = checkpoint["arch"].get("num_classes", num_classes)
    if found != num_classes:
        raise UserError(
            f"{path} is a classifier of {found} classes, but the data set has {num_classes}; "
            "give the one that train_cam wrote for this data set"
        )
    build = partial(cls, n_classes=num_classes, **_options(checkpoint["arch"]))
    advice = "give a classifier, as train_cam writes it"
    return _load(path, checkpoint["state_dict"], build, advice)


def load_boundary_net(
    path: str | Path, cls: type[Network] = EdgeDisplacement, **options: Any
) -> Network:
    """A trained boundary network, in evaluation mode on the CPU.

    cls: a class of `net.resnet50_irn`; options: its further constructor arguments. Raises
    UserError for a file that does not fit.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    build = partial(cls, **options, **_options(checkpoint["arch"]))
    advice = "give a boundary network, as train_irn writes it"
    return _load(path, checkpoint["state_dict"], build, advice)


def load_segmentation(path: str | Path, num_labels: int, **options: Any) -> DeepLabV2:
    """A trained segmentation network, in evaluation mode on the CPU.

    options: further constructor arguments. Raises UserError for a file that does not fit.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    arch = checkpoint["arch"]
    found = arch.get("num_labels", num_labels)
    if found != num_labels:
        raise UserError(
            f"{path} tells {found} labels apart, but the data set has {num_labels}; give the one "
            "that train_seg wrote for this data set"
        )
    build = partial(DeepLabV2, num_labels, colours=arch["colours"], **options, **_options(arch))
    advice = "give a segmentation network, as train_seg writes it"
    return _load(path, checkpoint["state_dict"], build, advice)


def segmentation_on(path: str | Path | None, num_labels: int, **options: Any) -> DeepLabV2:
    """A new segmentation network, untrained but for its backbone.

    path: as in `load_backbone`, or a file of deeplab-pytorch; None is torchvision's ResNet-101.
    """
    arch, state = load_backbone(path, "--seg_init", "ResNet101")
    is_file = path is not None and not weights_name(path)
    colours = read_checkpoint(path)["arch"]["colours"] if is_file else "torchvision"
    model = DeepLabV2(num_labels, colours=colours, **options, **arch)
    model.backbone.load_state_dict(state)
    return model


def load_backbone(
    path: str | Path | None, flag: str = "--imagenet_weights", network: str = "ResNet50"
) -> tuple[dict, dict[str, Tensor]]:
    """What training starts from: arch (name, width, stem, stride_in_1x1) and state dict.

    path: a torchvision ResNet, a backbone of any width, or a network of this project, of which
    the backbone is taken; or the name of published weights, "resnet18" (torchvision's
    IMAGENET1K_V1) or "timm:resnet18.a1_in1k"; None is torchvision's `network`. The names are
    those of `net.backbones.ResNet`, the tensors float32. Raises UserError for a file or a network
    that does not fit and for a download that fails.
    """
    if path is None or weights_name(path):
        return _published(weights_name(path) or network.lower(), flag)
    path = Path(path)
    checkpoint = read_checkpoint(path)
    arch = _options(checkpoint["arch"])
    state = {
        name: tensor
        for name, tensor in checkpoint["state_dict"].items()
        if not name.startswith(_HEADS)
    }
    _check_fit(path, state, _wanted(arch), f"give ResNet weights for {flag}")
    return arch, state


def backbone_arch(path: str | Path | None, flag: str = "--imagenet_weights") -> dict:
    """The arch that `load_backbone` would give, without any download; {} where path is None."""
    name = weights_name(path)
    if name.startswith(TIMM):
        network = timm_network(name.removeprefix(TIMM), pretrained=False)
        return inferred_arch(plain_names(network.state_dict()))
    if name in KINDS:
        return {"name": name}
    return load_backbone(path, flag)[0] if path else {}


def _published(name: str, flag: str) -> tuple[dict, dict[str, Tensor]]:
    """Arch and state dict of torchvision's or timm's weights of this name."""
    if name in KINDS:
        arch = {"name": name, "width": 64, "stem": 64, "stride_in_1x1": False}
        return arch, plain_names(torchvision_weights(name))
    if not name.startswith(TIMM):
        raise UserError(
            f"{flag} {name}: is neither a file nor a name of published weights; give a file, "
            f"one of {FITTING}, or {TIMM}NAME"
        )
    network = timm_network(name.removeprefix(TIMM))
    state = plain_names(network.state_dict())
    arch = {"stride_in_1x1": False, **inferred_arch(state)}
    _check_fit(name, state, _wanted(arch), f"give one of timm's {FITTING}")
    require_same_features(name.removeprefix(TIMM), network, arch, state)
    return arch, state


def _wanted(arch: Mapping) -> dict[str, Tensor]:
    """Names and shapes of the tensors of a backbone."""
    with torch.device("meta"):
        return plain_names(ResNet(**arch).state_dict())
