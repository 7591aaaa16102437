"""Photographs as cameras, telephones and web pages make them, read as upright RGB."""

from pathlib import Path

import numpy as np
from PIL import Image

from misc.storage.images import (
    MAX_PIXELS,
    check_jpeg,
    opened_image,
    orientation_of,
    shown_size,
    stored_size,
    turned,
)

# Of a photograph that is shrunk. Decoded it takes 4 bytes a pixel, 1 GiB, a JPEG file far less.
MAX_PHOTOGRAPH = 1 << 28
_BAND = 1 << 22  # pixels of a large photograph that are converted at a time
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners have


def size_as_shown(path: Path, longest: int = 0) -> tuple[int, int]:
    """(height, width) of a photograph, upright, and at most `longest` where that is not 0.

    From the header alone. Raises FileNotFoundError, and ValueError for whatever is wrong, such as
    more than MAX_PIXELS pixels of what is shown.
    """
    size = _shrunk(own_size(path), longest)
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{size[1]}x{size[0]} pixels, at most {MAX_PIXELS}; give --photo_long")
    return size


def own_size(path: Path) -> tuple[int, int]:
    """(height, width) of a photograph, upright, as it is stored; exceptions as above."""
    with opened_image(path, FORMATS, max_pixels=MAX_PHOTOGRAPH) as image:
        return shown_size(image)


def read_photograph(path: Path, longest: int = 0) -> np.ndarray:
    """A photograph as H x W x 3 uint8 RGB of `size_as_shown`; exceptions as there.

    EXIF's orientation is applied. A photograph that is shrunk may have MAX_PHOTOGRAPH pixels. Of
    several frames or pages the first counts. CMYK becomes RGB, transparent pixels white. Values of
    16 bits are divided so that the smallest usual depth (8 to 16 bits) that holds the largest
    becomes 0..255; of floats the largest is white where above 1.
    """
    most = MAX_PHOTOGRAPH if longest else MAX_PIXELS
    with opened_image(path, FORMATS, in_memory=True, max_pixels=most) as image:
        shown = shown_size(image)
        size = _shrunk(shown, longest)
        if size != shown and image.format == "JPEG":
            # Decoded at 1/2, 1/4 or 1/8 where that is large enough: a photograph of a telephone
            # takes a tenth of the time and memory.
            image.draft(None, _shrunk(image.size, longest))
        image.load()
        orientation = orientation_of(image)
        if image.width * image.height > MAX_PIXELS:
            image = _reduced(image, max(size))
        upright = turned(_eight_bit_rgb(image), orientation)
        if upright.size[::-1] != size:
            resampling = Image.Resampling.LANCZOS
            upright = upright.resize(size[::-1], resampling, reducing_gap=2.0)
        return np.asarray(upright)


def check_photograph(path: Path, longest: int = 0, quick: bool = False) -> str | None:
    """Raise ValueError where `read_photograph` would, or data is missing; returns a warning.

    quick: its header alone is read.
    """
    with opened_image(path, FORMATS, max_pixels=MAX_PHOTOGRAPH) as image:
        form, warning = image.format, _peculiarity(image)
    if not quick:
        if form == "JPEG":
            check_jpeg(path)
        read_photograph(path, longest)
    return warning


def fitted_mask(mask: np.ndarray, path: Path, longest: int) -> np.ndarray:
    """A mask of the size of a photograph, made upright and shrunk as the photograph is.

    mask: H x W labels, of the photograph as it is shown or as it is stored. One of neither size is
    returned itself.
    """
    with opened_image(path, FORMATS, max_pixels=MAX_PHOTOGRAPH) as image:
        stored, shown, orientation = stored_size(image), shown_size(image), orientation_of(image)
    if mask.shape == stored and shown != stored:
        mask = np.asarray(turned(Image.fromarray(mask), orientation))
    size = _shrunk(shown, longest)
    if mask.shape != shown or size == shown:
        return mask
    rows, columns = (
        (np.arange(new) + 0.5) * old / new for new, old in zip(size, shown, strict=True)
    )
    return mask[rows.astype(int)[:, None], columns.astype(int)]


def _shrunk(size: tuple[int, int], longest: int) -> tuple[int, int]:
    if not longest or max(size) <= longest:
        return size
    return tuple(max(1, round(side * longest / max(size))) for side in size)


def _peculiarity(image: Image.Image) -> str | None:
    if getattr(image, "n_frames", 1) > 1:
        return "files have several frames or pages, of which the first is used"
    if image.mode in ("CMYK", "YCbCr", "LAB"):
        return "photographs are not RGB (CMYK or Lab) and are converted"
    if image.mode.startswith(("I", "F")):
        return "photographs have more than 8 bits a value and are reduced to 8"
    return None


def _reduced(image: Image.Image, longest: int) -> Image.Image:
    """A decoded photograph at a fraction of its size, 8-bit RGB, as it is stored.

    Blocks of k x k pixels become their mean, k such that the longer side stays twice `longest` or
    more. Memory beside the photograph and the result does not grow with its size.
    """
    k = max(1, max(image.size) // (2 * longest))
    rows = k * max(1, _BAND // (k * image.width))
    tops = range(0, image.height, rows)
    boxes = [(0, top, image.width, min(image.height, top + rows)) for top in tops]
    highest = None
    if image.mode.startswith(("I", "F")):
        highest = max(_highest(_numbers(image.crop(box))) for box in boxes)
    small = Image.new("RGB", (-(-image.width // k), -(-image.height // k)))
    for box in boxes:
        small.paste(_eight_bit_rgb(image.crop(box), highest).reduce(k), (0, box[1] // k))
    return small


def _eight_bit_rgb(image: Image.Image, highest: float | None = None) -> Image.Image:
    """highest: the largest value of what `image` is a part of."""
    if image.mode.startswith(("I", "F")):
        values = _numbers(image)
        highest = _highest(values) if highest is None else highest
        image = Image.fromarray(_eight_bits(values, highest))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _numbers(image: Image.Image) -> np.ndarray:
    values = np.asarray(image).astype(np.float32)
    return np.nan_to_num(values, nan=0, posinf=0, neginf=0)


def _highest(values: np.ndarray) -> float:
    return float(values.max(initial=0))


def _eight_bits(values: np.ndarray, highest: float) -> np.ndarray:
    """Values of more than 8 bits as 0..255, uint8."""
    if 0 < highest <= 1:
        white = 1.0
    else:
        white = next((2.0**bits - 1 for bits in _DEPTHS if highest < 2**bits), highest)
    return np.clip(values * (255 / white) + 0.5, 0, 255).astype(np.uint8)
