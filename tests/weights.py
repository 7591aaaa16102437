"""Weights of any network by the recipe that the recorded outputs were made with."""

import functools
import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn


@functools.cache  # to draw a ResNet-50 takes a second
def recipe_tensor(name: str, shape: tuple[int, ...], seed: int = 1) -> Tensor:
    """The float32 tensor that belongs to a name (without `backbone.`), drawn in float64."""
    random = np.random.RandomState(zlib.crc32(f"{name}#{seed}".encode()))
    if name.endswith("running_var"):
        value = 1 + 0.5 * random.rand(*shape)
    elif name == "classifier.weight":
        value = random.randn(*shape) * math.sqrt(1 / shape[1]) * 0.5
    elif len(shape) == 4:
        value = random.randn(*shape) * math.sqrt(2 / math.prod(shape[1:]))
        value = value * 0.2 if name.endswith("conv3.weight") else value
    elif name.endswith("weight"):
        value = 1 + 0.1 * random.randn(*shape)
    else:
        value = 0.1 * random.randn(*shape)
    return torch.from_numpy(value.astype(np.float32))


@torch.no_grad()
def fill_by_recipe(model: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    """Fills a network in place and returns its tensors under torchvision's names."""
    own = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked") and not name.startswith("mean_shift")
    }
    plain = {}
    for name, tensor in own.items():
        name = name.removeprefix("backbone.")
        plain[name] = recipe_tensor(name, tuple(tensor.shape), seed)
        tensor.copy_(plain[name])
    return plain
