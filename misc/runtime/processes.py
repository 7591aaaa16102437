"""What a run may use of the machine, and work split over processes; loads no torch."""

import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from misc.errors import StoppedError, UserError
from misc.runtime.programs import shielded


@dataclass(frozen=True)
class Resources:
    """What a run may use of the machine; None is chosen by what is there."""

    device: str = "auto"  # or cpu, cuda, cuda:N
    num_processes: int | None = None  # that share the images of a step
    num_workers: int | None = None  # that read ahead for each of these
    num_threads: int | None = None  # of each process
    precision: str = "float32"  # of networks: float32, tf32 or bf16
    deterministic: bool = False  # kernels that give the same bits every time


def announced_ranks() -> int:
    """Processes that share every batch: torchrun's, or those that the scripts tell a check of."""
    values = (os.environ.get(name, "") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return max((int(value) for value in values if value.isdecimal()), default=1)


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(body: Callable, parts: Sequence, name: str) -> Iterator[tuple[int, Any]]:
    """Run `body(part, report)` for each part in a process of its own.

    Yields (number of the part, what its body reported) as it comes. A failure of one process ends
    all: UserError and StoppedError come through, others as RuntimeError; StoppedError, with the
    name of the work, where a process is killed. body, parts and reports have to be picklable.
    """
    context = multiprocessing.get_context("spawn")
    reports, running = context.Queue(), len(parts)
    processes = [
        context.Process(target=_child, args=(number, body, part, reports))
        for number, part in enumerate(parts)
    ]
    try:
        _start(processes)
        while running:
            try:
                number, kind, content = reports.get(timeout=1.0)
            except queue.Empty:
                if code := next((p.exitcode for p in processes if p.exitcode), None):
                    raise StoppedError(
                        f"{name}: a process ended with code {code} (killed, or out of memory? then "
                        "give fewer --num_processes)"
                    ) from None
                continue
            if kind == "error":
                raise content
            if kind == "end":
                running -= 1
            else:
                yield number, content
        for process in processes:
            process.join(5.0)
    finally:
        for process in filter(lambda p: p.pid, processes):
            process.kill()
            process.join()


def _start(processes: list) -> None:
    """Start processes; signals wait: one that gets half of what it is to do would say so."""
    # The new ones inherit that Ctrl-C is blocked: this process ends them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with shielded():
            for process in processes:
                process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(number: int, body: Callable, part: object, reports) -> None:
    """Body of one process."""
    end_with_parent()
    try:
        body(part, lambda what: reports.put((number, "report", what)))
        reports.put((number, "end", None))
    except (UserError, StoppedError) as error:
        reports.put((number, "error", error))
    except Exception as error:
        reports.put((number, "error", RuntimeError(f"{error}\n{traceback.format_exc()}")))


def map_in_processes(work: Callable, items: Iterable, processes: int) -> Iterator:
    """Yield what `work` returns for each item, in order; with one process it is done in this one.

    work, items and results have to be picklable. Raises StoppedError when a process is killed.
    """
    numbered, found, given = list(enumerate(items)), {}, 0
    if processes == 1:
        yield from (work(item) for _, item in numbered)
        return
    parts = [numbered[first::processes] for first in range(processes)]
    for _, (number, result) in in_processes(partial(_map_part, work), parts, "shared work"):
        found[number] = result
        while given in found:
            yield found.pop(given)
            given += 1


def _map_part(work: Callable, numbered: list[tuple[int, Any]], report: Callable) -> None:
    for number, item in numbered:
        report((number, work(item)))


def set_up_reader(number: int) -> None:
    """Let a reading process end with the one that it reads for; `worker_init_fn` of a loader.

    Nothing is printed: the loader hands errors on, except those raised while a run shuts down.
    """
    sys.excepthook = lambda *_: None
    end_with_parent()


def end_with_parent() -> None:
    """End this process when the one that started it is gone, also when that was killed."""

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    if multiprocessing.parent_process():
        threading.Thread(target=follow, name="end with parent", daemon=True).start()
