"""Pixel pairs, the paths between them, affinities and the random walk (IRN, Sec. 4 and 5).

Every start pixel is paired with the same end offsets, and the start pixels fill a rectangle: rows
0 .. H-1-floor and columns floor .. W-1-floor, so that every end is inside the map. What belongs to
all pairs of one offset is therefore a shifted view of the map, and no index array is needed.
"""

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from misc.cams import CAM_STRIDE
from misc.errors import UserError

Offset = tuple[int, int]  # (rows, columns) from a start pixel


class PathIndex:
    """All pixel pairs closer than `radius`, each with the pixels on the line between the two.

    radius: in pixels of the map, an integer. default_size: (H, W) of the maps.
    radius_floor: the largest row or column offset.
    search_paths: one n x length x 2 array for every path length, ascending; the (row, column)
    offsets of the pixels of n paths. A path starts at its end pixel and stops at (0, 0).
    search_dst: pairs x 2, the end offsets in the order of search_paths.
    """

    def __init__(self, radius: int, default_size: tuple[int, int]):
        self.radius = radius
        self.radius_floor = int(np.ceil(radius) - 1)
        self.default_size = default_size
        self.search_paths = list(_paths(radius))
        self.search_dst = np.concatenate([group[:, 0] for group in self.search_paths])


@functools.lru_cache
def _paths(radius: int) -> tuple[np.ndarray, ...]:
    """`PathIndex.search_paths`, read-only: they are the same for images of all sizes."""
    ends = [(0, dx) for dx in range(1, radius)]  # to the right on the same row, then all rows below
    ends += [(dy, dx) for dy in range(1, radius) for dx in range(1 - radius, radius)]
    paths = [_line_pixels(dy, dx) for dy, dx in ends if dy**2 + dx**2 < radius**2]
    lengths = sorted({len(path) for path in paths})
    groups = tuple(np.stack([p for p in paths if len(p) == n]) for n in lengths)
    for group in groups:
        group.flags.writeable = False
    return groups


@functools.lru_cache
def _offsets_on(radius: int, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """`search_dst` and `search_paths` on a device, where they stay: a GPU waits for every copy."""
    paths = [torch.tensor(group, device=device) for group in _paths(radius)]
    return torch.cat([group[:, 0] for group in paths]), paths


def _line_pixels(dy: int, dx: int) -> np.ndarray:
    """Offsets (length x 2) of the pixels closer than 1 to the line from (0, 0) to (dy, dx).

    They are of its bounding box. The farthest comes first, equals in scan order.
    """
    rows, columns = np.mgrid[0 : dy + 1, min(dx, 0) : max(dx, 0) + 1].reshape(2, -1)
    near = (dy * columns - dx * rows) ** 2 < dy**2 + dx**2
    pixels = np.stack([rows[near], columns[near]], axis=1)
    return pixels[np.argsort(-np.abs(pixels).sum(axis=1), kind="stable")]


def start_size(height: int, width: int, floor: int) -> tuple[int, int]:
    """Rows and columns of the rectangle of start pixels in an H x W map.

    Raises UserError where the map is too small to hold one pair of every offset.
    """
    rows, columns = height - floor, width - 2 * floor
    if rows < 1 or columns < 1:
        raise UserError(
            f"a boundary map of {height} x {width} pixels is too small for pixel pairs up to "
            f"{floor} apart; raise --irn_crop_size to at least {4 * (2 * floor + 1)}"
        )
    return rows, columns


def shifted(maps: Tensor, offset: Offset, floor: int) -> Tensor:
    """View of ... x H x W maps at one offset from every start pixel, ... x rows x columns."""
    rows, columns = start_size(*maps.shape[-2:], floor)
    dy, dx = offset
    return maps[..., dy : dy + rows, floor + dx : floor + dx + columns]


def _at_offsets(maps: Tensor, offsets: Tensor, floor: int) -> Tensor:
    """Values of ... x H x W maps at n x 2, or n x length x 2, offsets from every start pixel."""
    rows, columns = start_size(*maps.shape[-2:], floor)
    windows = maps.unfold(-2, rows, 1).unfold(-2, columns, 1)
    dy, dx = offsets.unbind(-1)
    return windows[..., dy, dx + floor, :, :]  # one operation, which a GPU starts once


def pair_ends(maps: Tensor, path_index: PathIndex, pairs: slice = slice(None)) -> Tensor:
    """Values at the end of every pair, ... x H x W -> ... x pairs x rows x columns."""
    ends, _ = _offsets_on(path_index.radius, maps.device)
    return _at_offsets(maps, ends[pairs], path_index.radius_floor)


def ranked_pixels(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The values of each map in ascending order, B x HW, and every pixel's place there, B x H x W.

    A place is a small integer, so that places are compared faster than values, and the largest one
    of several pixels tells which pixel it is. Differentiable are the values alone.
    """
    ascending, pixels = maps.flatten(1).sort(dim=1, stable=True)
    places = torch.arange(pixels.shape[1], device=maps.device).expand_as(pixels)
    ranks = torch.empty_like(pixels).scatter_(1, pixels, places)
    fits = pixels.shape[1] <= torch.iinfo(torch.int16).max
    return ascending, ranks.view_as(maps).to(torch.int16 if fits else torch.int32)


def path_ranks(ranks: Tensor, path_index: PathIndex) -> Iterator[Tensor]:
    """Largest rank on the path of every pair, B x H x W -> B x n x starts for each path length.

    The pairs come in the order of search_dst.
    """
    _, paths = _offsets_on(path_index.radius, ranks.device)
    for group in paths:
        yield _at_offsets(ranks, group, path_index.radius_floor).amax(dim=2).flatten(2)


def path_maximum(maps: Tensor, path_index: PathIndex) -> Tensor:
    """Largest value on the path of every pair, B x H x W -> B x pairs x starts.

    Differentiable: of equal values the last pixel of the map gets the gradient.
    """
    ascending, ranks = ranked_pixels(maps)
    largest = torch.cat(list(path_ranks(ranks, path_index)), dim=1)
    return ascending.gather(1, largest.flatten(1).long()).view(largest.shape)


class AffinityLabels(NamedTuple):
    """Maps, B x pairs x starts bool, of the pairs that a loss term is taken over."""

    bg_pos: Tensor  # both pixels are background
    fg_pos: Tensor  # both pixels are of the same class
    neg: Tensor  # the pixels are of different classes, or one is background


def affinity_labels(label_map: Tensor, path_index: PathIndex, num_labels: int) -> AffinityLabels:
    """Labels of all pixel pairs of B x H x W label maps (IRN, Sec. 4.2).

    label_map: integers, 0 is background. num_labels: classes and background; pairs with a pixel of
    num_labels or above (255, "ignore") have no label.
    """
    start = shifted(label_map, (0, 0), path_index.radius_floor).unsqueeze(1)
    end = pair_ends(label_map, path_index)
    valid = (start < num_labels) & (end < num_labels)
    same = valid & (start == end)
    background = start == 0
    labels = (same & background, same & ~background, valid & (start != end))
    return AffinityLabels(*(label.flatten(2) for label in labels))


def edge_to_affinity(edge: Tensor, path_index: PathIndex) -> Tensor:
    """Affinity of every pixel with the end of each of its pairs (IRN, Sec. 4.4).

    edge: H x W boundary probabilities, 0..1. Returns pairs x H x W, 0..1: one minus the largest
    boundary probability on the path, and 0 where the path leaves the map.
    """
    floor = path_index.radius_floor
    padded = F.pad(edge, (floor, floor, 0, floor), value=1.0)
    return 1 - path_maximum(padded[None], path_index).view(-1, *edge.shape)


def to_transition_matrix(affinity: Tensor, path_index: PathIndex, beta: float) -> Tensor:
    """Transition matrix of the random walk, HW x HW in sparse rows (IRN, Sec. 5.2).

    affinity: pairs x H x W of edge_to_affinity. It is symmetric, 1 from a pixel to itself, and is
    raised to the power beta. A row has the weights with which a pixel receives the values of its
    neighbours; they add up to 1.
    """
    floor, (height, width) = path_index.radius_floor, affinity.shape[-2:]
    # Padded, so that the pixel that lies before another one can be read at the map's border too.
    padded = F.pad(affinity**beta, (floor, floor, floor, 0))
    by_offset = {(0, 0): affinity.new_ones(height, width)}
    for (dy, dx), pair in zip(path_index.search_dst.tolist(), padded, strict=True):
        by_offset[dy, dx] = pair[floor:, floor : floor + width]
        top, left = floor - dy, floor - dx
        by_offset[-dy, -dx] = pair[top : top + height, left : left + width]
    offsets = torch.tensor(sorted(by_offset), dtype=torch.int32, device=affinity.device)
    weights = torch.stack([by_offset[o] for o in sorted(by_offset)], dim=-1).flatten(0, 1)
    weights /= weights.sum(dim=1, keepdim=True)
    pixels = torch.arange(len(weights) + 1, dtype=torch.int32, device=affinity.device)
    distances = offsets[:, 0] * width + offsets[:, 1]
    # A weight of a pixel outside the map is 0, so that any column may stand for it.
    columns = (pixels[:-1, None] + distances).clamp_(0, len(weights) - 1)
    parts = (pixels * len(offsets), columns.flatten(), weights.flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch calls sparse rows a beta feature
        return torch.sparse_csr_tensor(*parts, [len(weights)] * 2, check_invariants=False)


@torch.no_grad()
def propagate_to_edge(
    x: Tensor, edge: Tensor, radius: int = 5, beta: float = 10, exp_times: int = 8
) -> Tensor:
    """Spread scores by a random walk that stops at boundaries (IRN, Sec. 5.2).

    x: scores, C x H x W or C x 1 x H x W. edge: boundary probabilities, 1 x H x W, 0..1.
    Returns x (1 - edge) after 2^exp_times steps, C x 1 x H x W. The transition matrix is applied
    to the scores step by step instead of being squared exp_times times, which would fill it.
    """
    height, width = edge.shape[-2:]
    path_index = PathIndex(radius, (height, width))
    # In float32 the rounding errors of 256 steps add up to more than 1e-4 of the maximum, and
    # weights near 1e-40, subnormal there, slow a CPU down.
    edge_probability = edge[0].double()
    affinity = edge_to_affinity(edge_probability, path_index)
    transition = to_transition_matrix(affinity, path_index, beta)
    scores = (x.reshape(-1, height, width) * (1 - edge_probability)).flatten(1).T.contiguous()
    for _ in range(2**exp_times):
        scores = transition @ scores
    return scores.T.reshape(-1, 1, height, width).to(x.dtype)


@dataclass(frozen=True)
class WalkSettings:
    """Numbers of the random walk; the values are IRN's and the paper's for VOC."""

    radius: int = 5  # one step reaches pixels closer than this
    beta: float = 10.0  # power of the affinities
    exp_times: int = 8  # 2^exp_times steps
    seed_power: float = 1.3  # power of the maps that start the walk
    background: float = 0.27  # score of the background in the pseudo mask
    norm: str = "joint"  # maximum that scores are divided by: of all classes, or of each ("class")


def walked_scores(cam: Tensor, edge: Tensor, size: tuple[int, int], s: WalkSettings) -> Tensor:
    """Scores of the classes of an image after the random walk, K x H x W in 0..1 (IRN, Sec. 5.2).

    cam: maps at stride 4, K x h4 x w4. edge: boundary probabilities, 1 x h4 x w4. size: (H, W).
    """
    walk = propagate_to_edge(cam**s.seed_power, edge, s.radius, s.beta, s.exp_times)
    return upsampled_walk(walk, size, s.norm)


def upsampled_walk(walk: Tensor, size: tuple[int, int], norm: str = "joint") -> Tensor:
    """Walk K x 1 x h4 x w4 to K x H x W: bilinear, cut to size, divided by its maximum."""
    full = F.interpolate(walk, scale_factor=CAM_STRIDE, mode="bilinear", align_corners=False)
    full = full[:, 0, : size[0], : size[1]]
    peak = full.max() if norm == "joint" else full.amax(dim=(1, 2), keepdim=True)
    return full / peak.clamp_min(torch.finfo(full.dtype).tiny)  # maps may be all zero
