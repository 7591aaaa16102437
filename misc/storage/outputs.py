"""Writing of all files: this program's own, known by their checksums, are alone ever replaced.

Checksums are embedded, or in the manifest.json of the folder for formats that carry none.
"""

import contextlib
import enum
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from misc.errors import UserError, raise_problems
from misc.storage.checksums import (
    JSON_KEY,
    Checksum,
    append_checksum,
    checksum_and_start,
    checksum_of,
    crc_of,
    is_text,
)
from misc.storage.files import atomic_path, read_bytes

MANIFEST = "manifest.json"
FILES = "files"  # in a manifest: checksums by name of the file
IMAGES = "images"  # in a manifest: what the files of each image depend on, by image id
_MAX_MANIFEST = 256 << 20  # bytes
_ADVICE = "move it away or give another place"


@dataclass(frozen=True)
class Output:
    """A folder or a file that is written, and the option that names it or the place around it."""

    flag: str
    path: Path
    is_file: bool = False
    suffix: str = ""  # of the files that a step writes in a folder

    @property
    def folder(self) -> Path:
        return self.path.parent if self.is_file else self.path


class State(enum.Enum):
    MISSING = enum.auto()
    WHOLE = enum.auto()
    DAMAGED = enum.auto()  # its own, with changed bytes: it is made again
    NOT_OURS = enum.auto()  # somebody else's, or a text of its own that was edited


def output_state(path: Path) -> State:
    if not os.path.lexists(path):
        return State.MISSING
    content = path.read_bytes() if path.is_file() else b""
    found = checksum_of(content)
    if found is Checksum.NONE:
        return State.WHOLE if _is_recorded(path) else State.NOT_OURS
    damaged = State.NOT_OURS if is_text(content) else State.DAMAGED
    return State.WHOLE if found is Checksum.WHOLE else damaged


def is_own(path: Path) -> bool:
    """Tell if a file is this program's, damaged or not; only the ends of large ones are read."""
    if not path.is_file():
        return False
    found, start = checksum_and_start(path)
    return output_state(path) is State.WHOLE if is_text(start) else found or _is_recorded(path)


def is_not_ours(path: Path) -> bool:
    """Tell if something is there that is not this program's."""
    return os.path.lexists(path) and not is_own(path)


def not_ours_line(path: Path, advice: str = _ADVICE) -> str:
    said = "was not made by this program, or was changed since, and stays as it is"
    return f"{path}: {said}; {advice}"


def require_own(path: Path, advice: str = _ADVICE, in_manifest: bool = False) -> None:
    """Raise UserError where a file that is to be replaced is not this program's.

    in_manifest: the manifest has to have its checksum, as of files whose name the user chose.
    """
    if os.path.lexists(path) and not (_is_recorded(path) if in_manifest else is_own(path)):
        raise UserError(not_ours_line(path, advice))
    if in_manifest:
        require_own(path.with_name(MANIFEST), advice)


def require_places(paths: Mapping[str, Path]) -> None:
    """Raise UserError where two outputs, by name, have one path, or one would replace a file."""
    first: dict[Path, str] = {}
    messages = [
        f"{first[path]} and {name}: would both be written to {path}; rename one"
        for name, path in paths.items()
        if first.setdefault(path, name) != name
    ]
    raise_problems("output", [*messages, *(not_ours_line(p) for p in first if is_not_ours(p))])


@contextmanager
def open_output(path: str | Path, in_manifest: bool = False) -> Iterator[BinaryIO]:
    """Open an output, which becomes the file at the end, with its checksum; as `require_own`."""
    path = Path(path)
    require_own(path, in_manifest=in_manifest)
    with atomic_path(path) as temporary, open(temporary, "w+b") as stream:
        yield stream
        if not in_manifest and append_checksum(stream):
            return
        # Beside the checksum of the file before: whenever this ends, the one there is known.
        content, known = manifest_content(path.parent), [_crc(path)] if path.is_file() else []
        known = list(dict.fromkeys((*known, f"{crc_of(stream):08x}")))
        files = {**content.get(FILES, {}), path.name: known}
        write_json(path.with_name(MANIFEST), {**content, FILES: files})


def write_output(path: str | Path, content: bytes) -> None:
    with open_output(path) as stream:
        stream.write(content)


def write_json(path: Path, content: dict, in_manifest: bool = False) -> None:
    indent, sort = None if in_manifest else 1, path.name == MANIFEST
    text = json.dumps(content, indent=indent, sort_keys=sort, allow_nan=False)
    with open_output(path, in_manifest) as stream:
        stream.write(text.encode() + b"\n")


def remove_output(path: Path) -> None:
    """Remove a file that is this program's; another one stays."""
    if is_own(path):
        path.unlink(missing_ok=True)


def write_new(path: Path, content: bytes, advice: str) -> None:
    """Write a file for other programs, without a checksum; UserError where another one is there."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    if os.path.lexists(path):
        raise UserError(f"{path}: is there with other content and stays as it is; {advice}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def link_new(path: Path, target: Path, advice: str) -> None:
    """Write a link to a file, or a copy where there are no links; UserError as of `write_new`."""
    target = target.resolve()
    if path.is_symlink() and path.resolve() == target:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target)
    except OSError:  # something is there, or a file system without links
        write_new(path, target.read_bytes(), advice)


def manifest_content(folder: Path) -> dict:
    """Return all that the manifest of a folder has; nothing where none of its form can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(read_bytes(folder / MANIFEST, _MAX_MANIFEST).decode("utf-8"))
        if is_manifest(content):
            return {name: value for name, value in content.items() if name != JSON_KEY}
    return {}


def is_manifest(content: object) -> bool:
    """Tell if what anybody wrote is settings by name with tables where a manifest has them."""
    if not isinstance(content, dict) or not _is_flat(content, 3):
        return False
    tables = [content, *(content.get(name) or {} for name in (FILES, IMAGES, "inputs"))]
    return all(isinstance(t, dict) and all(isinstance(k, str) for k in t) for t in tables)


def _is_flat(value: object, depth: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value
    nested = isinstance(value, (dict, list, tuple))
    return not nested or (depth > 0 and all(_is_flat(part, depth - 1) for part in parts))


def is_changed(path: Path) -> bool:
    """Tell if a file whose checksum the manifest beside it has was edited since."""
    recorded = path.name in manifest_content(path.parent).get(FILES, {})
    return recorded and path.is_file() and not _is_recorded(path)


def _is_recorded(path: Path) -> bool:
    recorded = manifest_content(path.parent).get(FILES, {}).get(path.name)
    return isinstance(recorded, list) and path.is_file() and _crc(path) in recorded


def _crc(path: Path) -> str:
    with open(path, "rb") as file:
        return f"{crc_of(file):08x}"
