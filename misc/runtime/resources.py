"""What a run may use of the machine, as plain values."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What a run may use of the machine; None is chosen by what is there."""

    device: str = "auto"  # or cpu, cuda, cuda:N
    num_processes: int | None = None  # that share the images of a step
    num_workers: int | None = None  # that read ahead for each of these
    num_threads: int | None = None  # of each process
    precision: str = "float32"  # of networks: float32, tf32, bf16, or float64 for maps
    deterministic: bool = False  # kernels that give the same bits every time
