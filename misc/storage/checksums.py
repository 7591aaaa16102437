"""Embedded checksums, by which this program knows its files and finds damage."""

import enum
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

JSON_KEY = "RIB crc32"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_CHUNK = b"\0\0\0\4riBC"  # four bytes of data; by its letters others may pass over it
_HTML = b"<!doctype html"
_ENDS = 64  # bytes that tell the format, and more than any checksum with what stands around it


class Checksum(enum.Enum):
    NONE = "has none"
    WHOLE = "as it was written"
    BROKEN = "damaged: its checksum is another one"


def is_text(start: bytes) -> bool:
    """Tell if a file that begins so is one that a person may edit."""
    return start.startswith((b"{", b"<?xml", b"<svg")) or start[:14].lower() == _HTML


def _checksum(start: bytes, crc: int = 0) -> bytes:
    """Return the end of a file that begins so; nothing for formats without a checksum, as lists."""
    if start.startswith(_PNG):
        chunk = _PNG_CHUNK + struct.pack(">I", crc)
        return chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + _PNG_END
    if start.startswith(b"{"):
        return b',\n "RIB crc32": "%08x"\n}\n' % crc
    if start.startswith((b"<?xml", b"<svg")):
        return b"<!-- RIB crc32 %08x -->\n" % crc
    behind = start.startswith((b"\x93NUMPY", b"PK\3\4")) or start[:14].lower() == _HTML
    return b"RIB crc32 %08x\n" % crc if behind else b""


def append_checksum(file: BinaryIO) -> bool:
    """Give a file, opened for both, its checksum; False where its format cannot carry one."""
    size, (start, end) = file.seek(0, 2), _ends(file)
    if not _checksum(start):
        return False
    closed = re.search(rb"\s*\}\s*\Z" if start.startswith(b"{") else rb"\Z", end)
    length = size - (len(_PNG_END) if start.startswith(_PNG) else len(closed[0]))
    checksum = _checksum(start, crc_of(file, length))
    file.seek(length)
    file.truncate()
    file.write(checksum)
    return True


def checksum_of(content: bytes) -> Checksum:
    start, end = content[:_ENDS], content[-_ENDS:]
    if not _has_checksum(start, end):
        return Checksum.NONE
    length = len(content) - len(_checksum(start))
    whole = content[length:] == _checksum(start, zlib.crc32(memoryview(content)[:length]))
    return Checksum.WHOLE if whole else Checksum.BROKEN


def checksum_and_start(path: Path) -> tuple[bool, bytes]:
    """Tell if a file has a checksum, right or not, and its first bytes; its ends alone are read."""
    with open(path, "rb") as file:
        start, end = _ends(file)
    return _has_checksum(start, end), start


def crc_of(file: BinaryIO, length: int | None = None) -> int:
    """Return the CRC-32 of the first bytes of an opened file, or of all."""
    crc, left = 0, file.seek(0, 2) if length is None else length
    file.seek(0)
    while block := file.read(min(left, 1 << 20)):
        crc, left = zlib.crc32(block, crc), left - len(block)
    return crc


def _has_checksum(start: bytes, end: bytes) -> bool:
    mark = _PNG_CHUNK if start.startswith(_PNG) else b"RIB crc32"
    return bool(_checksum(start)) and mark in end


def _ends(file: BinaryIO) -> tuple[bytes, bytes]:
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(_ENDS)
    file.seek(max(0, size - _ENDS))
    return start, file.read()
