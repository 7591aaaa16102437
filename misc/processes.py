"""Plain work split over processes: no network, no device (`misc.parallel` is for steps)."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """What `work` returns for each item, in order; with one process it is done in this one.

    work, items and results have to be picklable. Raises RuntimeError when a process is killed.
    """
    if processes == 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_leave_interrupts_to_parent)
    try:
        yield from pool.map(work, items)
    except BrokenProcessPool:
        raise RuntimeError(
            "a process ended (killed, or out of memory?); run again to go on where it stopped"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
