"""SIGINT (Ctrl-C) and SIGTERM end a run at once, but not while a file is written.

Python raises an exception wherever it is, also in a callback of a library, which may take it for an
error of its own or drop it. So the signal is noted too, and looked for at the next occasion.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):  # noqa: N818 - no error
    """A signal ends the run; `number` says which."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class _Signal:
    """What has been received, in this process."""

    number: int | None = None
    process: int | None = None  # that looks for signals
    shields = 0


@contextmanager
def noticed(ends_process: bool = False) -> Iterator[None]:
    """Ends the block with Interrupted after a signal, whatever became of its exception.

    ends_process: signals are ignored after the block, where only the interpreter's own end follows:
    neither a complete run nor one that is being interrupted gets another exit code then.
    """
    _Signal.process = os.getpid()
    before = {n: signal.signal(n, _receive) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException:
        check()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ends_process else handler)
        _Signal.number = None


def _receive(number: int, frame: object) -> None:
    if (
        os.getpid() != _Signal.process
    ):  # a reader that was forked and has no handlers of its own yet
        if number == signal.SIGTERM:
            os._exit(128 + number)
        return  # the process that it reads for ends it
    if _Signal.number is None:  # one is enough: the ending is not interrupted
        _Signal.number = number
        if not _Signal.shields:
            check()


def check() -> None:
    """Raise Interrupted if there was a signal."""
    if _Signal.number is not None:
        raise Interrupted(_Signal.number) from None


@contextmanager
def shielded() -> Iterator[None]:
    """A signal in the block is felt at its end only."""
    _Signal.shields += 1
    try:
        yield
    finally:
        _Signal.shields -= 1
    if not _Signal.shields:
        check()
