"""What a run may use of the machine, as plain values."""

import os
from dataclasses import dataclass


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
    """Processes that share every batch: those that torchrun started, or will start after a check.

    The scripts announce them to the check by the number on this machine.
    """
    values = (os.environ.get(name, "") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return max((int(value) for value in values if value.isdecimal()), default=1)
