"""Seals: checksums inside the files of this program, by which it knows them and finds damage.

A sealed file is an ordinary one of its format: the seal of a `.npy` follows the pickle, where
readers have stopped; that of a PNG is a chunk of its own before the last one; a list begins with it
as a comment. File and seal are written in one go, and a copied file keeps its seal.
"""

import enum
import os
import struct
import zlib
from pathlib import Path

from misc.errors import UserError

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_CHUNK = b"\0\0\0\4riBC"  # four bytes of data; by its letters others may pass over it
_TRAILER = b"RIB crc32 "
_COMMENT = b"# RIB list, crc32 "
_LONGEST = 64  # bytes, more than any seal


class Seal(enum.Enum):
    """What a file's seal says."""

    NONE = "not made by this program"
    WHOLE = "as it was written"
    BROKEN = "damaged: its checksum is another one"


def sealed(content: bytes, suffix: str) -> bytes:
    """The bytes of a file with a seal, by the suffix of its name: .png, .txt or another."""
    if suffix == ".txt":
        return _comment(content) + content
    if suffix == ".png":
        body = content.removesuffix(_PNG_END)
        return body + _chunk(body)
    return content + _trailer(content)


def seal_of(content: bytes) -> Seal:
    """Whether the bytes of a file have a seal, and whether they are those that were sealed."""
    view = memoryview(content)
    if content.startswith(_COMMENT):
        end = content.find(b"\n") + 1
        whole = content[:end] == _comment(view[end:])
    else:
        mark, made = (_CHUNK, _chunk) if content.startswith(_PNG) else (_TRAILER, _trailer)
        start = content.rfind(mark, max(0, len(content) - _LONGEST))
        if start < 0:
            return Seal.NONE
        whole = content[start:] == made(view[:start])
    return Seal.WHOLE if whole else Seal.BROKEN


def is_own(path: Path) -> bool:
    """Whether a file has a seal, damaged or not; only its first and last bytes are read."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(_LONGEST)
        file.seek(max(len(start), file.seek(0, os.SEEK_END) - _LONGEST))
        return seal_of(start + file.read()) is not Seal.NONE


def require_own(path: Path, advice: str) -> None:
    """Raise UserError where a file that is to be replaced or removed has no seal."""
    if os.path.lexists(path) and not is_own(path):
        raise UserError(f"{path}: was not made by this program and stays as it is; {advice}")


def _comment(content: bytes | memoryview) -> bytes:
    return _COMMENT + b"%08x\n" % zlib.crc32(content)


def trailer_of(checksum: int) -> bytes:
    """The seal that follows content with this CRC-32, of files written part by part."""
    return _TRAILER + b"%08x\n" % checksum


def _trailer(content: bytes | memoryview) -> bytes:
    return trailer_of(zlib.crc32(content))


def _chunk(content: bytes | memoryview) -> bytes:
    checked = _CHUNK[4:] + struct.pack(">I", zlib.crc32(content))
    return _CHUNK[:4] + checked + struct.pack(">I", zlib.crc32(checked)) + _PNG_END
