"""Devices, processes, threads and memory of a run, and the machine that it runs on."""

import contextlib
import ctypes
import os
import platform
import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import torch

from misc.errors import StoppedError, UserError
from misc.runtime import distributed
from misc.runtime.processes import Resources, cpu_count

# Needed for RIB with a full-size ResNet-50 on the CPU, and for the dense CRF of a photograph.
_BYTES_WITH_NETWORK, _BYTES_WITHOUT = 8 << 30, 1 << 30
# Errors of libraries that do not get the memory that they ask for.
_NO_MEMORY = re.compile("out of memory|(can't allocate|not enough) memory|ALLOC(ATION)?_FAILED")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "opencv-python-headless")


def uses_cuda(resources: Resources) -> bool:
    """Return whether the run computes on GPUs."""
    return resources.device != "cpu" and (resources.device != "auto" or torch.cuda.is_available())


def pick_devices(resources: Resources, count: int, on_gpu: bool = True) -> list[torch.device]:
    """The device of each process of this rank; without `on_gpu` the work gains by no GPU."""
    ranks, wanted = distributed.local_size(), resources.num_processes
    if on_gpu and uses_cuda(resources):
        gpus, first = torch.cuda.device_count(), distributed.local_rank()
        chosen = [torch.device("cuda", (first + i * ranks) % gpus) for i in range(gpus)]
        if resources.device not in ("auto", "cuda"):
            chosen = [torch.device(resources.device)]
        wanted = wanted or max(1, len(chosen) // ranks)
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        fitting = memory // (_BYTES_WITH_NETWORK if on_gpu else _BYTES_WITHOUT)
        chosen = [torch.device("cpu")]
        wanted = wanted or min(cpu_count() // ranks, fitting if ranks == 1 or not on_gpu else 1)
    wanted = max(1, min(wanted, count))
    return [chosen[i % len(chosen)] for i in range(wanted)]


def main_device(resources: Resources) -> torch.device:
    """The device of a rank's own process, which trains."""
    return pick_devices(resources, 1)[0]


def threads_per_process(resources: Resources, on_gpu: bool = True) -> int:
    """CPU threads of each process; the same however many images are left to do."""
    processes = len(pick_devices(resources, 1 << 30, on_gpu)) * distributed.local_size()
    return resources.num_threads or max(1, cpu_count() // processes)


def read_ahead_workers(resources: Resources) -> int:
    """Processes that read images ahead for one compute process."""
    if resources.num_workers is not None:
        return resources.num_workers
    return min(32, max(1, threads_per_process(resources) - 1)) if uses_cuda(resources) else 1


def set_up_process(
    resources: Resources, device: torch.device | None = None, threads: int | None = None
) -> None:
    """Set threads and kernels of a process that computes; by default of a rank's own process."""
    device = device or main_device(resources)
    own = resources.num_threads or max(1, cpu_count() // distributed.local_size())
    torch.set_num_threads(threads or own)
    # --precision is of convolutions; products of matrices (the random walk) are never rounded.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = resources.precision in ("tf32", "bf16")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if resources.deterministic:
        # cuBLAS reads this when it starts; only with a fixed workspace it adds up in one order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(resources.deterministic)  # not as an earlier run said


def check_device(name: str) -> None:
    """Raise UserError for a device that does not exist, or a name that is not one."""
    known = re.fullmatch(r"(auto|cpu|cuda)(?::(\d+))?", name, re.ASCII)
    ranks, count = distributed.local_size(), torch.cuda.device_count()
    if not known or (known[2] and known[1] != "cuda"):
        raise UserError(f"--device {name}: no such device; say auto, cpu, cuda or cuda:N")
    # Processes that a script has yet to start see these GPUs; others may each see another one.
    if ranks > 1 and known[2] or ranks > count > 0 and name != "cpu" and "RANK" not in os.environ:
        raise UserError(f"--device {name}: the {ranks} processes here would share a GPU; say "
                        f"--device cuda, and NPROC={count} at most")  # fmt: skip
    if known[1] == "cuda" and not (torch.cuda.is_available() and int(known[2] or 0) < count):
        raise UserError(f"--device {name}: there are {count} CUDA devices here; say --device "
                        "cpu, or install a CUDA build of torch and its driver")  # fmt: skip


def machine() -> dict[str, str]:
    """Versions of the libraries, and names of the CPU and the GPUs."""
    found = {"Python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    info = Path("/proc/cpuinfo")
    cpu = re.search("model name.*: (.*)", info.read_text()) if info.is_file() else None
    found["CPU"] = cpu[1] if cpu else platform.machine()
    if torch.cuda.is_available():
        found["GPU"] = ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count())))
    return found


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let glibc keep freed memory: clearing it anew takes up to a third of a training step."""
    # Another C library has no such function.
    set_option = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: None)
    set_option(_TRIM_THRESHOLD, 2**31 - 1)
    set_option(_MMAP_THRESHOLD, 2**30)
    try:
        yield
    finally:
        set_option(_TRIM_THRESHOLD, 64 << 20)  # to which glibc comes by itself
        set_option(_MMAP_THRESHOLD, 32 << 20)


@contextlib.contextmanager
def memory_can_end(where: str, options: Sequence[str] = ("--num_processes",)) -> Iterator[None]:
    """Say in one line which options to lower where memory ends in the block, or a reader's life."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        first, what = (str(error).splitlines() or ["no memory is left"])[0], "out of memory"
        if "DataLoader worker" in first:
            what, options = "a process that reads images ended", ("--num_workers",)
        elif not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        raise StoppedError(f"{where}: {what} ({first}); lower {' or '.join(options)}") from None
