"""The ranks of a run that torchrun started; a run that was started alone is rank 0 of 1."""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from misc.errors import SaidElsewhereError, StoppedError, UserError

Result = TypeVar("Result")

# A rank that has done its images waits for the others. Gloo counts milliseconds in 32 bits.
_PATIENCE = timedelta(days=20)
_POLL = 0.02  # seconds; waiting in Python, where a signal can end it


@contextmanager
def joined(with_cuda: bool) -> Iterator[None]:
    """Take part in the process group that torchrun announces; without torchrun do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if with_cuda:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    store, number, count = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(_agreed_name(store, number, count), store)
    backend = "cpu:gloo,cuda:nccl" if with_cuda else "gloo"
    dist.init_process_group(backend, None, _PATIENCE, count, number, store)
    if with_cuda:
        require_own_gpu(str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid))
    yield
    gathered(None)  # a rank must not leave while another may need it
    dist.destroy_process_group()  # not after an error: it could wait for ranks that are gone


def _agreed_name(store: dist.Store, number: int, count: int) -> str:
    """Return a name that all ranks know, of this attempt: torchrun restarts them with one store."""
    # Each rank asks under a new name; rank 0 answers to the latest names until all have its own.
    own = uuid.uuid4().hex
    store.set(f"rank {number}", own)
    while number > 0 and not store.check([own]):
        time.sleep(_POLL)
    name = store.get(own).decode() if number > 0 else own
    store.set(f"{name} {number}", "")
    while number == 0 and not store.check([f"{own} {other}" for other in range(count)]):
        for asked in (f"rank {other}" for other in range(1, count)):
            if store.check([asked]):
                store.set(store.get(asked).decode(), own)
        time.sleep(_POLL)
    return name


def require_own_gpu(gpu: str) -> None:
    """Raise UserError where two ranks have one GPU, which NCCL refuses once it starts."""
    places = gathered(f"{os.uname().nodename}: {gpu}")
    if len(set(places)) < size():
        fail(f"{max(places, key=places.count)}: is the GPU of several processes; give each its own")


def rank() -> int:
    """Number of this process among all of the run, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Processes of the run, on all machines."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Number of this process among those of the run on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_size() -> int:
    """Processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def part(items: Sequence) -> Sequence:
    """This rank's part of a sequence that is the same on all ranks."""
    return items[rank() :: size()]


def gathered(value: Result) -> list[Result]:
    """The values of all ranks, by rank, on each of them. Every rank has to call it."""
    values = [value] * size()
    if size() == 1:
        return values
    try:
        everybody = dist.all_reduce(torch.zeros(1), async_op=True)
        while not everybody.is_completed():
            time.sleep(_POLL)
        everybody.wait()
        dist.all_gather_object(values, value)
    except RuntimeError:
        raise StoppedError("another process of the run has ended") from None
    return values


def on_first_rank(work: Callable[[], Result]) -> Result:
    """Return, on all ranks, what `work` returns, or raise its UserError, on rank 0. All call it."""
    if size() == 1:
        return work()
    result, problem = None, None
    if rank() == 0:
        try:
            result = work()
        except UserError as error:
            problem = error
    result, problem = gathered((result, problem))[0]
    if problem is None:
        return result
    raise problem if rank() == 0 else SaidElsewhereError(str(problem))


def fail(text: str) -> NoReturn:
    """Raise UserError on all ranks, of which the first one says it. Every rank has to call it."""
    gathered(None)
    raise (UserError if rank() == 0 else SaidElsewhereError)(text)


def summed(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over the ranks of a training, without a gradient."""
    values = values.detach().clone()
    if size() > 1:
        dist.all_reduce(values)
    return values
