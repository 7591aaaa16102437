"""One run at a time in a folder: a lock that ends with its process, whatever ends that."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from misc.errors import UserError

NAME = ".rib.lock"
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
    path = folder / NAME
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
