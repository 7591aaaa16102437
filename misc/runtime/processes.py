"""Plain work split over processes, and what the processes of a run have in common."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from misc.errors import StoppedError

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """What `work` returns for each item, in order; with one process it is done in this one.

    work, items and results have to be picklable. Raises StoppedError when a process is killed.
    """
    if processes == 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_begin)
    try:
        yield from pool.map(work, items)
    except BrokenProcessPool:
        raise StoppedError("a process ended (killed, or out of memory?)") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()


def set_up_reader(number: int) -> None:
    """For `worker_init_fn` of a loader: the reading process ends with the one that it reads for.

    The loader's own watch takes whoever is the parent when the process has started for the one to
    follow, which is another one if that was killed just then. Nothing is printed: what goes wrong
    is handed on by the loader, but for what comes up when a run is ended while an image changes
    hands.
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
