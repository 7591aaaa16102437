"""Names of layers in files of IRN, RIB and deeplab-pytorch; here a backbone has torchvision's."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from net.backbones import ResNet

# The prefix of a wrapper, and that of the backbone; IRN's groups of layers are backbone.0, ...
_PREFIX = re.compile(r"^(module\.)?((resnet50|backbone)\.(?=[a-z]))?")
# ImageNet's classes; what IRN's networks register a second time; the pixel pairs of its training.
_UNUSED = ("fc.", "stage1.", "stage2.", "stage3.", "stage4.", "stage5.", "backbone.",
           "newly_added.", "edge_layers.", "dp_layers.", "fc_dp7.4.",
           "path_indices", "disp_target")  # fmt: skip
_STEM = {"conv1": 0, "bn1": 1, "layer1": 4}  # places in IRN's first group
# deeplab-pytorch's names of the layers in a block, and torchvision's.
_OF_DEEPLAB = {"reduce": "conv1", "conv3x3": "conv2", "increase": "conv3"}


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are used, once each, under torchvision's names and those of the heads."""
    state, known = {_PREFIX.sub("", name): tensor for name, tensor in state.items()}, {}
    if is_deeplab(state):  # whose head is called aspp or (COCO) fc
        state = {name.removeprefix("base."): tensor for name, tensor in state.items()}
        state = {re.sub(r"^(aspp|fc)\.c", "aspp.", name): t for name, t in state.items()}
        known = {_to_deeplab(name): name for name in _layers("resnet101")}
    elif "conv1.weight" not in state:  # a file with IRN's groups of layers alone
        # The boundary network has layer1 in a group of its own, the classifier after the stem.
        boundary = any(name.startswith(("stage5.", "backbone.4.")) for name in state)
        known = {alias: n for n in _layers("resnet50") for alias in _to_irn(n, boundary)}
    state = {known.get(name, name): tensor for name, tensor in state.items()}
    return {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(_UNUSED) and not name.endswith("num_batches_tracked")
    }


def is_deeplab(names: Iterable[str]) -> bool:
    """Return True for a file of deeplab-pytorch: an initialization, or a trained network."""
    plain = (_PREFIX.sub("", name).removeprefix("base.") for name in names)
    return "layer1.conv1.conv.weight" in plain


def _layers(name: str) -> Iterable[str]:
    with torch.device("meta"):
        return ResNet(name).state_dict()


def original_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as the originals save it: IRN's and RIB's layers under all their names."""
    if "aspp.0.weight" in state:
        return {f"base.{_to_deeplab(name)}": tensor for name, tensor in state.items()}
    boundary = "mean_shift.running_mean" in state
    return {alias: t for name, t in state.items() for alias in _to_irn(name, boundary)}


def _to_irn(name: str, boundary: bool) -> Iterable[str]:
    layer, _, rest = name.partition(".")
    if head := re.match(r"fc_(edge|dp)(\d)$", layer):
        return name, f"{head[1]}_layers.{int(head[2]) - 1}.{rest}"
    if layer == "mean_shift":
        return name, f"fc_dp7.4.{rest}", f"dp_layers.6.4.{rest}"
    if layer == "classifier":
        return name, f"newly_added.0.{rest}"
    if layer in _STEM and not (boundary and layer == "layer1"):
        group, place = 0, _STEM[layer]
    else:
        group, place = int(layer[-1]) - (not boundary), 0
    in_group = f"{place}.{rest}"
    return f"resnet50.{name}", f"stage{group + 1}.{in_group}", f"backbone.{group}.{in_group}"


def _to_deeplab(name: str) -> str:
    name = re.sub(r"^aspp\.", "aspp.c", name)
    name = re.sub(r"^(conv|bn)1\.", r"layer1.conv1.\1.", name)
    if found := re.match(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(.*)", name):
        layer, block, module, number, rest = found.groups()
        own = f"{tuple(_OF_DEEPLAB)[int(number) - 1]}.{module}"
        if module == "downsample.":
            own = f"shortcut.{('conv', 'bn')[int(number)]}"
        name = f"layer{int(layer) + 1}.block{int(block) + 1}.{own}.{rest}"
    return name
