"""Image files of anybody: their header, pixels and orientation, at a bounded cost."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from misc.storage.checksums import Checksum, checksum_of
from misc.storage.files import read_bytes, reason, require_regular

# Of an image or a map, here and wherever a file states a size. Above it Pillow warns of a file made
# to fill the memory; decoding takes at most 12 bytes per pixel, about 1 GiB.
MAX_PIXELS = 89_478_485
Image.MAX_IMAGE_PIXELS = None  # `opened_image` has the one limit, before anything is decoded
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of broken EXIF data
_MAX_IMAGE = 512 << 20  # bytes of an image file; of so many pixels even uncompressed ones have less
_STRAY = 16  # bytes before a JPEG's end marker: some cameras leave a few, scrambled data many
_PNG = b"\x89PNG\r\n\x1a\n"
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112  # tags of TIFF and EXIF
_T = Image.Transpose
_TURNS = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE,
          6: _T.ROTATE_270, 7: _T.TRANSVERSE, 8: _T.ROTATE_90}  # fmt: skip


class WrongModeError(ValueError):
    """An image whose pixels are of another kind, such as colours in place of labels."""


def decode_image(
    path: str | Path, formats: Sequence[str], modes: Sequence[str] = (), mode: str | None = None
) -> np.ndarray:
    """Return the pixels of an image as they are stored, H x W or H x W x 3.

    formats, modes: of Pillow, that it may have; mode: the one that it is converted to. Raises
    FileNotFoundError, WrongModeError, and ValueError for whatever else is wrong with it.
    """
    with opened_image(path, formats, in_memory=True) as image:
        if modes and image.mode not in modes:
            raise WrongModeError(f"an image of mode {image.mode}")
        image.fp.seek(0)
        options = {"mode": mode or image.mode, "index": 0, "writeable_output": False}
        return iio.imread(image.fp, plugin="pillow", **options)


@contextmanager
def opened_image(
    path: str | Path, formats: Sequence[str], in_memory: bool = False, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """Open an image, in_memory with its checksum or for the header alone; as `decode_image`."""
    try:
        with _stream(path, in_memory) as file, Image.open(file, formats=formats) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(f"{image.width}x{image.height}: more than {max_pixels} pixels")
            # Pillow takes an orientation from XMP where EXIF says none, in some formats.
            for name in ("xmp", "XML:com.adobe.xmp"):
                image.info.pop(name, None)
            yield image
    except (FileNotFoundError, WrongModeError):
        raise
    except UnidentifiedImageError:  # its text names an object and not the file
        raise ValueError(f"not {' or '.join(formats)}") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged bytes
        raise ValueError(reason(error)) from error


@contextmanager
def _stream(path: str | Path, in_memory: bool) -> Iterator[io.BufferedIOBase]:
    """Open an image file. A PNG is read whole: on the disk a chunk could state any length."""
    require_regular(path)
    with open(path, "rb") as file:
        is_png = file.read(len(_PNG)) == _PNG
        file.seek(0)
        if not is_png and not in_memory:
            yield file
            return
    content = read_bytes(path, _MAX_IMAGE)
    if in_memory and checksum_of(content) is Checksum.BROKEN:
        raise ValueError(Checksum.BROKEN.value)
    yield io.BytesIO(_without_texts(content) if is_png else content)


def _without_texts(content: bytes) -> bytes:
    """Return a PNG without texts and profile, which Pillow refuses where large; EXIF is first."""
    view, at, exif, others = memoryview(content), len(_PNG), [], []
    while at < len(content):
        length, kind = int.from_bytes(view[at : at + 4], "big"), content[at + 4 : at + 8]
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            (exif if kind == b"eXIf" else others).append(view[at : at + length + 12])
        at += length + 12
    return b"".join([_PNG, *others[:1], *exif, *others[1:]])


def check_jpeg(path: str | Path) -> None:
    """Decode a JPEG file to its end; ValueError where data is missing, which Pillow fills in."""
    content = read_bytes(path, _MAX_IMAGE)
    try:
        # An eighth of the size, without colours: all data is read, most arithmetic is left out.
        small = {"min_height": 1, "min_width": 1, "min_factor": 8}
        simplejpeg.decode_jpeg(content, colorspace="GRAY", strict=True, **small)
    except ValueError as error:
        stray = re.search(r"(\d+) extraneous bytes", str(error))
        if stray and int(stray[1]) <= _STRAY:
            return
        if "Corrupt JPEG data" in str(error):
            raise ValueError(reason(error)) from error
        decode_image(path, ("JPEG",))  # of a kind that only Pillow reads, or not an image


def image_size(path: str | Path, formats: Sequence[str]) -> tuple[int, int]:
    """Return (height, width) from the header; the exceptions are those of `decode_image`."""
    with opened_image(path, formats) as image:
        return image.size[::-1]


def is_rotated(path: str | Path, formats: Sequence[str]) -> bool:
    """Tell if a photograph asks, by its EXIF data, to be turned or mirrored for showing."""
    with opened_image(path, formats) as image:
        return orientation_of(image) != 1


def orientation_of(image: Image.Image) -> int:
    """Return EXIF's orientation 1..8; 1, upright, where that is broken, and of a decoded TIFF."""
    if image.format != "TIFF" and "exif" not in image.info:
        return 1
    with contextlib.suppress(Exception):  # damaged metadata raises almost anything
        tags = image.tag_v2 if image.format == "TIFF" else image.getexif()
        if tags.get(_ORIENTATION) in _TURNS:
            return tags[_ORIENTATION]
    return 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) of an opened image as it is stored; call it before it is decoded."""
    if image.format == "TIFF":  # some versions of Pillow say the size as it will be decoded
        return image.tag_v2[_HEIGHT], image.tag_v2[_WIDTH]
    return image.size[::-1]


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) of an opened image as it is shown; call it before it is decoded."""
    height, width = stored_size(image)
    return (width, height) if orientation_of(image) >= 5 else (height, width)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
