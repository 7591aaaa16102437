"""The loop that the classifier, IRN and later networks are trained with."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from misc.errors import UserError
from misc.manifest import make_writable, settings_difference
from misc.torchutils import PolyOptimizer
from net.checkpoint import read_checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long and in which portions to train."""

    name: str
    epochs: int
    batch_size: int
    seed: int
    num_workers: int


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint that a training step writes, and the option that names it."""

    flag: str
    path: Path


def check_target(file: CheckpointFile, options: dict, overwrite: bool) -> None:
    """A checkpoint can be written and replaces none that was made otherwise."""
    make_writable(file.path.parent, file.flag)
    if file.path.is_dir():
        raise UserError(f"{file.flag} {file.path}: is a folder; give the name of a file")
    if file.path.exists() and not overwrite:
        noted = _noted(file)
        _require_same(file, noted, {**options, "inputs": noted.get("inputs")})


def is_trained(file: CheckpointFile, settings: dict, overwrite: bool) -> bool:
    """Whether a checkpoint with these settings is there already.

    Raises UserError where there is one of other settings, or of another origin, and no
    `overwrite`.
    """
    if not file.path.exists():
        return False
    try:
        _require_same(file, _noted(file), settings)
    except UserError:
        if overwrite:
            return False
        raise
    log.info("%s is complete already", file.path)
    return True


def _noted(file: CheckpointFile) -> dict:
    noted = read_checkpoint(file.path)["extra"].get("settings")
    return noted if isinstance(noted, dict) else {}


def _require_same(file: CheckpointFile, noted: dict, settings: dict) -> None:
    difference = settings_difference(noted, settings)
    if difference:
        reason = f"was trained with other settings ({difference})"
        raise UserError(
            f"{file.flag} {file.path}: {reason if noted else 'says not how it was trained'}; "
            f"give --overwrite to train again, or another {file.flag}"
        )


def train(
    dataset: Dataset,
    schedule: Schedule,
    parameter_groups: list[dict],
    losses_of: Callable[[list[torch.Tensor]], dict[str, torch.Tensor]],
) -> None:
    """Train with SGD and polynomial decay; incomplete batches are dropped, as in IRN.

    dataset: has `set_epoch`, so that its draws depend on (seed, epoch, image) alone.
    parameter_groups: {"params", "lr", "weight_decay"} each.
    losses_of: a batch -> named losses; "total" is minimised, all are shown.
    """
    batch_size = min(schedule.batch_size, len(dataset))
    steps = len(dataset) // batch_size
    optimizer = PolyOptimizer(
        parameter_groups,
        lr=parameter_groups[0]["lr"],
        weight_decay=parameter_groups[0]["weight_decay"],
        max_step=steps * schedule.epochs,
    )
    with tqdm(total=steps * schedule.epochs, desc=schedule.name, unit="step") as bar:
        for epoch in range(schedule.epochs):
            sums: dict[str, float] = {}
            for batch in _batches(dataset, schedule, batch_size, epoch):
                optimizer.zero_grad()
                losses = losses_of(batch)
                losses["total"].backward()
                optimizer.step()
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value.item()
                bar.update()
            means = ", ".join(f"{name} {value / steps:.4f}" for name, value in sums.items())
            log.info(
                "%s: epoch %d of %d, mean losses: %s",
                schedule.name,
                epoch + 1,
                schedule.epochs,
                means,
            )


def _batches(
    dataset: Dataset, schedule: Schedule, batch_size: int, epoch: int
) -> Iterator[list[torch.Tensor]]:
    dataset.set_epoch(epoch)
    order = torch.Generator().manual_seed(schedule.seed * 1000 + epoch)
    return iter(
        DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=schedule.num_workers,
            generator=order,
        )
    )
