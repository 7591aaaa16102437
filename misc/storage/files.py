"""Writing files so that a reader never meets half of one, whatever ends the writer."""

import codecs
import contextlib
import hashlib
import io
import itertools
import logging
import os
import re
import socket
import stat
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from misc.errors import UserError

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


_BLOCK = 1 << 16
_SHOWN = 100  # characters of a file's content in a message
LOCK = ".rib.lock"
_PATIENCE = 5.0  # seconds; a killed run may still be ending
_POLL = 0.1
_MARK = b"process "  # a lock begins with it

log = logging.getLogger(__name__)


@contextmanager
def locked(folders: Iterable[Path]) -> Iterator[None]:
    """Holds folders, which exist, for the block; UserError where another run holds one of them.

    The lock is one of the file system (also of NFS): a process that is killed has none any more.
    """
    with contextlib.ExitStack() as stack:
        for folder in sorted({folder.resolve() for folder in folders}):
            stack.enter_context(_one_locked(folder))
        yield


@contextmanager
def _one_locked(folder: Path) -> Iterator[None]:
    path = folder / LOCK
    holder, lock = _holder(path), FileLock(path)
    try:
        lock.acquire(timeout=_PATIENCE, poll_interval=_POLL)
    except Timeout:
        raise UserError(
            f"{folder}: another run writes here ({_holder(path) or holder or 'its name is unknown'}"
            "); wait for its end, or give another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or "no locks"
        log.warning("%s: two runs at once are not noticed here (%s)", folder, reason)
        yield
        return
    try:
        _write_holder(path)
        yield
    finally:
        # The name goes before the lock does, so that nobody locks a file that is about to go.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _holder(path: Path) -> str:
    """What a lock says of the run that holds it; UserError where the file is not a lock."""
    text = b""
    with contextlib.suppress(FileNotFoundError):  # it ends meanwhile
        text = path.read_bytes()[:200] if path.is_file() else b""
    foreign = path.is_symlink() or (path.exists() and not path.is_file())
    if foreign or not (text or _MARK).startswith(_MARK):
        raise UserError(f"{path}: is not a lock of this program and stays as it is; move it away")
    return text.decode(errors="replace").strip()


def _write_holder(path: Path) -> None:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    text = f"{_MARK.decode()}{os.getpid()} on {socket.gethostname()} since {started}\n"
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0))
        with open(file, "w") as stream:
            stream.write(text)


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
