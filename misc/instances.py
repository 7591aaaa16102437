"""Instance labels: pixels grouped by the centroid that their displacements lead to (IRN, Sec. 5).

An image without classes, or whose maps are all zero, has no instances.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from misc.indexing import propagate_to_edge, upsampled_walk

MOVES = 300
WEAK = 2.5  # displacements shorter than this are close to a centroid
MIN_FRAGMENT = 0.01  # fraction of the image; smaller parts get the score 0


class Detections(NamedTuple):
    """Instances of an image, in the order of classes and of clusters."""

    score: np.ndarray  # (N,) float32, 0 for fragments
    mask: np.ndarray  # N x H x W bool
    classes: np.ndarray  # (N,) int64, 0-based


def centroids(displacement: np.ndarray, moves: int = MOVES) -> np.ndarray:
    """End of every pixel that follows the field, 2 x h x w float32 (rows, columns).

    displacement: 2 x h x w in pixels. It is read bilinearly at the position, to which it is added;
    positions stay within the map.
    """
    height, width = displacement.shape[1:]
    field = np.ascontiguousarray(displacement.reshape(2, -1), dtype=np.float64)
    rows, columns = np.mgrid[:height, :width].reshape(2, -1).astype(np.float32)
    for _ in range(moves):
        top, left = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
        down, right = rows.astype(np.float64) - top, columns.astype(np.float64) - left
        first, below = top * width, np.minimum(top + 1, height - 1) * width
        beside = np.minimum(left + 1, width - 1)
        moved = (
            field[:, first + left] * ((1 - down) * (1 - right))
            + field[:, first + beside] * ((1 - down) * right)
            + field[:, below + left] * (down * (1 - right))
            + field[:, below + beside] * (down * right)
        )
        rows = np.clip(rows + moved[0], 0, height - 1).astype(np.float32)
        columns = np.clip(columns + moved[1], 0, width - 1).astype(np.float32)
    return np.stack([rows, columns]).reshape(2, height, width)


def clusters(displacement: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Number of the instance of every pixel, h x w int32 from 0, without gaps.

    ends: those of `centroids`. Pixels belong together whose points end in the same connected region
    of short displacements; all that end outside of these form one instance, the first.
    """
    weak = np.hypot(*displacement.astype(np.float64)) < WEAK
    regions, _ = ndimage.label(weak)  # 4-connected, numbered in scan order
    rows, columns = np.rint(ends).astype(np.intp)
    found = regions[rows, columns]
    return np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.int32)


def instance_maps(cams: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Class maps K x h x w cut to each of n clusters: (K n) x h x w, class by class."""
    inside = groups == np.arange(groups.max() + 1)[:, None, None]
    return (cams[:, None] * inside).reshape(-1, *groups.shape)


def instance_scores(
    cams: np.ndarray, groups: np.ndarray, edge: Tensor, size: tuple[int, int], **walk: float
) -> Tensor:
    """Scores of every instance of every class after the random walk, (K n) x H x W in 0..1.

    edge: boundary probabilities 1 x h x w. size: (H, W). walk: radius, beta, exp_times.
    """
    maps = torch.from_numpy(instance_maps(cams, groups)).to(edge)
    return upsampled_walk(propagate_to_edge(maps, edge, **walk), size)


def decided(scores: np.ndarray, background: float) -> np.ndarray:
    """Label of every pixel, H x W: 0 background, else channel + 1; ties go to the lower."""
    channels = np.concatenate([np.full((1, *scores.shape[1:]), background, np.float32), scores])
    return channels.argmax(axis=0)


def detections(
    scores: np.ndarray, labels: np.ndarray, classes: np.ndarray, min_fragment: float
) -> Detections:
    """The connected parts of every channel's region.

    scores: C x H x W. labels: H x W of `decided`. classes: (C,) of the channels. min_fragment: in
    pixels; smaller parts stay, with the score 0.
    """
    found: list[tuple[float, np.ndarray, int]] = []
    for channel, of_channel in enumerate(scores):
        parts, count = ndimage.label(labels == channel + 1)
        for part in range(1, count + 1):
            mask = parts == part
            score = of_channel[mask].max() if mask.sum() >= min_fragment else 0.0
            found.append((float(score), mask, int(classes[channel])))
    if not found:
        none = np.zeros((0, *labels.shape), dtype=bool)
        return Detections(np.zeros(0, np.float32), none, np.zeros(0, np.int64))
    score, mask, kind = zip(*found, strict=True)
    return Detections(np.array(score, np.float32), np.stack(mask), np.array(kind, np.int64))


def instances(
    cams: np.ndarray,
    keys: np.ndarray,
    displacement: np.ndarray,
    edge: Tensor,
    size: tuple[int, int],
    background: float = 0.25,
    **walk: float,
) -> Detections:
    """All of the above for an image: maps K x h x w, classes (K,), field 2 x h x w -> instances."""
    if len(keys) == 0 or not cams.any():
        return detections(np.zeros((0, *size)), np.zeros(size, int), keys, 0)
    groups = clusters(displacement, centroids(displacement))
    scores = instance_scores(cams, groups, edge, size, **walk).cpu().numpy()
    channels = np.repeat(np.asarray(keys), groups.max() + 1)
    limit = size[0] * size[1] * MIN_FRAGMENT
    return detections(scores, decided(scores, background), channels, limit)
