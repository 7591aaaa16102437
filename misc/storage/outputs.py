"""Everything that is written goes through here: only this program's own files are ever replaced.

It knows them by their checksum: embedded (`misc.storage.checksums`), or, of kinds that carry none
such as lists, noted under "files" in the manifest.json of their folder. A file without one is
somebody else's, whatever is in it, and stays.
"""

import contextlib
import enum
import json
import os
import shutil
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
    checksum_of,
    crc_of,
    ends,
    has_checksum,
    is_text,
)
from misc.storage.files import atomic_path

MANIFEST = "manifest.json"
_FILES = "files"  # key of the checksums in it
_ADVICE = "move it away or give another place"


@dataclass(frozen=True)
class Output:
    """A folder or a file that is written, and the option that names it or the place around it."""

    flag: str
    path: Path
    is_file: bool = False
    suffix: str = ""  # of the files in a folder

    @property
    def folder(self) -> Path:
        """The folder that files are written into."""
        return self.path.parent if self.is_file else self.path


class State(enum.Enum):
    """State of an output file."""

    MISSING = enum.auto()
    WHOLE = enum.auto()
    DAMAGED = enum.auto()  # its own, with changed bytes: it is made again
    NOT_OURS = enum.auto()  # somebody else's, or a text of its own that was edited


def output_state(path: Path) -> State:
    """The state of an output, of which all is read."""
    if not os.path.lexists(path):
        return State.MISSING
    if not path.is_file():
        return State.NOT_OURS
    content = path.read_bytes()
    found = checksum_of(content)
    if found is Checksum.NONE:
        return State.WHOLE if _is_noted(path) else State.NOT_OURS
    if found is Checksum.WHOLE:
        return State.WHOLE
    return State.NOT_OURS if is_text(content[:64]) else State.DAMAGED


def is_own(path: Path) -> bool:
    """Whether a file is this program's, damaged or not; only the ends of large ones are read."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start, end = ends(file)
    if is_text(start):
        return output_state(path) is State.WHOLE
    return has_checksum(start, end) or _is_noted(path)


def is_not_ours(path: Path) -> bool:
    """Whether something is there that is not this program's."""
    return os.path.lexists(path) and not is_own(path)


def not_ours_line(path: Path, advice: str = _ADVICE) -> str:
    """What to say of a foreign file where an output should go."""
    return (
        f"{path}: was not made by this program, or was changed since, and stays as it is; {advice}"
    )


def require_own(path: Path, advice: str = _ADVICE, in_manifest: bool = False) -> None:
    """Raise UserError where a file that is to be replaced is not this program's.

    in_manifest: its checksum has to be in the manifest, as of files whose name the user chose:
    among those with an embedded one are the results of other steps. That manifest is ours, too.
    """
    if os.path.lexists(path) and not (_is_noted(path) if in_manifest else is_own(path)):
        raise UserError(not_ours_line(path, advice))
    if in_manifest:
        require_own(path.with_name(MANIFEST), advice)


def require_places(paths: Mapping[str, Path]) -> None:
    """Raise UserError where two things would be written to one path, or to a file of others.

    paths: where each thing goes, by what it is called in messages.
    """
    first: dict[Path, str] = {}
    messages = []
    for name, path in paths.items():
        if first.setdefault(path, name) != name:
            messages.append(
                f"{first[path]} and {name}: would both be written to {path}; rename one"
            )
    messages += [not_ours_line(path) for path in first if is_not_ours(path)]
    raise_problems("output", messages)


@contextmanager
def open_output(path: str | Path, in_manifest: bool = False) -> Iterator[BinaryIO]:
    """Opens an output: what is written becomes the file at the end, with its checksum, or nothing.

    in_manifest: the checksum goes there, also where the file could carry it. Raises
    UserError where the file that it would replace is not this program's.
    """
    path = Path(path)
    require_own(path, in_manifest=in_manifest)
    with atomic_path(path) as temporary, open(temporary, "w+b") as stream:
        yield stream
        if in_manifest or not append_checksum(stream):
            _note(path, crc_of(stream))


def write_output(path: str | Path, content: bytes) -> None:
    """Write an output of these bytes, as `open_output` does."""
    with open_output(path) as stream:
        stream.write(content)


def write_json(path: Path, content: dict, in_manifest: bool = False) -> None:
    """Write an output as JSON, as `open_output` does."""
    sort = path.name == MANIFEST
    text = json.dumps(content, indent=None if in_manifest else 1, sort_keys=sort, allow_nan=False)
    with open_output(path, in_manifest) as stream:
        stream.write(text.encode() + b"\n")


def remove_output(path: Path) -> None:
    """Remove a file that is this program's; another one stays."""
    if is_own(path):
        path.unlink(missing_ok=True)


def write_new(path: Path, content: bytes, advice: str) -> None:
    """Write a file for other programs, without a checksum, so that it is never replaced.

    Raises UserError where another one is in its place.
    """
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
    if os.path.lexists(path):
        write_new(path, target.read_bytes(), advice)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target)
    except OSError:  # a file system without links
        with atomic_path(path) as temporary:
            shutil.copyfile(target, temporary)


def is_changed(path: Path) -> bool:
    """Whether a text of this program was edited since."""
    return path.is_file() and bool(_noted(path)) and not _is_noted(path)


def manifest_content(folder: Path) -> dict:
    """All that the manifest of a folder says; nothing where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads((folder / MANIFEST).read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def noted_files(folder: Path) -> dict[str, list[str]]:
    """Checksums that the manifest of a folder has, by name of the file."""
    files = manifest_content(folder).get(_FILES)
    return files if isinstance(files, dict) else {}


def with_noted_files(settings: dict, files: dict[str, list[str]]) -> dict:
    """What a manifest says of the settings and of the files of its folder."""
    plain = {name: value for name, value in settings.items() if name not in (_FILES, JSON_KEY)}
    return {**plain, _FILES: files} if files else plain


def _noted(path: Path) -> list[str]:
    found = noted_files(path.parent).get(path.name)
    return found if isinstance(found, list) else []


def _is_noted(path: Path) -> bool:
    """Whether the manifest beside a file has its checksum."""
    if path.name == MANIFEST:  # those of earlier versions have no checksum
        return {"inputs", "version"} <= set(manifest_content(path.parent))
    return path.is_file() and f"{_crc(path):08x}" in _noted(path)


def _crc(path: Path) -> int:
    with open(path, "rb") as file:
        return crc_of(file)


def _note(path: Path, crc: int) -> None:
    """Keep the checksum of a file that is about to be there, beside that of the one before.

    Whenever this ends, the file that is there then is known.
    """
    before = [_crc(path)] if path.is_file() else []
    noted = [f"{each:08x}" for each in dict.fromkeys((*before, crc))]
    files = {**noted_files(path.parent), path.name: noted}
    settings = manifest_content(path.parent)
    write_json(path.parent / MANIFEST, with_noted_files(settings, files))
