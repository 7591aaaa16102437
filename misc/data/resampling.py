"""Random views that are resized, mirrored and cut where they are used, with the bits of PIL.

PIL multiplies bytes with weights of 22 fractional bits, the columns first, and rounds and clips to
bytes after either axis. The products here are of float64, in which all these whole numbers and
their sums are exact, in whatever order a device adds them.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from misc.data.datasets import Crops, draw_view

_BITS = 22  # of PIL's weights behind the point
_SUPPORT = 2.0  # pixels that the bicubic filter reaches, of the coarser of the two images
_A = -0.5  # PIL's choice among the bicubic filters


class Axis(NamedTuple):
    """Where pixels along one axis come from.

    first: (N,) int64, the first source pixel of each. weights: N x taps int32, of the source pixels
    from there on, in units of 2^-22; 0 for those that are not needed. Of a batch both are stacked.
    """

    first: np.ndarray | Tensor
    weights: np.ndarray | Tensor

    def of_crop(self, chosen: np.ndarray, start: int, side: int) -> "Axis":
        """The axis of a crop: pixels start .. are the chosen ones, all others of `side` empty."""
        first = np.zeros(side, np.int64)
        weights = np.zeros((side, self.weights.shape[1]), np.int32)
        place = slice(start, start + len(chosen))
        first[place], weights[place] = self.first[chosen], self.weights[chosen]
        return Axis(first, weights)


@functools.lru_cache(maxsize=1024)
def axis(size: int, target: int) -> Axis:
    """PIL's weights for resizing an axis of `size` pixels to `target`; not to be changed."""
    if size == target:  # PIL leaves such an axis out
        return Axis(np.arange(size), np.full((size, 1), 1 << _BITS, np.int32))
    scale = size / target
    wide = max(scale, 1.0)
    center = (np.arange(target) + 0.5) * scale
    first = np.maximum(np.trunc(center - _SUPPORT * wide + 0.5), 0).astype(np.int64)
    end = np.minimum(np.trunc(center + _SUPPORT * wide + 0.5), size).astype(np.int64)
    pixels = first[:, None] + np.arange(2 * int(np.ceil(_SUPPORT * wide)) + 1)
    weights = _bicubic((pixels - center[:, None] + 0.5) * (1.0 / wide))
    weights[pixels >= end[:, None]] = 0.0
    total = np.zeros(target)
    for tap in weights.T:  # one after the other, as PIL adds: the last bit depends on it
        total += tap
    weights /= total[:, None]
    weights = np.trunc(np.copysign(0.5, weights) + weights * (1 << _BITS))
    return Axis(first, weights.astype(np.int32))


def _bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def columns_first(size: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether PIL resamples along the rows of pixels first and down the columns last.

    It always did so before it came to look at what a pass leaves out. The two orders differ in what
    is rounded in between; `is_exact` says whether this is the rule of the PIL that is installed.
    """
    shorter, narrower = size[0] - target[0], size[1] - target[1]
    return not (_looks_ahead() and shorter > 0 and shorter > 2 * narrower)


@functools.lru_cache
def _looks_ahead() -> bool:
    """Whether the PIL that is installed may begin with the columns."""
    image = np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    size, target = image.shape[:2], (11, 31)
    found = [_as_pil(image, target, across) for across in (True, False)]
    expected = np.asarray(Image.fromarray(image).resize(target[::-1], Image.Resampling.BICUBIC))
    assert size != target and not np.array_equal(*found)
    return np.array_equal(found[1], expected)


@functools.lru_cache
def is_exact(tries: int = 40) -> bool:
    """Whether what is computed here is what the PIL that is installed gives, to the last bit."""
    rng = np.random.default_rng(1)
    for _ in range(tries):
        image = rng.integers(0, 256, (*rng.integers(1, 90, 2), 3), dtype=np.uint8)
        target = tuple(rng.integers(1, 90, 2).tolist())
        expected = Image.fromarray(image).resize(target[::-1], Image.Resampling.BICUBIC)
        across = columns_first(image.shape[:2], target)
        if not np.array_equal(_as_pil(image, target, across), np.asarray(expected)):
            return False
    return True


def _as_pil(image: np.ndarray, target: tuple[int, int], across: bool) -> np.ndarray:
    rows, columns = (
        Axis(*(torch.from_numpy(part)[None] for part in axis(*sides)))
        for sides in zip(image.shape[:2], target, strict=True)
    )
    batch = torch.from_numpy(image)[None]
    return resampled(batch, rows, columns, torch.tensor([across]))[0].numpy()


def resampled(images: Tensor, rows: Axis, columns: Axis, across: Tensor) -> Tensor:
    """Images B x H x W x 3 uint8, resampled along both axes: B x h x w x 3 uint8.

    rows, columns: of every image, on its device; pixels of weight 0 alone come out as 0. across: B
    bool in main memory, whether an image is resampled along its rows of pixels first.
    """
    if across.all():
        return _across_and_down(images, rows, columns)
    height, width = rows.first.shape[1], columns.first.shape[1]
    result = images.new_empty(len(images), height, width, 3)
    for first in (True, False):
        chosen = (across == first).nonzero()[:, 0].to(images.device)
        if not len(chosen):
            continue
        part, *axes = (t[chosen] for t in (images, *rows, *columns))
        one, other = Axis(*axes[:2]), Axis(*axes[2:])
        if first:
            result[chosen] = _across_and_down(part, one, other)
        else:
            result[chosen] = _across_and_down(part.transpose(1, 2), other, one).transpose(1, 2)
    return result


def _across_and_down(images: Tensor, rows: Axis, columns: Axis) -> Tensor:
    batch, height, width, _ = images.shape
    values = images.movedim(2, 1).reshape(batch, width, -1).double()
    across = _rounded(_matrices(*columns, width) @ values)  # B x w x (H 3)
    across = across.view(batch, -1, height, 3).movedim(2, 1).reshape(batch, height, -1)
    down = _rounded(_matrices(*rows, height) @ across)  # B x h x (w 3)
    return down.view(batch, down.shape[1], -1, 3).to(torch.uint8)


def _matrices(first: Tensor, weights: Tensor, size: int) -> Tensor:
    """B x N, B x N x taps -> B x N x size float64."""
    taps = torch.arange(weights.shape[-1], device=weights.device)
    pixels = (first[..., None] + taps).clamp_(max=size - 1)  # beyond the end weights are 0
    dense = torch.zeros(*first.shape, size, dtype=torch.float64, device=weights.device)
    return dense.scatter_add_(2, pixels, weights.double())


def _rounded(sums: Tensor) -> Tensor:
    return sums.add_(1 << (_BITS - 1)).mul_(2.0**-_BITS).floor_().clamp_(0, 255)


class UncutViews(NamedTuple):
    """`Crops` before they are made: decoded images, and where every pixel of the crops comes from.

    images: B x H x W x 3 uint8, each in the top left. rows, columns: B x S int64, the first source
    pixel of those of a crop. row_weights, column_weights: B x S x taps int32, as in `Axis`.
    boxes: as in `Crops`. across: B bool, whether PIL resamples along the rows first.
    """

    images: Tensor
    rows: Tensor
    row_weights: Tensor
    columns: Tensor
    column_weights: Tensor
    boxes: Tensor
    across: Tensor

    @classmethod
    def drawn(
        cls, image: np.ndarray, long_range: tuple[int, int], crop_size: int, rng
    ) -> "UncutViews":
        """`byte_crop` of an image H x W x 3, to be made later; a single one (no B)."""
        view = draw_view(image.shape[:2], long_range, crop_size, rng)
        top, bottom, left, right, source_top, _, source_left, _ = view.box
        height, width = image.shape[:2]
        of_rows = source_top + np.arange(bottom - top)
        of_columns = source_left + np.arange(right - left)
        if view.mirrored:
            of_columns = view.size[1] - 1 - of_columns
        rows = axis(height, view.size[0]).of_crop(of_rows, top, crop_size)
        columns = axis(width, view.size[1]).of_crop(of_columns, left, crop_size)
        across = columns_first(image.shape[:2], view.size)
        boxes = torch.tensor(view.box[:4])
        arrays = map(torch.from_numpy, (image.copy(), *rows, *columns))
        return cls(*arrays, boxes, torch.tensor(across))

    @classmethod
    def joined(cls, views: Sequence["UncutViews"]) -> "UncutViews":
        """Single ones as a batch."""
        return cls(*(torch.stack(_padded(parts)) for parts in zip(*views, strict=True)))

    def to(
        self,
        device: torch.device | str,
        non_blocking: bool = False,
        at_once: bool | None = None,
    ) -> Tensor:
        """The crops, normalised: B x 3 x S x S; as `Crops.to`, to the last bit."""
        images, *axes = (part.to(device, non_blocking=non_blocking) for part in self[:5])
        rows, columns = Axis(*axes[:2]), Axis(*axes[2:])
        pixels = resampled(images, rows, columns, self.across)
        boxes = self.boxes.to(device, non_blocking=non_blocking) if at_once else self.boxes
        return Crops(pixels, boxes).to(device, at_once=at_once)


def _padded(parts: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one rank, each filled up with zeros at its ends to the largest shape."""
    shape = [max(sides) for sides in zip(*(part.shape for part in parts), strict=True)]
    return [
        F.pad(part, [n for most, side in zip(shape[::-1], part.shape[::-1], strict=True)
                     for n in (0, most - side)])
        for part in parts
    ]  # fmt: skip
