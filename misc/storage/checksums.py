"""Embedded checksums, by which this program knows its files and finds damage.

A file with one is an ordinary file of its format: in a PNG it is a chunk of its own before the last
one, in a JSON object the last key, in SVG and HTML a comment; behind a `.npy`, an archive (`.npz`,
`.pth`) or a GIF it follows where readers have stopped. Which of these a file takes is said by its
first bytes. Lists, tables and compressed archives take none: see `misc.storage.outputs`.
"""

import enum
import re
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_CHUNK = b"\0\0\0\4riBC"  # four bytes of data; by its letters others may pass over it
_TRAILER = b"RIB crc32 "
_BEHIND = (b"\x93NUMPY", b"PK\3\4", b"GIF8")
_HTML = b"<!doctype html"
_SVG = (b"<?xml", b"<svg")
_SVG_SEAL = b"<!-- RIB crc32 "
_JSON_SEAL = b',\n "RIB crc32": "'
JSON_KEY = "RIB crc32"
_OLD_LIST = b"# RIB list, crc32 "  # lists of earlier versions begin with it as a comment
_LONGEST = 64  # bytes, more than any seal
_BLOCK = 1 << 20

_Make = Callable[[int], bytes]  # the seal of content with this CRC-32


class Checksum(enum.Enum):
    """What a file's embedded checksum says."""

    NONE = "has none"
    WHOLE = "as it was written"
    BROKEN = "damaged: its checksum is another one"


def is_text(start: bytes) -> bool:
    """Whether a file that begins so is one that a person may edit."""
    return start.startswith((b"{", *_SVG, _OLD_LIST)) or start[:14].lower() == _HTML


def _form(start: bytes) -> tuple[bytes, _Make] | None:
    """By the first bytes of a file: how its seal begins, and the whole of it; None without one."""
    if start.startswith(_PNG):
        return _CHUNK, _chunk
    if start.startswith(b"{"):
        return _JSON_SEAL, lambda crc: _JSON_SEAL + b'%08x"\n}\n' % crc
    if start.startswith(_SVG):
        return _SVG_SEAL, lambda crc: _SVG_SEAL + b"%08x -->\n" % crc
    if start.startswith(_BEHIND) or start[:14].lower() == _HTML:
        return _TRAILER, lambda crc: _TRAILER + b"%08x\n" % crc
    return None


def _chunk(crc: int) -> bytes:
    checked = _CHUNK[4:] + struct.pack(">I", crc)
    return _CHUNK[:4] + checked + struct.pack(">I", zlib.crc32(checked)) + _PNG_END


def _cut(end: bytes) -> int:
    """Bytes at the end of a file that come again with its seal."""
    if end.endswith(_PNG_END):
        return len(_PNG_END)
    closed = re.search(rb"\s*\}\s*\Z", end)
    return len(closed[0]) if closed else 0


def crc_of(file: BinaryIO, length: int | None = None) -> int:
    """CRC-32 of the first bytes of an opened file, or of all."""
    crc, left = 0, file.seek(0, 2) if length is None else length
    file.seek(0)
    while block := file.read(min(left, _BLOCK)):
        crc, left = zlib.crc32(block, crc), left - len(block)
    return crc


def append_checksum(file: BinaryIO) -> bool:
    """Give a file, opened for both, its checksum; False where its kind cannot carry one."""
    size = file.seek(0, 2)
    start, end = ends(file)
    form = _form(start)
    if not form:
        return False
    length = size - (_cut(end) if start.startswith((_PNG, b"{")) else 0)
    checksum = form[1](crc_of(file, length))
    file.seek(length)
    file.truncate()
    file.write(checksum)
    return True


def ends(file: BinaryIO) -> tuple[bytes, bytes]:
    """The first and the last bytes of an opened file, which tell its kind and have its seal."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(_LONGEST)
    file.seek(max(0, size - _LONGEST))
    return start, file.read()


def has_checksum(start: bytes, end: bytes) -> bool:
    """Whether a file with these ends has a seal, damaged or not."""
    form = _form(start)
    return start.startswith(_OLD_LIST) or (form is not None and form[0] in end)


def checksum_of(content: bytes) -> Checksum:
    """What the seal in the bytes of a file says."""
    view, form = memoryview(content), _form(content[:_LONGEST])
    if content.startswith(_OLD_LIST):
        end = content.find(b"\n") + 1
        whole = content[:end] == _OLD_LIST + b"%08x\n" % zlib.crc32(view[end:])
        return Checksum.WHOLE if whole else Checksum.BROKEN
    start = content.rfind(form[0], max(0, len(content) - _LONGEST)) if form else -1
    if start < 0:
        return Checksum.NONE
    whole = content[start:] == form[1](zlib.crc32(view[:start]))
    return Checksum.WHOLE if whole else Checksum.BROKEN
