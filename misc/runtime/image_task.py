"""One driver for every step that processes images one by one.

A step supplies what is done with one image and how it is saved (`ImageTask`); the driver splits the
images over the ranks of the run and the processes of each, shows progress, leaves out what is
complete, and names the image when something goes wrong.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from misc.errors import StoppedError, UserError, counted, raise_problems
from misc.runtime import distributed, interrupts
from misc.runtime.devices import (
    pick_devices,
    set_up_process,
    threads_per_process,
)
from misc.runtime.memory import memory_can_end
from misc.runtime.processes import in_processes
from misc.runtime.progress import progress
from misc.runtime.resources import Resources
from misc.storage.manifest import Sources, prepare_folder
from misc.storage.outputs import Output, State, not_ours_line, output_state

log = logging.getLogger(__name__)

_DONE = "image"  # what a process reports after each


MAPS_WORTH_A_PROCESS = 200  # of those that are looked at and not computed


class ImageTask:
    """What a step does with one image. Must be picklable until `start` was called."""

    name = "step"
    images_worth_a_process = 4  # fewer are done sooner than another process has started
    memory_options: tuple[str, ...] = ("--num_processes",)  # to lower where memory ends
    on_gpu = True  # False: computes without a network, in one process per core

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


def claim(
    folder: Output,
    options: dict,
    inputs: dict,
    overwrite: bool,
    sources: Callable[[], Sources] = Sources,
) -> None:
    """`prepare_folder` by the first rank, which looks at the sources; every rank has to call it."""
    distributed.on_first_rank(lambda: prepare_folder(folder, options, inputs, overwrite, sources()))


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
    """Process every image that is not complete; returns what `finish` gave in each process.

    All ranks have to call it; each does its share and gets the results of all. Errors of a task
    leave here as UserError, StoppedError or RuntimeError with the image's name in front.
    """
    # One rank looks: two could see different states and leave an image to each other.
    todo = distributed.on_first_rank(lambda: not_complete(task, image_ids))
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


def not_complete(task: ImageTask, image_ids: tuple[str, ...]) -> list[str]:
    """The images of which an output is missing or damaged; UserError where a file is foreign."""

    def states(image_id: str) -> dict[Path, State]:
        return {path: output_state(path) for path in task.outputs(image_id)}

    with ThreadPoolExecutor() as pool:  # reading and checksums leave Python to others
        found = dict(zip(image_ids, pool.map(states, image_ids), strict=True))
    pairs = [pair for of_image in found.values() for pair in of_image.items()]
    raise_problems("output", [not_ours_line(p) for p, state in pairs if state is State.NOT_OURS])
    for path, state in pairs:
        if state is State.DAMAGED:
            log.warning("%s: is damaged; it is made again", path)
    return [i for i, of_image in found.items() if set(of_image.values()) != {State.WHOLE}]


def _run_share(task: ImageTask, image_ids: list[str], resources: Resources) -> list:
    """Process the images of this rank."""
    if not image_ids:
        return []
    count = len(image_ids) // task.images_worth_a_process
    devices = pick_devices(resources, count, task.on_gpu)
    threads = threads_per_process(resources, task.on_gpu)
    ranks = distributed.size()
    on_rank = f" on the first of {ranks} ranks" if ranks > 1 else ""
    images = counted({"image": len(image_ids)})
    share = f"{len(devices)} process{'es' * (len(devices) > 1)} on {devices[0].type}"
    log.info("%s: %s%s, %s, %s each", task.name, images, on_rank, share,
             counted({"thread": threads}))  # fmt: skip
    with progress(len(image_ids), task.name, "image", hidden=distributed.rank() > 0) as bar:
        if len(devices) == 1:
            return [_run_here(task, image_ids, devices[0], threads, bar)]
        settings = [(device, threads, resources) for device in devices]
        return _run_in_processes(task, image_ids, settings, bar)


def _run_here(task: ImageTask, image_ids: list[str], device: torch.device, threads: int, bar):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        task.start(device, image_ids)
        for image_id in image_ids:
            interrupts.check()
            with named(task, image_id):
                task.one(image_id)
            bar.update()
        return task.finish()
    finally:
        torch.set_num_threads(before)


@contextmanager
def named(task: ImageTask, image_id: str) -> Iterator[None]:
    """Puts step and image into the errors that do not name a file."""
    where = f"{task.name}: image {image_id}"
    try:
        with memory_can_end(where, task.memory_options):
            yield
    except (UserError, StoppedError):
        raise
    except OSError as error:  # a full disk, a folder that was removed
        raise StoppedError(f"{where}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"{where}: {error}") from error


def _run_in_processes(task: ImageTask, image_ids: list[str], settings: list[tuple], bar) -> list:
    """Process r does images r, r + n, r + 2n, ...; what `finish` gave in each, by r."""
    shares = [(image_ids[r :: len(settings)], setting) for r, setting in enumerate(settings)]
    results: dict[int, object] = {}
    for number, report in in_processes(partial(_do_share, task), shares, task.name):
        if report == _DONE:
            bar.update()
        else:
            (results[number],) = report
    return [results[number] for number in sorted(results)]


def _do_share(task: ImageTask, share: tuple[list[str], tuple], report: Callable) -> None:
    """In a process of its own: the images of a share; reports each, and last what `finish` gave."""
    image_ids, (device, threads, resources) = share
    set_up_process(device, threads, resources)
    task.start(device, image_ids)
    for image_id in image_ids:
        with named(task, image_id):
            task.one(image_id)
        report(_DONE)
    report([task.finish()])
