"""Files that appear whole or not at all, folders that one run holds, and reading within bounds."""

import codecs
import contextlib
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

LOCK = ".rib.lock"
_PATIENCE = 5.0  # seconds; a killed run may still be ending
_LOCK_START = b"process "
_SHOWN = 100  # characters of a file's content in a message
_numbers = itertools.count()
log = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path, which becomes `path` at the end unless the block raises."""
    path = Path(path)
    temporary = _temporary(path.parent, path.suffix)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # after a power cut a new name may not have old bytes
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(folder: Path, suffix: str = "") -> Path:
    """Return a path that no file has; not of tempfile, whose files only their owner can read."""
    return folder / f".{_host()}-{os.getpid()}-{next(_numbers)}.rib.tmp{suffix}"


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname())[:64]


def remove_leftovers(folder: Path, below: bool = False) -> None:
    """Remove temporary files whose writer was killed on this machine; below: in all its folders."""
    for where, folders, names in os.walk(folder):
        for name in names:
            found = re.fullmatch(rf"\.{_host()}-(\d+)-\d+\.rib\.tmp(\.\w+)?", name)
            if found and not _is_writing(int(found[1])):
                Path(where, name).unlink(missing_ok=True)
        folders[:] = folders if below else []


def _is_writing(pid: int) -> bool:
    if pid == os.getpid():  # the number of a process that ended: this one is not writing now
        return False
    try:
        os.kill(pid, 0)
        # A killed process keeps its number until its parent has asked for it: its state is Z.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # a process of another user, or a system without /proc
        return True
    return state != "Z"


@contextmanager
def no_folder_left(folder: Path) -> Iterator[None]:
    """Remove a folder that the block created, and those around it, if they are still empty."""
    created = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        yield
    finally:
        for path in created:
            with contextlib.suppress(OSError):
                path.rmdir()


def ignores_case(folder: Path) -> bool:
    """Tell if the file system of a folder takes two names for one that differ in case only."""
    probe = _temporary(folder)
    probe.touch(exist_ok=False)
    try:
        return probe.with_name(probe.name.upper()).exists()
    finally:
        probe.unlink()


@contextmanager
def locked(folders: Iterable[Path]) -> Iterator[None]:
    """Hold folders, which exist, for the block; UserError where another run holds one of them."""
    with contextlib.ExitStack() as stack:
        for folder in sorted({folder.resolve() for folder in folders}):
            path = folder / LOCK
            holder = _holder(path)
            try:
                stack.enter_context(FileLock(path, timeout=_PATIENCE, poll_interval=0.1))
            except Timeout:
                said = f"another run writes here ({_holder(path) or holder})"
                fix = "wait for its end, or give another folder"
                raise UserError(f"{folder}: {said}; {fix}") from None
            except (OSError, NotImplementedError) as error:  # a file system without locks
                log.warning("%s: two runs at once are not noticed here (%s)", folder, reason(error))
                continue
            started = f"{socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
            path.write_text(f"{_LOCK_START.decode()}{os.getpid()} on {started}\n")
            stack.callback(path.unlink, missing_ok=True)  # before the lock is released
        yield


def _holder(path: Path) -> str:
    text = b""
    with contextlib.suppress(FileNotFoundError):  # it ends meanwhile
        text = path.read_bytes()[:200] if path.is_file() else b""
    other = path.is_symlink() or (path.exists() and not path.is_file())
    if other or not (text or _LOCK_START).startswith(_LOCK_START):
        raise UserError(f"{path}: is not a lock of this program and stays as it is; move it away")
    return text.decode(errors="replace").strip()


def read_bytes(path: str | Path, limit: int) -> bytes:
    """Return the content of a file; ValueError above `limit` bytes or where it is not a file."""
    require_regular(path)
    if os.stat(path).st_size > limit:
        raise ValueError(f"larger than {limit >> 20} MiB")
    return Path(path).read_bytes()


@contextmanager
def reading(path: str | Path, problem: str, fix: str) -> Iterator[None]:
    """Raise UserError naming a file and what to do, whatever its reader raises."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {fix}") from None
    except OSError as error:
        cause = error.strerror or reason(error)
        raise UserError(f"{path} cannot be read ({cause}); {fix}") from error
    except Exception as error:  # damaged bytes raise almost anything
        raise UserError(f"{path} {problem} ({reason(error)}); {fix}") from error


def require_regular(path: str | Path) -> None:
    """Raise ValueError for a pipe or a device, which would be waited for without end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # to open a folder is an error already
        raise ValueError("not a regular file")


def require_unpacked_size(content: bytes, limit: int) -> None:
    """Raise ValueError where a zip archive says that it unpacks to more: no more is unpacked."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > limit:
        raise ValueError(f"unpacks to {size >> 20} MiB, more than {limit >> 20} MiB")


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text by the mark at its start: UTF-16 with one, otherwise UTF-8."""
    utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if utf16 else "utf-8-sig"


def reason(error: object) -> str:
    """Return the text of an exception or of a part of a file, cut and printable, on one line."""
    text = " ".join(str(error)[: 10 * _SHOWN].split())[:_SHOWN]
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if text or isinstance(error, str) else type(error).__name__
