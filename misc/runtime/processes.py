"""Work split over processes, and what the processes of a run have in common."""

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from misc.errors import StoppedError, UserError
from misc.runtime import interrupts

_SECONDS_TO_END = 5.0  # what a process gets before it is killed

Share = TypeVar("Share")
Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    body: Callable[[Share, Callable[[object], None]], None], shares: Sequence[Share], name: str
) -> Iterator[tuple[int, Any]]:
    """Run `body(share, report)` for each share in a process of its own.

    Yields (number of the share, what its body reported) as it comes. A failure of one process ends
    all: UserError and StoppedError come through, others as RuntimeError. body, shares and reports
    have to be picklable. name: of the work, for messages. Raises StoppedError when a process is
    killed.
    """
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    processes = [
        context.Process(target=_child, args=(number, body, share, reports))
        for number, share in enumerate(shares)
    ]
    try:
        with _undisturbed():
            for process in processes:
                process.start()
        yield from _followed(name, processes, reports)
        for process in processes:  # what has finished ends by itself
            process.join(_SECONDS_TO_END)
    finally:
        _end(processes)


def map_in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """What `work` returns for each item, in order; with one process it is done in this one.

    work, items and results have to be picklable. Raises StoppedError when a process is killed.
    """
    items = list(items)
    if processes == 1:
        yield from map(work, items)
        return
    shares = [items[number::processes] for number in range(processes)]
    ready: list[deque] = [deque() for _ in shares]
    reports = in_processes(partial(_map_share, work), shares, "shared work")
    with contextlib.closing(reports):
        for index in range(len(items)):
            while not ready[index % processes]:
                number, result = next(reports)
                ready[number].append(result)
            yield ready[index % processes].popleft()


def _map_share(work: Callable[[Item], Result], items: list[Item], report: Callable) -> None:
    for item in items:
        report(work(item))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Starts processes: signals wait until the end of the block.

    A new process that gets half of what it is to do would say so. Ctrl-C is blocked, which a new
    process inherits: this one ends them all.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with interrupts.shielded():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(number: int, body: Callable, share: object, reports) -> None:
    """Body of one process."""
    signal.signal(signal.SIGTERM, _end_with_own_processes)
    end_with_parent()
    try:
        body(share, lambda what: reports.put((number, None, what)))
        reports.put((number, "end", None))
    except (UserError, StoppedError) as error:
        reports.put((number, type(error), str(error)))
    except Exception as error:
        reports.put((number, RuntimeError, f"{error}\n{traceback.format_exc()}"))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an exception would meet Python's own ending


def _end_with_own_processes(number: int, frame: object) -> None:
    """End this process, and first those that read for it: a loader would wait for each."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a loader's own handler raises when one ends
    for process in multiprocessing.active_children():
        process.terminate()
    sys.exit(1)


def _followed(name: str, processes: list, reports) -> Iterator[tuple[int, Any]]:
    """The reports of all processes until each has ended."""
    ended: set[int] = set()
    while len(ended) < len(processes):
        interrupts.check()
        try:
            number, kind, content = reports.get(timeout=1.0)
        except queue.Empty:
            dead = [p for n, p in enumerate(processes) if n not in ended and p.exitcode]
            if dead:
                raise StoppedError(
                    f"{name}: a process ended with code {dead[0].exitcode} (killed, or out of "
                    f"memory? then give fewer --num_processes)"
                ) from None
            continue
        if kind is None:
            yield number, content
        elif kind == "end":
            ended.add(number)
        else:
            raise kind(content)


def _end(processes: list) -> None:
    """End processes within seconds, whatever they do."""
    started = [process for process in processes if process.pid]
    for process in started:
        process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()


def set_up_reader(number: int) -> None:
    """For `worker_init_fn` of a loader: the reading process ends with the one that it reads for.

    The loader's own watch takes whoever is the parent when the process has started for the one to
    follow, which is another one if that was killed just then. Nothing is printed: the loader hands
    errors on, except those raised while a run shuts down.
    """
    sys.excepthook = lambda *_: None
    end_with_parent()


def end_with_parent() -> None:
    """End this process when the one that started it is gone, also when that was killed."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=follow, name="end with parent", daemon=True).start()
