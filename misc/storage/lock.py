"""One run at a time in a folder: a lock that ends with its process, whatever ends that."""

import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from misc.errors import UserError

NAME = ".lock"
_PATIENCE = 5.0  # seconds; a killed run may still be ending
_POLL = 0.1

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
    file = _taken(folder)
    if file is None:
        yield
        return
    try:
        yield
    finally:
        # The name goes before the lock does, so that nobody locks a file that is about to go.
        with contextlib.suppress(OSError):
            (folder / NAME).unlink()
        file.close()


def _taken(folder: Path) -> BinaryIO | None:
    """The locked file, or None where the file system has no locks; UserError after a while."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        file = open(folder / NAME, "a+b")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(file, folder):
                _write_holder(file)
                return file
        except (BlockingIOError, PermissionError):
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read(200).decode(errors="replace").strip() or "its name is unknown"
                raise UserError(
                    f"{folder}: another run writes here ({holder}); wait for its end, or give "
                    "another folder"
                ) from None
            time.sleep(_POLL)
        except OSError as error:
            log.warning("%s: two runs at once are not noticed here (%s)", folder, error.strerror)
            return None
        file.close()


def _is_named(file: BinaryIO, folder: Path) -> bool:
    """Whether the file still has its name: an ending run removes it before it lets go."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(folder / NAME))
    return False


def _write_holder(file: BinaryIO) -> None:
    file.truncate(0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {started}\n".encode())
    file.flush()
