"""Names of layers in the files of IRN, RIB and deeplab-pytorch, and in those of this project.

Here a backbone has torchvision's names, and a head its own.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# The published networks register layers several times. These are the repeated names.
_REPEATS = ("stage1.", "stage2.", "stage3.", "stage4.", "stage5.", "backbone.", "newly_added.")
_REPEATS += ("edge_layers.", "dp_layers.", "fc_dp7.4.")
# Where the backbone is in a network; the published ones have groups of layers as backbone.0, ...
_BACKBONE = re.compile(r"^(module\.)?((resnet50|backbone)\.(?=[a-z]))?")
# ImageNet's classes; the pixel pairs of a training, which are buffers of IRN's training network.
_UNUSED = ("fc.", "path_indices", "disp_target", *_REPEATS)
# deeplab-pytorch's names of the layers in a block, and torchvision's.
_OF_DEEPLAB = {"reduce": "conv1", "conv3x3": "conv2", "increase": "conv3"}


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are used, once each, under names without the prefix of a wrapper."""
    state = {_BACKBONE.sub("", name): tensor for name, tensor in state.items()}
    if is_deeplab(state):
        state = {_name_in_deeplab(name): tensor for name, tensor in state.items()}
    elif "conv1.weight" not in state:
        state = _names_of_stages(state)
    return {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(_UNUSED) and not name.endswith("num_batches_tracked")
    }


def is_deeplab(names: Iterable[str]) -> bool:
    """Whether a file is one of deeplab-pytorch: what it starts from, or a trained network."""
    plain = (_BACKBONE.sub("", name).removeprefix("base.") for name in names)
    return "layer1.conv1.conv.weight" in plain


def _name_in_deeplab(name: str) -> str:
    """torchvision's name for one of deeplab-pytorch, which has aspp or (COCO) fc as its head."""
    name = re.sub(r"^(aspp|fc)\.c(\d)", r"aspp.\2", name.removeprefix("base."))
    name = re.sub(r"^layer1\.conv1\.", "stem.conv1.", name)
    if found := re.match(r"^(stem|layer(\d)\.block(\d+))\.(\w+)\.(conv|bn)\.(.*)", name):
        part, layer, block, kind, module, rest = found.groups()
        if kind == "shortcut":
            own = "downsample.0" if module == "conv" else "downsample.1"
        else:
            own = _OF_DEEPLAB.get(kind, kind).replace("conv", module)
        prefix = "" if part == "stem" else f"layer{int(layer) - 1}.{int(block) - 1}."
        name = f"{prefix}{own}.{rest}"
    return name


def _names_of_stages(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the backbone's layers for files that have those of IRN's groups of layers alone."""
    by_stage = {
        re.sub(r"^backbone\.(\d)\.", lambda m: f"stage{int(m[1]) + 1}.", name): tensor
        for name, tensor in state.items()
    }
    # The boundary network has layer1 in a stage of its own, the classifier after the stem.
    first = 1 if any(name.startswith("stage5.") for name in by_stage) else 0
    renamed = {}
    for name, tensor in by_stage.items():
        name = re.sub(r"^stage1\.0\.", "conv1.", name)
        name = re.sub(r"^stage1\.1\.", "bn1.", name)
        name = re.sub(r"^stage1\.4\.", "layer1.", name)
        name = re.sub(r"^stage([2-5])\.0\.", lambda m: f"layer{int(m[1]) - first}.", name)
        renamed[name] = tensor
    return renamed


def original_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as the originals save it: IRN's and RIB's layers under all their names."""
    if "aspp.0.weight" in state:
        return {f"base.{_of_deeplab(name)}": tensor for name, tensor in state.items()}
    boundary = "mean_shift.running_mean" in state
    return {alias: t for name, t in state.items() for alias in _of_irn(name, boundary)}


def _of_irn(name: str, boundary: bool) -> Iterable[str]:
    """All names of a layer in IRN's networks. boundary: in the boundary net, not a classifier."""
    layer, _, rest = name.partition(".")
    if head := re.match(r"fc_(edge|dp)(\d)$", layer):
        return name, f"{head[1]}_layers.{int(head[2]) - 1}.{rest}"
    if layer == "mean_shift":
        return name, f"fc_dp7.4.{rest}", f"dp_layers.6.4.{rest}"
    if layer == "classifier":
        return name, f"newly_added.0.{rest}"
    if layer in ("conv1", "bn1"):
        stage, place = 0, int(layer == "bn1")
    elif layer == "layer1" and not boundary:  # in one stage with the stem
        stage, place = 0, 4
    else:
        stage, place = int(layer[-1]) - (not boundary), 0
    in_stage = f"{place}.{rest}"
    return f"resnet50.{name}", f"stage{stage + 1}.{in_stage}", f"backbone.{stage}.{in_stage}"


def _of_deeplab(name: str) -> str:
    """deeplab-pytorch's name of a layer."""
    name = re.sub(r"^aspp\.", "aspp.c", name)
    name = re.sub(r"^(conv|bn)1\.", r"layer1.conv1.\1.", name)
    if found := re.match(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(.*)", name):
        layer, block, module, number, rest = found.groups()
        if module == "downsample.":
            own = f"shortcut.{('conv', 'bn')[int(number)]}"
        else:
            own = f"{tuple(_OF_DEEPLAB)[int(number) - 1]}.{module}"
        name = f"layer{int(layer) + 1}.block{int(block) + 1}.{own}.{rest}"
    return name
