"""Metadata of image files: the orientation in EXIF is read, all else is passed over.

Broken metadata is no reason to refuse a photograph that every viewer shows, and large metadata no
reason to fill the memory.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

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
