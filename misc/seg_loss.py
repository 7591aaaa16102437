"""Losses and schedule of the segmentation network (DeepLab-v2)."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from misc.labels import IGNORED, IGNORED_OF_16_BITS
from misc.runtime.distributed import summed


@functools.lru_cache(maxsize=64)
def nearest_indices(source: int, target: int) -> tuple[int, ...]:
    """Source index of every target index in Pillow's nearest resize of one axis."""
    step = source / target
    return tuple(np.cumsum([step / 2, *[step] * (target - 1)]).astype(int).tolist())


def resized_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels B x H x W, each axis resized to (h, w) by its nearest pixels: B x h x w."""
    rows, columns = (
        torch.tensor(nearest_indices(source, target), device=labels.device)
        for source, target in zip(labels.shape[-2:], size, strict=True)
    )
    return labels[:, rows[:, None], columns]


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the chosen pixels of all ranks, of which each gives its part; 0 without any."""
    return (values * chosen).sum() / summed(chosen.sum()).clamp_min(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labelled pixels of a batch, 0 where there are none.

    logits: B x L x h x w. labels: B x h x w, 255 is left out, of int32 labels (those of 16-bit
    label maps) 65535.
    """
    values, labelled = _by_pixel(logits, labels)
    return _mean(values, labelled)


def balanced_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Half the mean over background pixels and half that over foreground pixels.

    The mean of a side without pixels counts as 0. Shapes as in `cross_entropy`.
    """
    values, labelled = _by_pixel(logits, labels)
    return (_mean(values, labels == 0) + _mean(values, labelled & (labels != 0))) / 2


def _by_pixel(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of every pixel, and whether it has a label: B x h x w each."""
    ignored = IGNORED_OF_16_BITS if labels.dtype == torch.int32 else IGNORED
    values = F.cross_entropy(logits, labels.long(), ignore_index=ignored, reduction="none")
    return values, labels != ignored


LOSSES = {"ce": cross_entropy, "balanced": balanced_cross_entropy}


def scale_losses(outputs: list[Tensor], labels: Tensor, kind: str = "ce") -> list[Tensor]:
    """The loss of each output of the network, with the labels B x H x W at its size."""
    return [LOSSES[kind](out, resized_labels(labels, out.shape[-2:])) for out in outputs]


def stepwise_poly(
    optimizer: torch.optim.Optimizer, iterations: int, every: int = 10, power: float = 0.9
) -> LambdaLR:
    """Learning rates times (1 - k / iterations)^power, where k moves every so many iterations."""

    def factor(done: int) -> float:
        k = min(done, iterations) // every * every
        return (1 - k / iterations) ** power

    return LambdaLR(optimizer, factor)
