"""Image preparation on arrays.

Images are H x W x 3 uint8 (RGB) or float32, label maps H x W. A random function draws from `rng`,
its last argument: the `random` module or a `random.Random` of the caller's.
"""

import random
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from PIL import Image

from misc.crf import crf_inference_label  # noqa: F401 - users of IRN look for it here

Rng = random.Random | ModuleType
Images = np.ndarray | Sequence[np.ndarray]
CropBox = tuple[int, int, int, int, int, int, int, int]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_MEAN, _STD = np.array(IMAGENET_MEAN)[:, None], np.array(IMAGENET_STD)[:, None]
# The normalised value of every byte, 3 x 256: computed in double precision, rounded once.
NORMALIZED = ((np.arange(256) / 255 - _MEAN) / _STD).astype(np.float32)


def pil_resize(img: np.ndarray, size: tuple[int, int], order: int) -> np.ndarray:
    """Resize an H x W [x 3] uint8 array to `size` (height, width).

    order: 3 for bicubic (antialiased when shrinking), 0 for nearest, as label maps need. An array
    that has the size already is returned itself.
    """
    if tuple(size) == img.shape[:2]:
        return img
    return np.asarray(Image.fromarray(img).resize(size[::-1], Image.Resampling(order)))


def pil_rescale(img: np.ndarray, scale: float, order: int) -> np.ndarray:
    """Resize an H x W [x 3] uint8 array by a factor; sides: rounded half to even, 1 or more."""
    height, width = (max(1, round(side * scale)) for side in img.shape[:2])
    return pil_resize(img, (height, width), order)


def random_resize_long(
    img: np.ndarray, min_long: int, max_long: int, rng: Rng = random
) -> np.ndarray:
    """Resize (bicubic) so that the longer side is drawn from min_long..max_long, both included."""
    return pil_rescale(img, rng.randint(min_long, max_long) / max(img.shape[:2]), order=3)


def random_scale(
    images: Images, scale_range: tuple[float, float], orders: int | Sequence[int], rng: Rng = random
) -> Images:
    """Rescale an array, or several by one factor, drawn evenly from scale_range.

    orders: the `order` of `pil_resize`, one for each array.
    """
    scale = scale_range[0] + rng.random() * (scale_range[1] - scale_range[0])
    if isinstance(images, np.ndarray):
        return pil_rescale(images, scale, orders)
    return [pil_rescale(img, scale, order) for img, order in zip(images, orders, strict=True)]


def random_lr_flip(images: Images, rng: Rng = random) -> Images:
    """Mirror an array, or all of a list together, left to right with probability 1/2.

    A mirrored array is a view with negative strides: copy it before handing it to torch.
    """
    if not rng.getrandbits(1):
        return images
    if isinstance(images, np.ndarray):
        return images[:, ::-1]
    return [img[:, ::-1] for img in images]


def get_random_crop_box(imgsize: tuple[int, int], cropsize: int, rng: Rng = random) -> CropBox:
    """Places of a random square crop, in the crop and in the image.

    Returns target top, bottom, left, right, then the same four in the source. A side longer than
    the crop is cut at a random place; a shorter one is put at a random place of the crop.
    """
    offsets = []
    for side in reversed(imgsize):  # width first; a side draws even where nothing is to choose
        offset = rng.randrange(abs(side - cropsize) + 1)
        offsets.append((0, offset) if side > cropsize else (offset, 0))
    (left, source_left), (top, source_top) = offsets
    height, width = (min(side, cropsize) for side in imgsize)
    target = (top, top + height, left, left + width)
    return *target, source_top, source_top + height, source_left, source_left + width


def random_crop(
    images: Images, cropsize: int, default_values: float | Sequence[float], rng: Rng = random
) -> Images:
    """Cut the same random cropsize x cropsize window out of an array or of several of equal size.

    default_values: fills the part of the crop outside the image, one value for each array.
    """
    if isinstance(images, np.ndarray):
        return random_crop([images], cropsize, [default_values], rng)[0]
    box = get_random_crop_box(images[0].shape[:2], cropsize, rng)
    pairs = zip(images, default_values, strict=True)
    return [_cut(img, box, cropsize, value) for img, value in pairs]


def top_left_crop(img: np.ndarray, cropsize: int, default_value: float) -> np.ndarray:
    """Put an image, cut where it is larger, in the top left of a filled square of cropsize."""
    height, width = (min(side, cropsize) for side in img.shape[:2])
    return _cut(img, (0, height, 0, width, 0, height, 0, width), cropsize, default_value)


def get_strided_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Size of a map with one position per `stride` pixels: (side - 1) // stride + 1."""
    height, width = size
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def get_strided_up_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """`size` with both sides rounded up to multiples of `stride`."""
    height, width = get_strided_size(size, stride)
    return height * stride, width * stride


def _cut(img: np.ndarray, box: CropBox, cropsize: int, default_value: float) -> np.ndarray:
    crop = np.full((cropsize, cropsize, *img.shape[2:]), default_value, dtype=img.dtype)
    top, bottom, left, right, source_top, source_bottom, source_left, source_right = box
    crop[top:bottom, left:right] = img[source_top:source_bottom, source_left:source_right]
    return crop
