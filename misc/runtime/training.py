"""The loop that the classifier, IRN and later networks are trained with: resumed, on many ranks."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from misc.errors import StoppedError, UserError, counted
from misc.runtime import distributed, interrupts
from misc.runtime.memory import freed_memory_kept, memory_can_end
from misc.runtime.processes import set_up_reader
from misc.runtime.progress import progress
from misc.runtime.resources import announced_ranks
from misc.storage.manifest import IMAGES, settings_difference, settings_of
from misc.storage.outputs import Output, remove_output, require_own
from misc.storage.torch_files import read_torch, write_torch

log = logging.getLogger(__name__)

CHECKPOINT_MINUTES = 5.0  # between two saved states of a training


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint that a training step writes, and the option that names it."""

    flag: str
    path: Path

    @property
    def partial(self) -> Path:
        """Where the state of an unfinished training is kept."""
        return self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")

    @property
    def outputs(self) -> tuple[Output, Output]:
        """The checkpoint, and the state of an unfinished training."""
        return Output(self.flag, self.path, is_file=True), Output(self.flag, self.partial, True)


@dataclass(frozen=True)
class Training:
    """What is trained how long, in which portions, and where its state is kept."""

    name: str
    file: CheckpointFile
    settings: dict  # what the result depends on; see misc.storage.manifest.settings_of
    batch_size: int  # of all ranks together
    seed: int
    num_workers: int
    epochs: int = 0
    iterations: int = 0  # steps, in place of epochs
    accumulate: int = 1  # passes that a step's batch is cut into
    overwrite: bool = False

    def step_size(self, dataset: Dataset) -> int:
        """Images of a step."""
        return min(self.batch_size, len(dataset))

    @property
    def micro_batch(self) -> int:
        """Images of a pass, of all ranks together."""
        return -(-self.batch_size // self.accumulate)

    def steps(self, images: int) -> tuple[int, int]:
        """Steps of an epoch, whose incomplete batch is dropped as in IRN, and of the training."""
        per_epoch = max(1, images // self.batch_size)
        return per_epoch, self.iterations or self.epochs * per_epoch


def check_target(file: CheckpointFile, options: dict, overwrite: bool) -> None:
    """A checkpoint that is there was made by the same step, and with these options.

    Raises UserError otherwise; `overwrite` allows other options, never another origin.
    """
    if file.path.is_dir():
        raise UserError(f"{file.flag} {file.path}: is a folder; give the name of a file")
    complete = file.path.exists()
    if complete:
        noted = _noted(file, options["step"])
    else:
        _require_own(file)
        noted = (_read_state(file.partial) or {}).get("settings")
    if not noted:
        return
    settings = {**settings_of(options, noted.get("inputs")), IMAGES: noted.get(IMAGES) or {}}
    if not overwrite:
        _require_same(file, noted, settings)
    elif complete and settings_difference(noted, settings):
        _require_own(file)


def _require_own(file: CheckpointFile) -> None:
    """Raise UserError where a checkpoint or the state of a training would replace another file."""
    for output in file.outputs:
        require_own(output.path, f"move it away, or give another {file.flag}")


def check_batch(flag: str, batch_size: int, images: int, accumulate: int = 1) -> None:
    """Every rank gets a part of each batch, and of each pass that a batch is cut into.

    images: of the training. Raises UserError where a rank would get none.
    """
    ranks = max(distributed.size(), announced_ranks())
    size, micro = min(batch_size, images), -(-batch_size // accumulate)
    smallest = (size - 1) % micro + 1
    if smallest < ranks:
        few = f", of {counted({'image': images})}" if images < batch_size else ""
        raise UserError(
            f"{flag} {batch_size}{few}: leaves nothing to do for some of {ranks} processes; give "
            f"NPROC={smallest} or less, or larger batches"
        )


def is_trained(training: Training) -> bool:
    """Whether the checkpoint is there already. Every rank has to call it.

    Raises UserError where there is one of other settings, or of another origin, and no `overwrite`.
    """
    return distributed.on_first_rank(lambda: _is_trained(training))


def _is_trained(training: Training) -> bool:
    file = training.file
    noted = _noted(file, training.settings["step"]) if file.path.exists() else None
    redone = noted and training.overwrite and settings_difference(noted, training.settings)
    if redone or not noted:
        _require_own(file)
        return False
    _require_same(file, noted, training.settings)
    remove_output(file.partial)  # a run was ended between the two
    log.info("%s is complete already", file.path)
    return True


def _noted(file: CheckpointFile, step: str) -> dict:
    """What a checkpoint records of its training; UserError unless this step has written it."""
    content = read_torch(file.path)
    noted = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(noted, dict) or noted.get("step") != step:
        raise UserError(
            f"{file.flag} {file.path}: was not written by {step} and stays as it is; give another "
            f"{file.flag}, or leave out --{step}_pass to use it"
        )
    return noted


def _require_same(file: CheckpointFile, noted: dict, settings: dict) -> None:
    difference = settings_difference(noted, settings)
    if difference:
        raise UserError(
            f"{file.flag} {file.path}: was trained with other settings ({difference}); give "
            f"--overwrite to train again, --{settings['step']}_pass False to use it as it is, or "
            f"another {file.flag}"
        )


def train(
    training: Training,
    model: nn.Module,
    optimizer: Optimizer,
    dataset: Dataset,
    losses_of: Callable[[nn.Module, list[torch.Tensor], float], dict[str, torch.Tensor]],
    schedule: LRScheduler | None = None,
) -> None:
    """Train a network; the loop of every network of the project.

    Every rank has to call it, with the same model; each processes its part of every batch. The
    state is saved from time to time, and what an earlier run of the same settings saved is resumed:
    the trajectory is the same.

    schedule: moves the optimizer's rates after every step, where it does not do so itself.
    dataset: has `image_ids`, and `set_epoch`, so that its draws depend on (seed, epoch, image)
    alone.
    losses_of: the network, this rank's part of a batch and the share of the batch that it is, 0..1
    -> named losses, whose sums over the ranks are those of the batch; "total" is minimised.
    Raises UserError, with the images of the batch, where that is not finite.
    """
    check_batch(
        f"{training.name} batches of", training.batch_size, len(dataset), training.accumulate
    )
    per_epoch, total = training.steps(len(dataset))
    done, sums = _resume(training, model, optimizer, schedule)
    network = distributed.data_parallel(model)
    saved = time.monotonic()
    bar = progress(total, training.name, "step", done, hidden=distributed.rank() > 0)
    network_name = training.name.removeprefix("train_")
    lower = (f"--{network_name}_batch_size", f"--{network_name}_crop_size")
    with bar, freed_memory_kept(), memory_can_end(training.name, lower):
        while done < total:
            epoch, first = divmod(done, per_epoch)
            sums = sums if first else {}
            on_gpu = next(model.parameters()).device.type == "cuda"
            for step in _steps_of(dataset, training, epoch, first, total - done, on_gpu):
                optimizer.zero_grad()
                losses, indices = _gradients(training, network, dataset, step, losses_of)
                values = _over_ranks(losses)
                _require_finite(training, epoch, done, dataset, indices, values["total"])
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value.sum()
                optimizer.step()
                if schedule:
                    schedule.step()
                done += 1
                interrupts.check()
                if time.monotonic() - saved >= 60 * CHECKPOINT_MINUTES:
                    _save(training, done, model, optimizer, schedule, sums)
                    saved = time.monotonic()
                bar.update()
            _log_means(training, epoch, -(-total // per_epoch), sums, done - epoch * per_epoch)
    _save(training, done, model, optimizer, schedule, sums)


def _gradients(
    training: Training, network: nn.Module, dataset: Dataset, step: Iterable, losses_of: Callable
) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
    """Collect the gradients of a step, averaged over the ranks with its last batch alone.

    Returns this rank's losses of the M batches by name, (M,) each, and the indices of each batch.
    """
    size, members, losses = training.step_size(dataset), [], {}
    count = -(-size // training.micro_batch)
    for number, (batch, indices) in enumerate(step, start=1):
        with distributed.gradients_averaged(network, number == count):
            found = losses_of(network, batch, len(batch[-1]) / size)
            # The gradients of the ranks are averaged; the loss is the sum of their parts.
            (found["total"] * distributed.size()).backward()
        for name, value in found.items():
            losses.setdefault(name, []).append(value.detach())
        members.append(indices)
    return {name: torch.stack(values) for name, values in losses.items()}, members


def _log_means(training: Training, epoch: int, epochs: int, sums: dict, steps: int) -> None:
    means = (f"{name} {float(value) / steps:.4f}" for name, value in sums.items())
    text = "%s: epoch %d of %d, mean losses: %s"
    log.info(text, training.name, epoch + 1, epochs, ", ".join(means))


def save_trained(training: Training, model: nn.Module, save_checkpoint: Callable) -> None:
    """Write the checkpoint of a finished training. Every rank has to call it.

    save_checkpoint: called with the path, the network and what made it (`settings=...`).
    """

    def save() -> None:
        if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
            raise UserError(
                f"{training.file.flag} {training.file.path}: is not written, the weights are not "
                "finite; give a lower learning rate"
            )
        save_checkpoint(training.file.path, model, settings=training.settings)
        remove_output(training.file.partial)

    distributed.on_first_rank(save)


def _require_finite(
    training: Training, epoch: int, done: int, dataset: Dataset, members: list, losses: torch.Tensor
) -> None:
    """End a training with a loss, of M batches, that is not finite: nothing is saved.

    members: indices of the images of each batch. The losses are the same on all ranks.
    """
    if losses.isfinite().all():
        return
    first = int(losses.isfinite().logical_not().nonzero()[0, 0])

    def fail() -> None:
        images = ", ".join(dataset.image_ids[index] for index in members[first])
        raise UserError(
            f"{training.name}: the loss of step {done + 1} (epoch {epoch + 1}) is not finite, with "
            f"the images {images}; give a lower learning rate, or look at these"
        )

    distributed.on_first_rank(fail)


def _over_ranks(losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The losses of all ranks, by name, (M,) each: one sum for a step."""
    values = distributed.summed(torch.stack(list(losses.values())))
    return dict(zip(losses, values, strict=True))


def _steps_of(
    dataset: Dataset, training: Training, epoch: int, first: int, most: int, pin_memory: bool
) -> Iterator[Iterable[tuple[list[torch.Tensor], list[int]]]]:
    """Of each step from `first` on, at most so many: its batches, each with its indices."""
    size, micro = training.step_size(dataset), training.micro_batch
    generator = torch.Generator().manual_seed(training.seed * 1000 + epoch)
    dataset.set_epoch(epoch)
    order = torch.randperm(len(dataset), generator=generator)
    steps = order[: len(order) // size * size].view(-1, size).tolist()[first : first + most]
    members = [step[at : at + micro] for step in steps for at in range(0, size, micro)]
    # Its own generator, so that the loader draws nothing from the global one.
    loader = DataLoader(
        dataset,
        batch_sampler=[distributed.share(batch) for batch in members],
        num_workers=training.num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(training.seed),
        worker_init_fn=set_up_reader,
    )
    batches = zip(loader, members, strict=True)
    for _ in steps:
        yield itertools.islice(batches, -(-size // micro))


def _save(training: Training, done: int, model, optimizer, schedule, sums: dict) -> None:
    """Keep the state after `done` steps; the first rank writes it."""
    if distributed.rank() > 0:
        return
    device = next(model.parameters()).device
    state = {
        "settings": training.settings,
        "done": done,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict() if schedule else None,
        "sums": sums,
        "rng": torch.get_rng_state(),
        "cuda rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    with interrupts.shielded():
        write_torch(training.file.partial, state)


def _resume(training: Training, model, optimizer, schedule) -> tuple[int, dict]:
    """Load the state of an earlier run; returns its steps and sums of losses, or 0 and none."""
    path = training.file.partial
    state = _read_state(path)
    if state and (difference := settings_difference(state["settings"], training.settings)):
        if not training.overwrite:
            _require_same(training.file, state["settings"], training.settings)
        log.info("%s is left: it was trained with other settings (%s)", path, difference)
        state = None
    if len(set(distributed.gathered(state and state["done"]))) > 1:
        raise StoppedError(f"{path}: the processes see different files; its folder must be shared")
    if not state:
        return 0, {}
    device = next(model.parameters()).device
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if schedule:
            schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"])
        if device.type == "cuda" and state["cuda rng"] is not None:
            torch.cuda.set_rng_state(state["cuda rng"], device)
    except Exception as error:  # the file may be anybody's: it can hold anything
        raise UserError(
            f"{path}: is of another network ({type(error).__name__}); remove it to train anew"
        ) from error
    log.info("%s: resumes after %d steps from %s", training.name, state["done"], path)
    return state["done"], {name: value.to(device) for name, value in state["sums"].items()}


def _read_state(path: Path) -> dict | None:
    """The state of an unfinished training; None where it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        state = read_torch(path)
    except UserError:
        log.warning("%s is damaged; training starts anew", path)
        return None
    types = {"settings": dict, "done": int, "model": dict, "optimizer": dict, "sums": dict}
    whole = isinstance(state, dict) and {*types, "schedule", "rng", "cuda rng"} <= set(state)
    whole = whole and all(isinstance(state[name], kind) for name, kind in types.items())
    return state if whole else None
