"""Reading files from untrusted sources: what a small file can cost is bounded here."""

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import simplejpeg
from PIL import Image, UnidentifiedImageError

from misc.storage.checksums import Checksum, checksum_of
from misc.storage.files import read_bytes, reason, require_regular

# Of an image or a map, here and wherever a file states a size. Above it Pillow warns of a file made
# to fill the memory; decoding takes at most 12 bytes per pixel, about 1 GiB.
MAX_PIXELS = 89_478_485
_MAX_IMAGE = 512 << 20  # bytes of an image file; of so many pixels even uncompressed ones have less
_STRAY = 16  # bytes before a JPEG's end marker: some cameras leave a few, scrambled data many
_SHOWN = 100  # characters of a file's content in a message


class WrongModeError(ValueError):
    """An image whose pixels are of another kind, such as colours in place of labels."""


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
    if checksum_of(content) is Checksum.BROKEN:
        raise ValueError(Checksum.BROKEN.value)
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


def is_whole_png(path: Path) -> bool:
    """Whether a PNG is there with the last bytes of its format (`outputs` looks at all of it)."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(-min(8, file.tell()), os.SEEK_END)
            return file.read() == b"IEND\xaeB`\x82"
    except OSError:
        return False


_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")
_JPEG_START = b"\xff\xd8\xff"
_JPEG_EXIF = 0xE1
_JPEG_METADATA = (*range(0xE1, 0xEE), 0xEF, 0xFE)  # APP0 and APP14 say how colours are stored
_JPEG_DATA = (*range(0xD0, 0xDB), 0x00, 0x01)  # no segments, or the pixels' begin
_MOST = 1 << 20  # bytes read at once of what is no pixel
_EXIF_START = b"Exif\0\0"
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # of bytes, by the first four of a block
_NUMBERS = {1: "B", 3: "H", 4: "L"}  # types of EXIF that an orientation may have
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112  # tags of TIFF and EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int:
    """Orientation 1..8 in the EXIF data of an opened image; 1, upright, where that is broken.

    A TIFF file says it itself. Once decoded it is upright: Pillow turns these alone.
    """
    if image.format == "TIFF":
        value = image.tag_v2.get(_ORIENTATION, 1)
        return value if value in _TURNS else 1
    return exif_orientation(image.info.get("exif") or b"")


def exif_orientation(exif: bytes) -> int:
    """Orientation 1..8 in a block of EXIF data; 1 where there is none or the block is broken.

    Other entries are not looked at, so that nothing in them matters.
    """
    block = exif.removeprefix(_EXIF_START)
    order = _ORDERS.get(block[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}L", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, start)
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHL", block, at)
            if tag == _ORIENTATION and kind in _NUMBERS and count == 1:
                (value,) = struct.unpack_from(order + _NUMBERS[kind], block, at + 8)
                return value if value in _TURNS else 1
    except struct.error:
        pass
    return 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened image as it is stored; call it before it is decoded."""
    if image.format == "TIFF":  # some versions of Pillow say the size as it will be decoded
        return image.tag_v2[_HEIGHT], image.tag_v2[_WIDTH]
    return image.size[::-1]


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened image as it is shown; call it before it is decoded."""
    height, width = stored_size(image)
    return (width, height) if orientation_of(image) >= 5 else (height, width)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """An image as it is shown, from one as it is stored."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def pixels_of(file: BinaryIO, header_alone: bool = False) -> tuple[BinaryIO, bytes]:
    """A JPEG or PNG file with nothing but its pixels, and its EXIF data; others as they are.

    Colour profiles, texts and thumbnails are left out unread, whatever their size. header_alone:
    it ends where the data of the pixels begins.
    """
    start = file.read(len(_PNG_START))
    read = _png_pixels if start == _PNG_START else None
    read = _jpeg_pixels if start.startswith(_JPEG_START) else read
    pixels, exif = read(file, header_alone) if read else (file, b"")
    pixels.seek(0)
    return pixels, exif


def _png_pixels(file: BinaryIO, header_alone: bool) -> tuple[BinaryIO, bytes]:
    pixels, exif, in_data = io.BytesIO(), b"", False
    pixels.write(_PNG_START)
    for kind, at, length in _chunks(file):
        file.seek(at)
        if kind == b"eXIf":
            exif = exif or _checked(file.read(8 + min(length, _MOST) + 4))
        elif kind in _PNG_PIXELS and not header_alone:
            pixels.write(file.read(8 + length + 4))
        elif kind in _PNG_PIXELS and not in_data:
            in_data = kind == b"IDAT"
            pixels.write(file.read(8 if in_data else 8 + min(length, _MOST) + 4))
    return pixels, exif


def _jpeg_pixels(file: BinaryIO, header_alone: bool) -> tuple[BinaryIO, bytes]:
    pixels, exif, at = io.BytesIO(), b"", 2
    pixels.write(_JPEG_START[:2])
    while True:
        file.seek(at)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in _JPEG_DATA:
            break
        if head[1] == 0xFF:  # a byte that fills
            at += 1
            continue
        length = max(2, int.from_bytes(head[2:], "big"))
        content = file.read(length - 2)
        if head[1] not in _JPEG_METADATA:
            pixels.write(head + content)
        elif head[1] == _JPEG_EXIF and content.startswith(_EXIF_START):
            exif = exif or content
        at += 2 + length
    file.seek(at)
    pixels.write(file.read(_MOST if header_alone else -1))
    return pixels, exif


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place and length of the content of each chunk of a PNG file, to its end."""
    at, kind = len(_PNG_START), b""
    while kind != b"IEND":
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">L4s", head)
        yield kind, at, length
        at += 8 + length + 4


def _checked(chunk: bytes) -> bytes:
    """The content of a chunk; nothing where its checksum is another one, as viewers do it."""
    whole = zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]
    return chunk[8:-4] if whole else b""
