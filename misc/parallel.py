"""One driver for every step that treats images one by one.

A step supplies what is done with one image and how it is saved (`ImageTask`); the driver splits the
images over processes, shows progress, leaves out what is complete, and names the image when
something goes wrong.
"""

import logging
import os
import queue
import time
import traceback
from pathlib import Path

import torch
import torch.multiprocessing as mp
from tqdm import tqdm

from misc.errors import UserError
from misc.files import is_complete
from misc.options import Options
from misc.processes import cpu_count

log = logging.getLogger(__name__)

# A ResNet-50 at full size needs about this much for RIB on the CPU (20 crops of 512 pixels).
_BYTES_PER_CPU_PROCESS = 8 << 30


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
        """Treat one image: compute and save."""
        raise NotImplementedError

    def finish(self) -> object:
        """Called after the last image; what it returns reaches the caller of `run_over_images`."""
        return None


def pick_devices(args: Options, count: int) -> list[torch.device]:
    """The device of each process, for `count` images."""
    if args.device == "cpu" or (args.device == "auto" and not torch.cuda.is_available()):
        processes = args.num_processes or max(1, min(cpu_count(), _processes_that_fit()))
        devices = [torch.device("cpu")] * processes
    elif args.device in ("auto", "cuda"):
        gpus = torch.cuda.device_count()
        devices = [torch.device("cuda", i % gpus) for i in range(args.num_processes or gpus)]
    else:
        devices = [torch.device(args.device)] * (args.num_processes or 1)
    return devices[: max(1, count)]


def main_device(args: Options) -> torch.device:
    """The device of a step that runs in one process (training)."""
    return pick_devices(args, 1)[0]


def threads_per_process(args: Options) -> int:
    """CPU threads of each process; the same however many images are left to do."""
    return max(1, cpu_count() // len(pick_devices(args, 1 << 30)))


def read_ahead_workers(args: Options) -> int:
    """Processes that read images ahead for one compute process."""
    if args.num_workers is not None:
        return args.num_workers
    device = main_device(args)
    share = cpu_count() // len(pick_devices(args, 1 << 30))
    return min(8, max(1, share - 1)) if device.type == "cuda" else 1


def _processes_that_fit() -> int:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1
    return total // _BYTES_PER_CPU_PROCESS


def run_over_images(task: ImageTask, image_ids: tuple[str, ...], args: Options) -> list:
    """Treat every image that is not complete; returns what `finish` gave in each process.

    Errors of a task leave here as UserError or RuntimeError with the image's name in front.
    """
    todo = [i for i in image_ids if not _all_complete(task.outputs(i))]
    if len(todo) < len(image_ids):
        log.info(
            "%s: %d of %d images are complete already",
            task.name,
            len(image_ids) - len(todo),
            len(image_ids),
        )
    if not todo:
        return []
    devices = pick_devices(args, len(todo) // task.images_worth_a_process)
    threads = threads_per_process(args)
    log.info(
        "%s: %d images, %d process%s on %s, %d thread%s each",
        task.name,
        len(todo),
        len(devices),
        "es" * (len(devices) > 1),
        devices[0].type,
        threads,
        "s" * (threads > 1),
    )
    start = time.perf_counter()
    with tqdm(
        total=len(image_ids),
        initial=len(image_ids) - len(todo),
        desc=task.name,
        unit="image",
        smoothing=0.1,
    ) as bar:
        if len(devices) == 1:
            results = [_run_here(task, todo, devices[0], threads, bar)]
        else:
            results = _run_in_processes(task, todo, devices, threads, bar)
    seconds = time.perf_counter() - start
    log.info(
        "%s: %d images in %.1f s (%.3f s per image)",
        task.name,
        len(todo),
        seconds,
        seconds / len(todo),
    )
    return results


def _all_complete(paths: list[Path]) -> bool:
    return bool(paths) and all(is_complete(path) for path in paths)


def _run_here(task: ImageTask, image_ids: list[str], device: torch.device, threads: int, bar):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        task.start(device, image_ids)
        for image_id in image_ids:
            try:
                task.one(image_id)
            except UserError:
                raise
            except Exception as error:
                raise RuntimeError(f"{task.name}: image {image_id}: {error}") from error
            bar.update()
        return task.finish()
    finally:
        torch.set_num_threads(before)


def _run_in_processes(task: ImageTask, image_ids: list[str], devices: list, threads: int, bar):
    """Process r treats images r, r + n, r + 2n, ...; a failure of one ends them all."""
    context = mp.get_context("spawn")
    reports = context.Queue()
    shares = [image_ids[rank :: len(devices)] for rank in range(len(devices))]
    processes = [
        context.Process(target=_work, args=(rank, task, share, device, threads, reports))
        for rank, (share, device) in enumerate(zip(shares, devices, strict=True))
    ]
    for process in processes:
        process.start()
    try:
        return _collect(task.name, processes, reports, bar)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _collect(name: str, processes: list, reports, bar) -> list:
    """Follow the reports of all processes until each has finished."""
    results: dict[int, object] = {}
    while len(results) < len(processes):
        try:
            kind, rank, content = reports.get(timeout=1.0)
        except queue.Empty:
            dead = [p for r, p in enumerate(processes) if r not in results and p.exitcode]
            if dead:
                raise RuntimeError(
                    f"{name}: a process ended with code {dead[0].exitcode} (killed, or out of "
                    f"memory?); run again to go on, with fewer --num_processes if memory is short"
                ) from None
            continue
        if kind == "image":
            bar.update()
        elif kind == "finished":
            results[rank] = content
        elif kind == "user error":
            raise UserError(content)
        else:
            raise RuntimeError(content)
    return [results[rank] for rank in sorted(results)]


def _work(rank: int, task: ImageTask, image_ids: list[str], device, threads: int, reports) -> None:
    """Body of one process."""
    image_id = "start"
    try:
        torch.set_num_threads(threads)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        task.start(device, image_ids)
        for image_id in image_ids:
            task.one(image_id)
            reports.put(("image", rank, None))
        reports.put(("finished", rank, task.finish()))
    except UserError as error:
        reports.put(("user error", rank, str(error)))
    except Exception as error:
        details = traceback.format_exc()
        reports.put(("error", rank, f"{task.name}: image {image_id}: {error}\n{details}"))
