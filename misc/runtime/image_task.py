"""The driver of every step that processes images one by one, over ranks and processes."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from misc.errors import StoppedError, UserError, counted, raise_problems
from misc.runtime import distributed
from misc.runtime.devices import memory_can_end, pick_devices, set_up_process, threads_per_process
from misc.runtime.processes import Resources, in_processes
from misc.runtime.programs import progress
from misc.storage.manifest import Sources, prepare_folder
from misc.storage.outputs import Output, State, not_ours_line, output_state

log = logging.getLogger(__name__)

MAPS_WORTH_A_PROCESS = 200  # of those that are looked at and not computed


class ImageTask:
    """The work of a step on one image; picklable until `start` was called."""

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
        """Return, after the last image, what the caller of `run_over_images` gets."""


def prepare_output(
    folder: Output, settings: dict, inputs: dict, overwrite: bool, sources: Callable = Sources
) -> None:
    """`prepare_folder` by the first rank, which looks at the sources; every rank has to call it."""
    first = distributed.on_first_rank
    first(lambda: prepare_folder(folder, settings, inputs, overwrite, sources()))


def run_over_images(task: ImageTask, image_ids: tuple[str, ...], resources: Resources) -> list:
    """Process what is not complete, by all ranks; return what `finish` gave in each process."""
    # One rank looks: two could see different states and leave an image to each other.
    todo = distributed.on_first_rank(partial(not_complete, task, image_ids))
    if len(todo) < len(image_ids):
        done = len(image_ids) - len(todo)
        log.info("%s: %d of %d images are complete already", task.name, done, len(image_ids))
    if not todo:
        return []
    start = time.perf_counter()
    results = distributed.gathered(_run_part(task, distributed.part(todo), resources))
    seconds = time.perf_counter() - start
    shown = logging.INFO if task.outputs(todo[0]) else logging.DEBUG  # scores have their own line
    log.log(shown, "%s: %s in %.1f s (%.3f s per image)", task.name,
            counted({"image": len(todo)}), seconds, seconds / len(todo))  # fmt: skip
    return [result for of_rank in results for result in of_rank]


def not_complete(task: ImageTask, image_ids: tuple[str, ...]) -> list[str]:
    """The images of which an output is missing or damaged; UserError where a file is not ours."""
    outputs = [(image_id, path) for image_id in image_ids for path in task.outputs(image_id)]
    with ThreadPoolExecutor() as pool:  # reading and checksums leave Python to others
        states = list(pool.map(output_state, (path for _, path in outputs)))
    found = [(*output, state) for output, state in zip(outputs, states, strict=True)]
    raise_problems("output", [not_ours_line(p) for _, p, state in found if state is State.NOT_OURS])
    for _, path, state in found:
        if state is State.DAMAGED:
            log.warning("%s: is damaged; it is made again", path)
    missing = {image_id for image_id, _, state in found if state is not State.WHOLE}
    complete = {image_id for image_id, _ in outputs} - missing
    return [image_id for image_id in image_ids if image_id not in complete]


def _run_part(task: ImageTask, image_ids: list[str], resources: Resources) -> list:
    """Process the images of this rank: process r of n does images r, r + n, r + 2n, ..."""
    if not image_ids:
        return []
    count = len(image_ids) // task.images_worth_a_process
    devices = pick_devices(resources, count, task.on_gpu)
    threads, ranks = threads_per_process(resources, task.on_gpu), distributed.size()
    log.debug("%s: %s%s, %s on %s, %s each", task.name, counted({"image": len(image_ids)}),
              f" on the first of {ranks} ranks" if ranks > 1 else "",
              counted({"process": len(devices)}), devices[0].type,
              counted({"thread": threads}))  # fmt: skip
    settings = [(device, threads, resources) for device in devices]
    parts = [(image_ids[n :: len(devices)], *each) for n, each in enumerate(settings)]
    with progress(len(image_ids), task.name, "image", hidden=distributed.rank() > 0) as bar:
        if len(parts) == 1:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                return [_process(task, image_ids, devices[0], bar.update)]
            finally:
                torch.set_num_threads(before)
        torch.cuda.empty_cache()  # the others would lack what this process keeps
        results: dict[int, object] = {}
        for number, report in in_processes(partial(_process_part, task), parts, task.name):
            if report is None:
                bar.update()
            else:
                (results[number],) = report
    return [results[number] for number in sorted(results)]


def _process_part(task: ImageTask, part: tuple, report: Callable) -> None:
    image_ids, device, threads, resources = part
    set_up_process(resources, device, threads)
    report([_process(task, image_ids, device, partial(report, None))])


def _process(task: ImageTask, image_ids: list[str], device: torch.device, done: Callable) -> object:
    with memory_can_end(task.name, task.memory_options):
        task.start(device, image_ids)
    for image_id in image_ids:
        where = f"{task.name}: image {image_id}"
        try:
            with memory_can_end(where, task.memory_options):
                task.one(image_id)
        except (UserError, StoppedError):
            raise
        except OSError as error:  # a full disk, a folder that was removed
            raise StoppedError(f"{where}: {error}") from error
        except Exception as error:
            raise RuntimeError(f"{where}: {error}") from error
        done()
    return task.finish()
