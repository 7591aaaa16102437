"""Writing files so that a reader never meets half of one, whatever ends the writer."""

import contextlib
import hashlib
import itertools
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_numbers = itertools.count()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what is written there becomes `path` at the end.

    When the block raises, the temporary file is removed and an older `path` stays as it was. What a
    killed process leaves is found by `remove_leftovers`. The folder has to exist. Outputs are
    opened by `misc.storage.outputs`, which looks at what would be replaced.
    """
    path = Path(path)
    temporary = _temporary(path.parent, path.suffix)
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(folder: Path, suffix: str = "") -> Path:
    """A path that no file has, whose name says the writing process and that it is of this program.

    Not tempfile.mkstemp: its files are readable by their owner alone, and so would the result be.
    """
    writer = f"{_host()}-{os.getpid()}-{next(_numbers)}"
    return folder / f".{writer}.{_token(writer)}.tmp{suffix}"


def _token(writer: str) -> str:
    """Which names are temporary ones of this program: no file of the user has it by chance."""
    return hashlib.sha256(f"RIB temporary file of {writer}".encode()).hexdigest()[:16]


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname())[:64]


def _to_disk(path: Path) -> None:
    """Wait until the bytes are on the disk: after a power cut a new name may not have old bytes."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def remove_leftovers(folder: Path, below: bool = False) -> None:
    """Remove temporary files in a folder whose writer was killed on this machine.

    below: also in the folders below it.
    """
    for where, folders, names in os.walk(folder):
        for name in names:
            found = re.fullmatch(r"\.((\w+)-(\d+)-\d+)\.(\w+)\.tmp(\.\w+)?", name)
            own = found and found[4] == _token(found[1]) and found[2] == _host()
            if own and not _is_alive(int(found[3])):
                Path(where, name).unlink(missing_ok=True)
        folders[:] = folders if below else []


def ignores_case(folder: Path) -> bool:
    """Whether the file system of a folder takes two names for one that differ in case only."""
    probe = _temporary(folder)
    probe.touch(exist_ok=False)
    try:
        return probe.with_name(probe.name.upper()).exists()
    finally:
        probe.unlink()


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():  # a process of that number that ended: this one is not writing now
        return False
    try:
        os.kill(pid, 0)
        # A process that was killed keeps its number until its parent has asked for its end.
        return not _is_zombie(pid)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # a process of another user
        return True


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # The state follows the name of the program, which stands in brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


@contextmanager
def no_folder_left(folder: Path) -> Iterator[None]:
    """Removes a folder that the block created, and those around it, if they are still empty."""
    created = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        yield
    finally:
        for path in created:
            with contextlib.suppress(OSError):
                path.rmdir()


def is_whole_png(path: Path) -> bool:
    """Whether a PNG is there with the last bytes of its format (`outputs` looks at all of it)."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(-min(8, file.tell()), os.SEEK_END)
            return file.read() == b"IEND\xaeB`\x82"
    except OSError:
        return False
