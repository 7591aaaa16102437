"""Beginning, progress and end of every program, such as run_sample.py; loads no torch."""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial

from tqdm import tqdm

from misc.errors import NotReproducedError, SaidElsewhereError, StoppedError, UserError

# Turns of a waiting loop before a thread of OpenMP sleeps: a compromise (misc/PERFORMANCE.md).
SPINS = "2000"
_RESUMES = "the same command resumes where it stopped"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECONDS = 60.0  # between two lines of progress in a log

log = logging.getLogger(__name__)


def begin() -> None:
    """Set what has to be set before torch is loaded; until then Ctrl-C ends with one line."""
    signal.signal(signal.SIGINT, _end)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _end(number: int, frame: object) -> None:
    # No exception: modules that are being loaded take it for an error of their own.
    _say_interrupted()
    os._exit(128 + number)


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say_interrupted() -> None:
    if _is_first_rank():
        os.write(2, f"interrupted: {_RESUMES}\n".encode())


def said_plainly(work: Callable[[], object]) -> int:
    """Do something; return the exit code, after one line for what ended it. Its log ends too."""
    received: list[int] = []
    before = {n: signal.signal(n, partial(_interrupt, received)) for n in _SIGNALS}
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        work()
        return 0
    except BaseException as error:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # nothing interrupts the ending
        if not received:
            return _say(error)
        before = {}  # the process ends; a library may have made another error of the interruption
        _say_interrupted()
        return 128 + received[0]
    finally:
        for handler in set(root.handlers) - set(handlers):
            with contextlib.suppress(OSError):  # of a full disk, which has been said
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(received: list[int], number: int, frame: object) -> None:
    if multiprocessing.parent_process():  # a forked reader, which the process it reads for ends
        return None if number == signal.SIGINT else os._exit(128 + number)
    received.append(number)
    raise KeyboardInterrupt


def _say(error: BaseException) -> int:
    if isinstance(error, UserError):
        kind, text, code = "error", str(error), 2
    elif isinstance(error, NotReproducedError):  # of all ranks
        kind, text, code = "compared", str(error) if _is_first_rank() else "", 1
    elif isinstance(error, StoppedError | OSError):  # such as a full disk
        kind, text, code = "stopped", f"{error}; {_RESUMES}", 1
    else:
        raise error
    for line in text.splitlines() if not isinstance(error, SaidElsewhereError) else ():
        print(f"{kind}: {line}", file=sys.stderr)
    return code


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Let a signal take effect after the block; processes that start in it get no Ctrl-C at all."""
    received: list[int] = []
    before = {n: signal.signal(n, lambda n, frame: received.append(n)) for n in _SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in received[:1]:
        signal.raise_signal(number)


class _Lines:
    """Takes what tqdm would write on a terminal and logs it."""

    def write(self, text: str) -> None:
        if line := text.strip():
            log.info("%s", line)


def progress(total: int, what: str, unit: str, done: int = 0, hidden: bool = False) -> tqdm:
    """Show how much of `total` is done: a bar, or a line a minute where there is no terminal."""
    options = {"mininterval": _SECONDS, "maxinterval": _SECONDS, "delay": _SECONDS, "miniters": 1,
               "file": _Lines(), "leave": False, "ncols": 100, "ascii": True}  # fmt: skip
    if sys.stderr.isatty():
        options = {"delay": 1, "smoothing": 0.1}
    return tqdm(total=total, desc=what, unit=unit, initial=done, disable=hidden, **options)
