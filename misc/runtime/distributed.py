"""The ranks of a run that torchrun started; a run that was started alone is rank 0 of 1.

Ranks share the file system and a process group of `torch.distributed`, nothing else.
"""

import datetime
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
import torch.distributed as dist

from misc.errors import SaidElsewhereError, StoppedError, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# A rank that has done its images waits for the others. Gloo counts milliseconds in 32 bits.
_PATIENCE = datetime.timedelta(days=20)
_POLL = 0.02  # seconds; waiting in Python, where a signal can end it


class _Joined:
    """What the process group of this process is."""

    waiting_room: dist.ProcessGroup | None = None  # for plain values; the default one is for DDP
    on_first_rank_only = False


@contextmanager
def joined(with_cuda: bool) -> Iterator[None]:
    """Takes part in the process group that torchrun announces; without torchrun does nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if with_cuda:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if with_cuda else "gloo"
    store, number, count = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(_agreed_name(store, number, count), store)
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    _Joined.waiting_room = dist.new_group(backend="gloo", timeout=_PATIENCE)
    yield
    gathered(None)  # a rank must not leave while another may need it
    _Joined.waiting_room = None
    dist.destroy_process_group()  # not after an error: it could wait for ranks that are gone


def _agreed_name(store: dist.Store, number: int, count: int) -> str:
    """A name that all ranks know and that no earlier attempt of the run has used.

    torchrun restarts ranks with the store that they had, and it still says where the ranks of the
    earlier attempt could be reached. So each rank asks under a new name of its own, and rank 0
    answers to the latest names until all have its answer.
    """
    own = uuid.uuid4().hex
    if number > 0:
        store.set(f"rank {number}", own)
        while not store.check([f"answer to {own}"]):
            time.sleep(_POLL)
        name = store.get(f"answer to {own}").decode()
        store.set(f"{name} is known to {number}", "")
        return name
    missing = set(range(1, count))
    while missing:
        missing = {r for r in missing if not store.check([f"{own} is known to {r}"])}
        for asked in (f"rank {r}" for r in missing):
            if store.check([asked]):
                store.set(f"answer to {store.get(asked).decode()}", own)
        time.sleep(_POLL)
    return own


def rank() -> int:
    """Number of this process among all of the run, from 0."""
    return dist.get_rank() if _Joined.waiting_room else 0


def size() -> int:
    """Processes of the run, on all machines."""
    return dist.get_world_size() if _Joined.waiting_room else 1


def local_rank() -> int:
    """Number of this process among those of the run on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_size() -> int:
    """Processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def share(items: Sequence[Item]) -> Sequence[Item]:
    """This rank's part of a sequence that is the same on all ranks."""
    return items[rank() :: size()]


def gathered(value: Result) -> list[Result]:
    """The values of all ranks, by rank, on each of them. Every rank has to call it."""
    if size() == 1:
        return [value]
    values: list[Result | None] = [None] * size()
    _wait_for_all()
    dist.all_gather_object(values, value, group=_Joined.waiting_room)
    return values


def _wait_for_all() -> None:
    """Returns when every rank is here. It sleeps in Python, where a signal can end it."""
    try:
        everybody = dist.barrier(group=_Joined.waiting_room, async_op=True)
        while not everybody.is_completed():
            time.sleep(_POLL)
        everybody.wait()
    except RuntimeError:
        raise StoppedError("another process of the run has ended") from None


def on_first_rank(work: Callable[[], Result]) -> Result:
    """What `work` returns on rank 0, on all ranks. Its UserError is raised on all of them."""
    if size() == 1 or _Joined.on_first_rank_only:
        return work()
    result, problem = None, None
    if rank() == 0:
        _Joined.on_first_rank_only = True
        try:
            result = work()
        except UserError as error:
            problem = str(error)
        finally:
            _Joined.on_first_rank_only = False
    result, problem = gathered((result, problem))[0]
    if problem is not None:
        raise UserError(problem) if rank() == 0 else SaidElsewhereError(problem)
    return result


def summed(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over the ranks of a training, without a gradient."""
    values = values.detach()
    if size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def data_parallel(model: torch.nn.Module) -> torch.nn.Module:
    """The model, with its gradients averaged over the ranks where there are several."""
    if size() == 1:
        return model
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(model, device_ids=devices)


def gradients_averaged(network: torch.nn.Module, now: bool) -> AbstractContextManager:
    """For a forward and a backward pass, whose gradients `data_parallel` averages now or later."""
    parallel = isinstance(network, torch.nn.parallel.DistributedDataParallel)
    return network.no_sync() if parallel and not now else nullcontext()
