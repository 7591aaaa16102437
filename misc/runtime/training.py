"""The loop that the classifier, IRN and later networks are trained with: resumed, on many ranks."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from misc.errors import StoppedError, UserError, counted
from misc.runtime import distributed
from misc.runtime.devices import freed_memory_kept, memory_can_end
from misc.runtime.processes import announced_ranks, set_up_reader
from misc.runtime.programs import progress, shielded
from misc.storage.manifest import IMAGES, settings_difference, settings_of
from misc.storage.outputs import Output, remove_output, require_own
from misc.storage.torch_files import read_torch, write_torch

log = logging.getLogger(__name__)

CHECKPOINT_MINUTES = 5.0  # between two saved states of a training
_STATE = {"settings": dict, "done": int, "model": dict, "optimizer": dict, "sums": dict}

# The network, this rank's part of a batch and the fraction of the batch that it is, 0..1 -> named
# losses, whose sums over the ranks are those of the batch; "total" is minimised.
Losses = Callable[[nn.Module, list[torch.Tensor], float], dict[str, torch.Tensor]]


def state_of(checkpoint: Output) -> Output:
    """The file that the state of an unfinished training is kept in."""
    path = checkpoint.path
    return Output(checkpoint.flag, path.with_name(f"{path.stem}.partial{path.suffix}"), True)


@dataclass(frozen=True)
class Training:
    """What is trained how long, in which batches, and where its checkpoint goes."""

    name: str
    file: Output
    settings: dict  # what the result depends on; see misc.storage.manifest.settings_of
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


def check_target(file: Output, options: dict, overwrite: bool) -> None:
    """Raise UserError where a training with these options could not write or resume its file.

    `overwrite` allows other options, never another origin.
    """
    if file.path.is_dir():
        raise UserError(f"{file.flag} {file.path}: is a folder; give the name of a file")
    noted = _noted(file, options["step"])
    now = settings_of(options, noted.get("inputs")) | {IMAGES: noted.get(IMAGES) or {}}
    _is_made(file, noted, now, overwrite)


def is_trained(training: Training) -> bool:
    """Return whether the checkpoint is there already. Every rank has to call it.

    Raises UserError where there is one of other settings, or of another origin, and no `overwrite`.
    """
    file, settings = training.file, training.settings

    def look() -> bool:
        made = _is_made(file, _noted(file, settings["step"]), settings, training.overwrite)
        if made:
            remove_output(state_of(file).path)  # a run was ended between the two
            log.info("%s is complete already", file.path)
        return made

    return distributed.on_first_rank(look)


def _noted(file: Output, step: str) -> dict:
    """The settings in a checkpoint, which this step has to have written, or else in its state."""
    if not file.path.exists():
        return (_read_state(state_of(file).path) or {}).get("settings", {})
    content = read_torch(file.path)
    noted = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(noted, dict) or noted.get("step") != step:
        raise UserError(
            f"{file.flag} {file.path}: was not written by {step} and stays as it is; give another "
            f"{file.flag}, or leave out --{step}_pass to use it"
        )
    return noted


def _is_made(file: Output, noted: dict, settings: dict, overwrite: bool) -> bool:
    """Return whether the checkpoint is there, with these settings; UserError as `is_trained`."""
    difference = settings_difference(noted, settings) if noted else ""
    if difference and not overwrite:
        raise UserError(
            f"{file.flag} {file.path}: was trained with other settings ({difference}); give "
            f"--overwrite to train again, --{settings['step']}_pass False to use it as it is, or "
            f"another {file.flag}"
        )
    made = file.path.exists() and not difference
    for output in () if made else (file, state_of(file)):
        require_own(output.path, f"move it away, or give another {file.flag}")
    return made


def check_batch(flag: str, batch_size: int, images: int, accumulate: int = 1) -> None:
    """Raise UserError where a rank would get no image of a batch, or of one of its micro-batches.

    images: of the training.
    """
    ranks, size = announced_ranks(), min(batch_size, images)
    smallest = (size - 1) % -(-batch_size // accumulate) + 1
    if smallest < ranks:
        few = f", of {counted({'image': images})}" if images < batch_size else ""
        raise UserError(
            f"{flag} {batch_size}{few}: leaves nothing to do for some of {ranks} processes; give "
            f"NPROC={smallest} or less, or larger batches"
        )


def train(
    training: Training,
    model: nn.Module,
    optimizer: Optimizer,
    dataset: Dataset,
    losses_of: Losses,
    schedule: LRScheduler | None = None,
) -> None:
    """Train a network, from the state that an earlier run of the same settings saved, if any.

    Every rank has to call it, with the same model; each processes its part of every batch.

    schedule: moves the learning rates after every step, where the optimizer does not do so itself.
    dataset: has `image_ids`, and `set_epoch`, so that its draws depend on (seed, epoch, image).
    Raises UserError, with the images of the micro-batch, where a loss is not finite.
    """
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    per_epoch, total = training.steps(len(dataset))
    done, sums = _resume(training, parts)
    network, saved = distributed.data_parallel(model), time.monotonic()
    prefix = f"--{training.name.removeprefix('train_')}"
    bar = progress(total, training.name, "step", done, hidden=distributed.rank() > 0)
    lower = (f"{prefix}_batch_size", f"{prefix}_crop_size")
    with bar, freed_memory_kept(), memory_can_end(training.name, lower):
        while done < total:
            epoch, first = divmod(done, per_epoch)
            begun, before, sums = time.monotonic(), done, sums if first else {}
            dataset.set_epoch(epoch)
            steps = _micro_batches(dataset, training, epoch)[first : first + total - done]
            batches = iter(_loader(dataset, training, steps, next(model.parameters()).is_cuda))
            for step in steps:
                optimizer.zero_grad()
                losses = _add_gradients(network, step, batches, losses_of)
                _require_finite(training.name, epoch, done, dataset, step, losses["total"])
                for name, values in losses.items():
                    sums[name] = sums.get(name, 0.0) + values.sum()
                optimizer.step()
                if schedule:
                    schedule.step()
                done += 1
                if time.monotonic() - saved >= 60 * CHECKPOINT_MINUTES:
                    _save(training, done, parts, sums)
                    saved = time.monotonic()
                bar.update()
            means = {name: float(v) / (done - epoch * per_epoch) for name, v in sums.items()}
            log.info(
                "%s: epoch %d of %d, mean losses: %s; learning rate %.3g, %.1f images/s",
                training.name, epoch + 1, -(-total // per_epoch),
                ", ".join(f"{name} {mean:.4f}" for name, mean in means.items()),
                optimizer.param_groups[0]["lr"],
                (done - before) * sum(map(len, steps[0])) / (time.monotonic() - begun),
            )  # fmt: skip
    _save(training, done, parts, sums)


def _micro_batches(dataset: Dataset, training: Training, epoch: int) -> list[list[list[int]]]:
    """Indices of the images of each micro-batch of each step of an epoch, on all ranks."""
    size = min(training.batch_size, len(dataset))
    micro = -(-training.batch_size // training.accumulate)
    generator = torch.Generator().manual_seed(training.seed * 1000 + epoch)
    order = torch.randperm(len(dataset), generator=generator)
    steps = order[: len(order) // size * size].view(-1, size).tolist()
    return [[step[at : at + micro] for at in range(0, size, micro)] for step in steps]


def _loader(
    dataset: Dataset, training: Training, steps: list[list[list[int]]], pin_memory: bool
) -> DataLoader:
    """Reads this rank's part of every micro-batch of the steps, one after the other."""
    return DataLoader(
        dataset,
        batch_sampler=[distributed.part(indices) for step in steps for indices in step],
        num_workers=training.num_workers,
        pin_memory=pin_memory,
        # Its own generator, so that the loader draws nothing from the global one.
        generator=torch.Generator().manual_seed(training.seed),
        worker_init_fn=set_up_reader,
    )


def _add_gradients(
    network: nn.Module, step: list[list[int]], batches: Iterator, losses_of: Losses
) -> dict[str, torch.Tensor]:
    """Sum the gradients of the M micro-batches of a step; the ranks average them with the last.

    Returns the losses by name, (M,) each, summed over the ranks.
    """
    size, found = sum(map(len, step)), []
    for number, batch in enumerate(itertools.islice(batches, len(step)), start=1):
        later = number < len(step) and hasattr(network, "no_sync")
        with network.no_sync() if later else nullcontext():
            losses = losses_of(network, batch, len(batch[-1]) / size)
            # The gradients of the ranks are averaged; the loss is the sum of their parts.
            (losses["total"] * distributed.size()).backward()
        found.append(torch.stack([value.detach() for value in losses.values()]))
    return dict(zip(losses, distributed.summed(torch.stack(found, dim=1)), strict=True))


def _require_finite(
    name: str, epoch: int, done: int, dataset: Dataset, step: list[list[int]], losses: torch.Tensor
) -> None:
    """End a training with a loss, of M micro-batches, that is not finite: nothing is saved."""
    if losses.isfinite().all():
        return
    images = [dataset.image_ids[i] for i in step[int(losses.isfinite().int().argmin())]]

    def fail() -> None:
        raise UserError(
            f"{name}: the loss of step {done + 1} (epoch {epoch + 1}) is not finite, with the "
            f"images {', '.join(images)}; give a lower learning rate, or look at these"
        )

    distributed.on_first_rank(fail)


def save_trained(training: Training, model: nn.Module, save_checkpoint: Callable) -> None:
    """Write the checkpoint of a finished training. Every rank has to call it.

    save_checkpoint: called with the path, the network and what made it (`settings=...`).
    """
    file = training.file

    def save() -> None:
        if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
            raise UserError(
                f"{file.flag} {file.path}: is not written, the weights are not finite; give a "
                "lower learning rate"
            )
        save_checkpoint(file.path, model, settings=training.settings)
        remove_output(state_of(file).path)

    distributed.on_first_rank(save)


def _save(training: Training, done: int, parts: dict[str, Any], sums: dict) -> None:
    """Keep the state after `done` steps; the first rank writes it."""
    if distributed.rank() > 0:
        return
    device = next(parts["model"].parameters()).device
    state = {
        "settings": training.settings,
        "done": done,
        **{name: part and part.state_dict() for name, part in parts.items()},
        "sums": sums,
        "rng": torch.get_rng_state(),
        "cuda rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    with shielded():
        write_torch(state_of(training.file).path, state)


def _resume(training: Training, parts: dict[str, Any]) -> tuple[int, dict]:
    """Load the state of an earlier run; returns its steps and sums of losses, or 0 and none."""
    path = state_of(training.file).path
    state = _read_state(path)
    if state and (difference := settings_difference(state["settings"], training.settings)):
        log.info("%s is left: it was trained with other settings (%s)", path, difference)
        state = None
    if len(set(distributed.gathered(state and state["done"]))) > 1:
        raise StoppedError(f"{path}: the processes see different files; its folder must be shared")
    if not state:
        return 0, {}
    device = next(parts["model"].parameters()).device
    try:
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(state[name])
        torch.set_rng_state(state["rng"])
        if device.type == "cuda" and state["cuda rng"] is not None:
            torch.cuda.set_rng_state(state["cuda rng"], device)
        sums = {name: value.to(device) for name, value in state["sums"].items()}
    except Exception as error:  # the file may be anybody's: it can hold anything
        raise UserError(
            f"{path}: is of another network ({type(error).__name__}); remove it to train anew"
        ) from error
    log.info("%s: resumes after %d steps from %s", training.name, state["done"], path)
    return state["done"], sums


def _read_state(path: Path) -> dict | None:
    """The state of an unfinished training; None where it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        state = read_torch(path)
        if all(isinstance(state[name], kind) for name, kind in _STATE.items()):
            return state
    except (UserError, LookupError, TypeError):
        pass
    log.warning("%s is damaged; training starts anew", path)
    return None
