"""The processors and GPUs of a run: how many processes and threads, and which device each has."""

import os

import torch

from misc.errors import UserError
from misc.runtime import distributed
from misc.runtime.processes import cpu_count
from misc.runtime.resources import Resources

# A ResNet-50 at full size needs about this much for RIB on the CPU (20 crops of 512 pixels), and a
# process without a network for the dense CRF of a photograph.
_BYTES_PER_CPU_PROCESS = 8 << 30
_BYTES_WITHOUT_NETWORK = 1 << 30


def uses_cuda(resources: Resources) -> bool:
    """Whether the run computes on GPUs."""
    return resources.device != "cpu" and (resources.device != "auto" or torch.cuda.is_available())


def pick_devices(resources: Resources, count: int, on_gpu: bool = True) -> list[torch.device]:
    """The device of each process of this rank, for `count` images.

    on_gpu: whether the work gains by a GPU; other work has every core, whatever GPUs there are.
    """
    ranks = distributed.local_size()
    if not on_gpu:
        cores = min(cpu_count() // ranks, _processes_that_fit(_BYTES_WITHOUT_NETWORK))
        devices = [torch.device("cpu")] * (resources.num_processes or max(1, cores))
    elif not uses_cuda(resources):
        alone = max(1, min(cpu_count(), _processes_that_fit())) if ranks == 1 else 1
        devices = [torch.device("cpu")] * (resources.num_processes or alone)
    elif resources.device in ("auto", "cuda"):
        gpus, first = torch.cuda.device_count(), distributed.local_rank()
        count_here = resources.num_processes or (gpus if ranks == 1 else 1)
        devices = [torch.device("cuda", (first + i * ranks) % gpus) for i in range(count_here)]
    else:
        devices = [torch.device(resources.device)] * (resources.num_processes or 1)
    return devices[: max(1, count)]


def main_device(resources: Resources) -> torch.device:
    """The device of what a rank does in one process (training)."""
    return pick_devices(resources, 1)[0]


def threads_per_process(resources: Resources, on_gpu: bool = True) -> int:
    """CPU threads of each process; the same however many images are left to do."""
    return resources.num_threads or _share_of_cores(resources, on_gpu)


def _share_of_cores(resources: Resources, on_gpu: bool = True) -> int:
    processes = len(pick_devices(resources, 1 << 30, on_gpu)) * distributed.local_size()
    return max(1, cpu_count() // processes)


def training_threads(resources: Resources) -> int:
    """CPU threads of a training, which is one process in each rank."""
    return resources.num_threads or max(1, cpu_count() // distributed.local_size())


def read_ahead_workers(resources: Resources) -> int:
    """Processes that read images ahead for one compute process."""
    if resources.num_workers is not None:
        return resources.num_workers
    return min(8, max(1, _share_of_cores(resources) - 1)) if uses_cuda(resources) else 1


def usual_precision(resources: Resources) -> str:
    """The --precision of a run that does not say it: on a GPU what PyTorch itself would take."""
    return "tf32" if uses_cuda(resources) else "float32"


def set_up_process(device: torch.device, threads: int, resources: Resources) -> None:
    """Threads and kernels of a process that computes."""
    torch.set_num_threads(threads)
    # Said for both, since the defaults differ: products of matrices, of which the random walk is
    # made, are never rounded; convolutions are what --precision is about.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = resources.precision in ("tf32", "bf16")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if resources.deterministic:
        # cuBLAS reads this when it starts; only with a fixed workspace it adds up in one order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def _processes_that_fit(each: int = _BYTES_PER_CPU_PROCESS) -> int:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1
    return total // each


def check_device(name: str) -> None:
    """Raise UserError for a device that does not exist, or a name that is not one."""
    if name in ("auto", "cpu"):
        return
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise UserError(f"--device {name}: no such device; say auto, cpu, cuda or cuda:N")
    if index and distributed.local_size() > 1:
        raise UserError(
            f"--device {name}: the {distributed.local_size()} processes of torchrun on this "
            f"machine would share one GPU; say --device cuda, of which each takes its own"
        )
    count = torch.cuda.device_count()
    if not torch.cuda.is_available() or int(index or 0) >= count:
        raise UserError(
            f"--device {name}: there are {count} CUDA devices here; say --device cpu, "
            f"or install a CUDA build of torch and its driver"
        )
