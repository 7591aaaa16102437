"""The loop that the classifier, IRN and later networks are trained with: resumed, on many ranks."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from misc.errors import StoppedError, UserError, counted
from misc.runtime import distributed
from misc.runtime.devices import freed_memory_kept
from misc.runtime.processes import announced_ranks, set_up_reader
from misc.runtime.programs import progress, shielded
from misc.storage.manifest import IMAGES, settings_difference
from misc.storage.outputs import Output, remove_output, require_own
from misc.storage.torch_files import read_torch, write_torch

log = logging.getLogger(__name__)

CHECKPOINT_MINUTES = 5.0  # between two saved states of a training
_SHOWN = 6  # epochs of a training that the screen shows; the log file has all
_STATE = {"settings": dict, "done": int, "model": dict, "optimizer": dict, "sums": dict}


@dataclass(frozen=True)
class Training:
    """Length and batches of a training, and where its checkpoint goes."""

    name: str
    file: Output
    settings: dict  # what the result depends on: the step, its options and "inputs"
    batch_size: int  # of all ranks together
    seed: int
    num_workers: int
    epochs: int = 0
    iterations: int = 0  # steps, in place of epochs
    accumulate: int = 1  # micro-batches of a batch, whose gradients are summed
    overwrite: bool = False

    def steps(self, images: int) -> tuple[int, int]:
        """Steps of an epoch, whose incomplete batch is dropped as in IRN, and of the training."""
        per_epoch = max(1, images // self.batch_size)
        return per_epoch, self.iterations or self.epochs * per_epoch


def state_of(checkpoint: Output) -> Output:
    """The file that the state of an unfinished training is kept in."""
    path = checkpoint.path
    return Output(checkpoint.flag, path.with_name(f"{path.stem}.partial{path.suffix}"), True)


def check_target(file: Output, settings: dict, overwrite: bool) -> bool:
    """Return whether a checkpoint is there; UserError where it, or a state, has other settings."""
    path, what, step = file.path, f"{file.flag} {file.path}", settings["step"]
    if path.is_dir():
        raise UserError(f"{what}: is a folder; give the name of a file")
    made = path.exists()
    content = read_torch(path) if made else _read_state(state_of(file).path)
    recorded = content.get("settings") if isinstance(content, dict) else None
    if made and not (isinstance(recorded, dict) and recorded.get("step") == step):
        advice = f"give another {file.flag}, or leave out --{step}_pass to use it"
        raise UserError(f"{what}: was not written by {step} and stays as it is; {advice}")
    if recorded:
        now = {"inputs": recorded.get("inputs"), IMAGES: recorded.get(IMAGES) or {}, **settings}
        difference = settings_difference(recorded, now)
        if difference and not overwrite:
            advice = f"--overwrite to train again, --{step}_pass False to use it as it is"
            raise UserError(f"{what}: was trained with other settings ({difference}); give "
                            f"{advice}, or another {file.flag}")  # fmt: skip
        made = made and not difference
    for output in () if made else (file, state_of(file)):
        require_own(output.path, f"move it away, or give another {file.flag}")
    return made


def is_trained(training: Training) -> bool:
    """`check_target` of the first rank, for all. Every rank has to call it."""
    file, first = training.file, distributed.on_first_rank
    made = first(partial(check_target, file, training.settings, training.overwrite))
    if made:
        first(partial(remove_output, state_of(file).path))  # a run was ended between the two
        log.info("%s is complete already", file.path)
    return made


def smallest_part(batch_size: int, images: int, accumulate: int = 1) -> int:
    """Images of the smallest micro-batch, of which each rank gets a part."""
    return (min(batch_size, images) - 1) % -(-batch_size // accumulate) + 1


def check_batch(flag: str, batch_size: int, images: int, accumulate: int = 1) -> None:
    """Raise UserError where a rank would get nothing of a batch, or of one of its micro-batches."""
    ranks, smallest = announced_ranks(), smallest_part(batch_size, images, accumulate)
    few = f", of {counted({'image': images})}" if images < batch_size else ""
    if smallest < ranks:
        raise UserError(f"{flag} {batch_size}{few}: leaves nothing to do for some of {ranks} "
                        f"processes; give NPROC={smallest} or less, or larger batches")  # fmt: skip


def train(
    training: Training,
    model: nn.Module,
    optimizer: Optimizer,
    dataset: Dataset,
    losses_of: Callable[[nn.Module, list[Tensor], float], dict[str, Tensor]],
    schedule: LRScheduler | None = None,
) -> None:
    """Train a network, from the state that an earlier run saved, if any; every rank has to call it.

    dataset: has `image_ids`, and `set_epoch`, so that its draws depend on (seed, epoch, image).
    losses_of: the network, this rank's part of a batch and its fraction of the batch -> losses by
    name, which are summed over the ranks; "total" is minimised. schedule: steps with the optimizer.
    """
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    per_epoch, total = training.steps(len(dataset))
    done, sums = _resume(training, parts)
    network = DistributedDataParallel(model) if torch.distributed.is_initialized() else model
    begun = saved = time.monotonic()
    on_gpu, epochs = next(model.parameters()).is_cuda, -(-total // per_epoch)
    bar = progress(total, training.name, "step", done, hidden=distributed.rank() > 0)
    with bar, freed_memory_kept():
        while done < total:
            epoch, first = divmod(done, per_epoch)
            sums, images, start = sums if first else {}, 0, time.monotonic()
            steps = _steps_of(dataset, training, epoch, first, on_gpu)
            for step, batches in itertools.islice(steps, total - done):
                optimizer.zero_grad()
                losses = _add_gradients(network, step, batches, losses_of)
                _require_finite(training.name, done + 1, dataset, step, losses)
                sums = {name: sums.get(name, 0.0) + losses[name].sum() for name in losses}
                optimizer.step()
                if schedule:
                    schedule.step()
                done, images = done + 1, images + sum(map(len, step))
                if time.monotonic() - saved >= 60 * CHECKPOINT_MINUTES:
                    _save(training, done, parts, sums)
                    saved = time.monotonic()
                bar.update()
            count, seconds = done - epoch * per_epoch, time.monotonic() - start
            means = ", ".join(f"{name} {float(value) / count:.4f}" for name, value in sums.items())
            rate, speed = optimizer.param_groups[0]["lr"], images / seconds
            text = f"mean losses: {means}; learning rate {rate:.3g}, {speed:.1f} images/s"
            _log_epoch(training.name, epoch + 1, epochs, text, begun)
    _save(training, done, parts, sums)


def _log_epoch(name: str, epoch: int, epochs: int, text: str, begun: float) -> None:
    shown = epoch == epochs or epoch % -(-epochs // _SHOWN) == 0
    level = logging.INFO if shown else logging.DEBUG
    seconds = time.monotonic() - begun
    log.log(level, "%s: epoch %d of %d, %s, %.1f s", name, epoch, epochs, text, seconds)


def _steps_of(
    dataset: Dataset, training: Training, epoch: int, first: int, pin_memory: bool
) -> Iterator[tuple[list[list[int]], Iterator]]:
    """Yield the indices of the images of each micro-batch, and the reader of this rank's parts."""
    size = min(training.batch_size, len(dataset))
    micro = -(-training.batch_size // training.accumulate)
    generator = torch.Generator().manual_seed(training.seed * 1000 + epoch)
    order = torch.randperm(len(dataset), generator=generator)
    whole = order[: len(order) // size * size].view(-1, size)[first:].tolist()
    steps = [[step[at : at + micro] for at in range(0, size, micro)] for step in whole]
    dataset.set_epoch(epoch)
    batches = iter(DataLoader(
        dataset,
        batch_sampler=[distributed.part(indices) for step in steps for indices in step],
        num_workers=training.num_workers,
        pin_memory=pin_memory,
        # Its own generator, so that the loader draws nothing from the global one.
        generator=torch.Generator().manual_seed(training.seed),
        worker_init_fn=set_up_reader,
    ))  # fmt: skip
    yield from ((step, batches) for step in steps)


def _add_gradients(
    network: nn.Module, step: list[list[int]], batches: Iterator, losses_of: Callable
) -> dict[str, Tensor]:
    """Sum the gradients of M micro-batches; return the losses by name, (M,), summed over ranks."""
    size, found = sum(map(len, step)), []
    for number, batch in enumerate(itertools.islice(batches, len(step)), start=1):
        alone = number < len(step) and hasattr(network, "no_sync")
        with network.no_sync() if alone else nullcontext():
            losses = losses_of(network, batch, len(batch[-1]) / size)
            # The gradients of the ranks are averaged; the loss is the sum of their parts.
            (losses["total"] * distributed.size()).backward()
        found.append(torch.stack([value.detach() for value in losses.values()]))
    return dict(zip(losses, distributed.summed(torch.stack(found, dim=1)), strict=True))


def _require_finite(name: str, number: int, dataset: Dataset, step: list, losses: dict) -> None:
    for indices, loss in zip(step, losses["total"].tolist(), strict=True):
        if not math.isfinite(loss):
            images = ", ".join(dataset.image_ids[index] for index in indices)
            said = f"the loss of step {number} is not finite, with the images {images}"
            distributed.fail(f"{name}: {said}; give a lower learning rate, or look at these")


def save_trained(training: Training, model: nn.Module, save_checkpoint: Callable) -> None:
    """Write the checkpoint with `save_checkpoint(path, model, settings=)`, on the first rank."""
    file = training.file
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        advice = "give a lower learning rate"
        distributed.fail(f"{file.flag} {file.path}: the weights are not finite; {advice}")
    first, settings = distributed.on_first_rank, training.settings
    first(partial(save_checkpoint, file.path, model, settings=settings))
    first(partial(remove_output, state_of(file).path))


def _save(training: Training, done: int, parts: dict[str, Any], sums: dict) -> None:
    if distributed.rank() == 0:
        on_gpu = next(parts["model"].parameters()).is_cuda
        state = {
            "settings": training.settings,
            "done": done,
            **{name: part and part.state_dict() for name, part in parts.items()},
            "sums": sums,
            "rng": torch.get_rng_state(),
            "cuda rng": torch.cuda.get_rng_state() if on_gpu else None,
        }
        with shielded():
            write_torch(state_of(training.file).path, state)


def _resume(training: Training, parts: dict[str, Any]) -> tuple[int, dict]:
    path, device = state_of(training.file).path, next(parts["model"].parameters()).device
    state = _read_state(path)
    if state and (difference := settings_difference(state["settings"], training.settings)):
        log.info("%s is left: it was trained with other settings (%s)", path, difference)
        state = None
    if len(set(distributed.gathered(state and state["done"]))) > 1:
        raise StoppedError(f"{path}: the processes see different files; its folder must be shared")
    if not state:
        return 0, {}
    try:
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(state[name])
        torch.set_rng_state(state["rng"])
        if device.type == "cuda" and state["cuda rng"] is not None:
            torch.cuda.set_rng_state(state["cuda rng"])
        sums = {name: value.to(device) for name, value in state["sums"].items()}
    except Exception as error:  # the file may be anybody's: it can hold anything
        what = f"is of another network ({type(error).__name__})"
        raise UserError(f"{path}: {what}; remove it to train anew") from error
    log.info("%s: resumes after %d steps from %s", training.name, state["done"], path)
    return state["done"], sums


def _read_state(path: Path) -> dict | None:
    if path.is_file():
        with suppress(UserError, LookupError, TypeError):
            state = read_torch(path)
            if all(isinstance(state[name], kind) for name, kind in _STATE.items()):
                return state
        log.warning("%s is damaged; training starts anew", path)
    return None
