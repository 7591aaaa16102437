"""Writing files so that a reader never meets half of one, whatever ends the writer."""

import contextlib
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
    killed process leaves is found by `remove_leftovers`. The temporary name keeps the suffix, by
    which writers such as `np.save` and Pillow go. The folder has to exist.
    """
    path = Path(path)
    # Not tempfile.mkstemp: its files are readable by their owner alone, and so would the result be.
    writer = f"{_host()}-{os.getpid()}-{next(_numbers)}"
    temporary = path.with_name(f".{path.name}.{writer}.tmp{path.suffix}")
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname())


def _to_disk(path: Path) -> None:
    """Wait until the bytes are on the disk: after a power cut a new name may not have old bytes."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files in a folder whose writer was killed on this machine."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in folder.iterdir():
            writer = re.search(r"^\..+\.(\w+)-(\d+)-\d+\.tmp(\.\w+)?$", path.name)
            if writer and writer[1] == _host() and not _is_alive(int(writer[2])):
                path.unlink(missing_ok=True)


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
