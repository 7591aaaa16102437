"""Limits of a run on the machine, and work split over processes; loads no torch."""

import multiprocessing
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from misc.errors import StoppedError, UserError
from misc.runtime.programs import shielded


@dataclass(frozen=True)
class Resources:
    """Limits of a run on the machine; None is chosen by what is there."""

    device: str = "auto"  # or cpu, cuda, cuda:N
    num_processes: int | None = None  # that share the images of a step
    num_workers: int | None = None  # that read ahead for each of these
    num_threads: int | None = None  # of each process
    precision: str = "float32"  # of networks: float32, tf32 or bf16
    deterministic: bool = False  # kernels whose results are bitwise identical every time


def announced_ranks() -> int:
    """Processes that share every batch: torchrun's, or those that the scripts tell a check of."""
    return max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(body: Callable, parts: Sequence, name: str) -> Iterator[tuple[int, Any]]:
    """Run `body(part, report)` for each part in a process of its own; all has to be picklable.

    Yields (number of the part, report) as it comes. A failure of one process ends all: UserError
    and StoppedError come through, others as RuntimeError; StoppedError where one is killed.
    """
    context = multiprocessing.get_context("spawn")
    reports, running = context.Queue(), []
    try:
        with shielded():  # a process that gets half of what it is to do would say so
            for number, part in enumerate(parts):
                process = context.Process(target=_child, args=(number, body, part, reports))
                process.start()
                running.append(process)
        ended = 0
        while ended < len(parts):
            try:
                number, kind, content = reports.get(timeout=1.0)
            except queue.Empty:
                if code := next((p.exitcode for p in running if p.exitcode), None):
                    raise StoppedError(
                        f"{name}: a process ended with code {code} (killed, or out of memory? then "
                        "give fewer --num_processes)"
                    ) from None
                continue
            if kind == "error":
                raise content
            if kind == "end":
                ended += 1
            else:
                yield number, content
        for process in running:
            process.join(5.0)
    finally:
        for process in running:
            process.kill()
            process.join()


def _child(number: int, body: Callable, part: object, reports) -> None:
    end_with_parent()
    try:
        body(part, lambda what: reports.put((number, "report", what)))
        reports.put((number, "end", None))
    except (UserError, StoppedError) as error:
        reports.put((number, "error", error))
    except Exception as error:
        reports.put((number, "error", RuntimeError(f"{error}\n{traceback.format_exc()}")))


def map_in_processes(work: Callable, items: Iterable, processes: int) -> Iterator:
    """Yield what `work` returns for each item, in order; one process means this one."""
    if processes == 1:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), end_with_parent)
    try:
        with shielded():
            results = pool.map(work, items)
        yield from results
    except BrokenProcessPool:
        raise StoppedError("a process ended (killed, or out of memory?)") from None
    finally:
        pool.shutdown(cancel_futures=True)


def set_up_reader(number: int) -> None:
    """End a reading process with the one that it reads for; `worker_init_fn` of a loader."""
    sys.excepthook = lambda *_: None  # the loader hands errors on, except those of a run's end
    end_with_parent()


def end_with_parent() -> None:
    """End this process when the one that started it is gone, also when that was killed."""

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    if multiprocessing.parent_process():
        threading.Thread(target=follow, name="end with parent", daemon=True).start()
