"""The beginning and the end of every program, such as run_sample.py: one line for what ended it."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator

from misc.errors import NotReproducedError, SaidElsewhereError, StoppedError, UserError
from misc.runtime import interrupts
from misc.runtime.threads import wait_briefly

_INTERRUPTED = "interrupted: the same command resumes where it stopped"


def begin() -> None:
    """For the first lines of a program, before it loads torch, which takes seconds.

    Ctrl-C ends it with one line and code 130 while modules load; `said_plainly` takes over.
    """
    signal.signal(signal.SIGINT, _end_at_once)
    wait_briefly()


def _end_at_once(number: int, frame: object) -> None:
    # No exception: modules that are being loaded take it for an error of their own.
    if _is_first_rank():
        os.write(2, f"{_INTERRUPTED}\n".encode())
    os._exit(128 + number)


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def said_plainly(work: Callable[[], object], ends_process: bool = False) -> int:
    """Do something; returns the exit code, after one line for what ended it. Its log ends too.

    ends_process: the caller does nothing but exit with it; see `interrupts.noticed`.
    """
    try:
        with interrupts.noticed(ends_process), own_log():
            work()
    except UserError as error:
        if not isinstance(error, SaidElsewhereError):
            _say_each("error", str(error))
        return 2
    except NotReproducedError as error:
        if _is_first_rank():
            _say_each("compared", str(error))
        return 1
    except (StoppedError, OSError) as error:  # such as a full disk, or a folder that is gone
        _say_each("stopped", f"{error}; the same command resumes where it stopped")
        return 1
    except interrupts.Interrupted as interrupt:
        if _is_first_rank():
            print(_INTERRUPTED, file=sys.stderr)
        return 128 + interrupt.number
    return 0


def _say_each(kind: str, text: str) -> None:
    for line in text.splitlines():
        print(f"{kind}: {line}", file=sys.stderr)


@contextlib.contextmanager
def own_log() -> Iterator[None]:
    """What the block logs to ends with it: afterwards messages go where they went before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            with contextlib.suppress(OSError):  # of a full disk, which has been said
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
