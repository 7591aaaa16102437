"""One driver for every step that treats images one by one.

A step supplies what is done with one image and how it is saved (`ImageTask`); the driver splits the
images over the ranks of the run and the processes of each, shows progress, leaves out what is
complete, and names the image when something goes wrong.
"""

import logging
import queue
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.multiprocessing as mp

from misc.errors import StoppedError, UserError, counted, raise_problems
from misc.runtime import distributed, interrupts
from misc.runtime.devices import pick_devices, set_up_process, threads_per_process
from misc.runtime.processes import end_with_parent
from misc.runtime.progress import progress
from misc.runtime.resources import Resources
from misc.storage.files import remove_leftovers
from misc.storage.manifest import OutputFolder, claim_folder
from misc.storage.outputs import Output, foreign_line, output_state

log = logging.getLogger(__name__)

_SECONDS_TO_END = 5.0  # what a process gets before it is killed


class ImageTask:
    """What a step does with one image. Must be picklable until `start` was called."""

    name = "step"
    images_worth_a_process = 4  # fewer are done sooner than another process has started

    def outputs(self, image_id: str) -> list[Path]:
        """Files that `one` writes for an image; it is complete when all are there."""
        return []

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        """Load what is needed; called once in each process, with the images it will be given."""

    def one(self, image_id: str) -> None:
        """Process one image: compute and save."""
        raise NotImplementedError

    def finish(self) -> object:
        """Called after the last image; what it returns reaches the caller of `run_over_images`."""
        return None


def claim(folder: OutputFolder, options: dict, inputs: dict, overwrite: bool) -> None:
    """`claim_folder` by the first rank; every rank has to call it."""
    remove_leftovers(folder.path)  # those of this machine
    distributed.on_first_rank(lambda: claim_folder(folder, options, inputs, overwrite))


@contextmanager
def readers_can_end(name: str) -> Iterator[None]:
    """A killed process that reads ahead stops the run as a killed one that computes does."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise StoppedError(
            f"{name}: a process that reads images ended (killed, or out of memory? then give "
            f"fewer --num_workers)"
        ) from None


def run_over_images(task: ImageTask, image_ids: tuple[str, ...], resources: Resources) -> list:
    """Treat every image that is not complete; returns what `finish` gave in each process.

    All ranks have to call it; each treats its share and gets the results of all. Errors of a task
    leave here as UserError, StoppedError or RuntimeError with the image's name in front.
    """
    # One rank looks: two could see different states, and then some image would be nobody's.
    todo = distributed.on_first_rank(lambda: _not_complete(task, image_ids))
    if len(todo) < len(image_ids):
        done = len(image_ids) - len(todo)
        log.info("%s: %d of %d images are complete already", task.name, done, len(image_ids))
    if not todo:
        return []
    start = time.perf_counter()
    results = distributed.gathered(_run_share(task, distributed.share(todo), resources))
    seconds = time.perf_counter() - start
    log.info("%s: %s in %.1f s (%.3f s per image)", task.name, counted({"image": len(todo)}),
             seconds, seconds / len(todo))  # fmt: skip
    return [result for of_rank in results for result in of_rank]


def _not_complete(task: ImageTask, image_ids: tuple[str, ...]) -> list[str]:
    """The images of which an output is missing or damaged; UserError where a file is foreign."""

    def states(image_id: str) -> dict[Path, Output]:
        return {path: output_state(path) for path in task.outputs(image_id)}

    with ThreadPoolExecutor() as pool:  # reading and checksums leave Python to others
        found = dict(zip(image_ids, pool.map(states, image_ids), strict=True))
    pairs = [pair for of_image in found.values() for pair in of_image.items()]
    raise_problems("output", [foreign_line(p) for p, state in pairs if state is Output.FOREIGN])
    for path, state in pairs:
        if state is Output.DAMAGED:
            log.warning("%s: is damaged and made again", path)
    return [i for i, of_image in found.items() if set(of_image.values()) != {Output.WHOLE}]


def _run_share(task: ImageTask, image_ids: list[str], resources: Resources) -> list:
    """Treat the images of this rank."""
    if not image_ids:
        return []
    devices = pick_devices(resources, len(image_ids) // task.images_worth_a_process)
    threads = threads_per_process(resources)
    ranks = distributed.size()
    on_rank = f" on the first of {ranks} ranks" if ranks > 1 else ""
    images = counted({"image": len(image_ids)})
    share = f"{len(devices)} process{'es' * (len(devices) > 1)} on {devices[0].type}"
    log.info("%s: %s%s, %s, %s each", task.name, images, on_rank, share,
             counted({"thread": threads}))  # fmt: skip
    with progress(len(image_ids), task.name, "image", hidden=distributed.rank() > 0) as bar:
        if len(devices) == 1:
            return [_run_here(task, image_ids, devices[0], threads, bar)]
        settings = [(device, threads, resources.deterministic) for device in devices]
        return _run_in_processes(task, image_ids, settings, bar)


def _run_here(task: ImageTask, image_ids: list[str], device: torch.device, threads: int, bar):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        task.start(device, image_ids)
        for image_id in image_ids:
            interrupts.check()
            with _named(task, image_id):
                task.one(image_id)
            bar.update()
        return task.finish()
    finally:
        torch.set_num_threads(before)


@contextmanager
def _named(task: ImageTask, image_id: str) -> Iterator[None]:
    """Puts step and image into the errors that do not name a file."""
    try:
        yield
    except (UserError, StoppedError):
        raise
    except OSError as error:  # a full disk, a folder that was removed
        raise StoppedError(f"{task.name}: image {image_id}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"{task.name}: image {image_id}: {error}") from error


def _run_in_processes(task: ImageTask, image_ids: list[str], settings: list[tuple], bar) -> list:
    """Process r treats images r, r + n, r + 2n, ...; a failure of one ends them all."""
    context = mp.get_context("spawn")
    reports = context.Queue()
    shares = [image_ids[number :: len(settings)] for number in range(len(settings))]
    processes = [
        context.Process(target=_work, args=(number, task, share, setting, reports))
        for number, (share, setting) in enumerate(zip(shares, settings, strict=True))
    ]
    try:
        with _interrupts_blocked():  # a new process inherits that: this one ends them all
            for process in processes:
                process.start()
        results = _collect(task.name, processes, reports, bar)
        for process in processes:  # what has finished ends by itself
            process.join(_SECONDS_TO_END)
        return results
    finally:
        _end(processes)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits until the end of the block; ignored, it would be lost."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def _collect(name: str, processes: list, reports, bar) -> list:
    """Follow the reports of all processes until each has finished."""
    results: dict[int, object] = {}
    while len(results) < len(processes):
        interrupts.check()
        try:
            kind, number, content = reports.get(timeout=1.0)
        except queue.Empty:
            dead = [p for n, p in enumerate(processes) if n not in results and p.exitcode]
            if dead:
                raise StoppedError(
                    f"{name}: a process ended with code {dead[0].exitcode} (killed, or out of "
                    f"memory? then give fewer --num_processes)"
                ) from None
            continue
        if kind == "image":
            bar.update()
        elif kind == "finished":
            results[number] = content
        else:
            raise kind(content)
    return [results[number] for number in sorted(results)]


def _work(number: int, task: ImageTask, image_ids: list[str], setting: tuple, reports) -> None:
    """Body of one process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that its own processes end with it
    end_with_parent()
    device = setting[0]
    image_id = "start"
    try:
        set_up_process(*setting)
        task.start(device, image_ids)
        for image_id in image_ids:
            with _named(task, image_id):
                task.one(image_id)
            reports.put(("image", number, None))
        reports.put(("finished", number, task.finish()))
    except (UserError, StoppedError) as error:
        reports.put((type(error), number, str(error)))
    except Exception as error:
        details = traceback.format_exc()
        reports.put((RuntimeError, number, f"{task.name}: image {image_id}: {error}\n{details}"))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an exception would meet Python's own ending
