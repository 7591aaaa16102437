"""Reading files from untrusted sources: what a small file can cost is bounded here."""

import codecs
import io
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import simplejpeg
from PIL import Image, UnidentifiedImageError

from misc.storage.metadata import orientation_of, pixels_of
from misc.storage.seals import Seal, seal_of

# Of an image or a map, here and wherever a file states a size. Above it Pillow warns of a file made
# to fill the memory; decoding takes at most 12 bytes per pixel, about 1 GiB.
MAX_PIXELS = 89_478_485
_MAX_IMAGE = 512 << 20  # bytes of an image file; of so many pixels even uncompressed ones have less
_BLOCK = 1 << 16
_STRAY = 16  # bytes before a JPEG's end marker: some cameras leave a few, scrambled data many
_SHOWN = 100  # characters of a file's content in a message


class WrongModeError(ValueError):
    """An image whose pixels are of another kind, such as colours in place of labels."""


def read_bytes(path: str | Path, limit: int) -> bytes:
    """The content of a file; ValueError where it has more than `limit` bytes or is not a file."""
    blocks, size = [], 0
    require_regular(path)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            blocks.append(block)
            size += len(block)
            if size > limit:
                raise ValueError(f"larger than {limit >> 20} MiB")
    return b"".join(blocks)


def encoding_of(start: bytes) -> str:
    """The encoding of a text by the mark at its start: UTF-16 with one, otherwise UTF-8."""
    utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if utf16 else "utf-8-sig"


def require_unpacked_size(content: bytes, limit: int) -> None:
    """Raise ValueError where what a zip archive says that it unpacks to is above `limit` bytes.

    No more than that is unpacked: `zipfile` reads as many bytes of an entry as are announced.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > limit:
        raise ValueError(f"unpacks to {size >> 20} MiB, more than {limit >> 20} MiB")


def require_regular(path: str | Path) -> None:
    """Raise ValueError for a pipe or a device, which would be waited for without end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # to open a folder is an error already
        raise ValueError("not a regular file")


def reason(error: object) -> str:
    """What an exception or a part of a file says, cut and printable, for a message of one line."""
    text = " ".join(str(error)[: 10 * _SHOWN].split())[:_SHOWN]
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if text or isinstance(error, str) else type(error).__name__


def decode_image(
    path: str | Path, formats: Sequence[str], modes: Sequence[str] = ()
) -> Image.Image:
    """An image of one of the formats and, where given, modes, decoded.

    Raises FileNotFoundError, WrongModeError, and ValueError for whatever else is wrong with it.
    """
    with opened_image(path, formats, in_memory=True) as image:
        if modes and image.mode not in modes:
            raise WrongModeError(f"an image of mode {image.mode}")
        image.load()
    return image


def check_jpeg(path: str | Path) -> None:
    """Decode a JPEG file to its end; ValueError where data is missing or scrambled.

    Pillow fills in grey for what it cannot decode and says nothing. Flipped bits that leave a valid
    picture cannot be found: the format has no checksum.
    """
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


def is_rotated(path: str | Path, formats: Sequence[str]) -> bool:
    """Whether a photograph asks, by its EXIF data, to be turned or mirrored for showing."""
    with opened_image(path, formats) as image:
        return orientation_of(image) != 1


def image_size(path: str | Path, formats: Sequence[str]) -> tuple[int, int]:
    """(height, width) from the header; the exceptions are those of `decode_image`."""
    with opened_image(path, formats) as image:
        return image.size[::-1]


def _whole(content: bytes) -> bytes:
    if seal_of(content) is Seal.BROKEN:
        raise ValueError(Seal.BROKEN.value)
    return content


@contextmanager
def opened_image(
    path: str | Path,
    formats: Sequence[str],
    in_memory: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Image.Image]:
    """An image of one of the formats, opened; the exceptions are those of `decode_image`.

    in_memory: its file is read at once, and its seal is looked at; otherwise it is for the header
    alone.
    """
    try:
        # Of a file on the disk Python would reserve as much as a chunk says it has.
        require_regular(path)
        content = _whole(read_bytes(path, _MAX_IMAGE)) if in_memory else None
        with io.BytesIO(content) if in_memory else open(path, "rb") as file:
            del content
            # Only these formats: for some of the others Pillow starts a program (PostScript).
            with _pillow_opened(file, formats, max_pixels, not in_memory) as image:
                if image.width * image.height > max_pixels:
                    raise ValueError(f"{image.width}x{image.height} pixels, at most {max_pixels}")
                yield image
    except (FileNotFoundError, WrongModeError):
        raise
    except Image.DecompressionBombError:
        raise ValueError(f"more than {max_pixels} pixels") from None
    except UnidentifiedImageError:  # its text names an object and not the file
        raise ValueError(f"not {' or '.join(formats)}") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged bytes
        raise ValueError(reason(error)) from error


def _pillow_opened(
    file: BinaryIO, formats: Sequence[str], max_pixels: int, header_alone: bool
) -> Image.Image:
    """`Image.open` of pixels and EXIF data, whatever else is in the file."""
    pixels, exif = pixels_of(file, header_alone)
    image = _of_pixels(pixels, formats, max_pixels)
    if exif:
        image.info["exif"] = exif
    # Pillow takes an orientation from XMP where EXIF says none, in some formats and versions.
    for name in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)
    return image


def _of_pixels(file: BinaryIO, formats: Sequence[str], max_pixels: int) -> Image.Image:
    """`Image.open`, which by itself refuses images of more than twice MAX_PIXELS."""
    if max_pixels <= MAX_PIXELS:
        return Image.open(file, formats=formats)
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
    try:
        return Image.open(file, formats=formats)
    finally:
        Image.MAX_IMAGE_PIXELS = before
