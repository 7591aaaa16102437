"""What a run will cost, said by --check and before long runs, and whether that was kept."""

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from misc.cams import CAM_STRIDE
from misc.cli.costs import Operations, Rest
from misc.cli.options import Options
from misc.cli.passes import Rates
from misc.cli.speed import Speed
from misc.errors import UserError
from misc.runtime import distributed

log = logging.getLogger(__name__)

_WORTH_IMAGES = 100  # measuring takes a quarter of a minute, which fewer are not worth


def say_bill(args: Options, steps: Iterable[str]) -> dict[str, float]:
    """Log what steps will compute, how long that takes, and the disk needed; seconds by step.

    What none of the steps reads may be missing: then the log says so in place of a bill.
    """
    try:
        return _say_bill(args, list(steps))
    except UserError as error:
        log.info("what the run costs cannot be said: %s", error)
        return {}


def _say_bill(args: Options, steps: list[str]) -> dict[str, float]:
    operations, speed = Operations(args), Speed(args, args.image_ids("infer")[0])
    flops, others = operations.of(steps), Rest(operations, speed).of(steps)
    if not flops and not others:
        return {}
    rates = Rates(operations, speed)
    computing = {name: count / rates.of(name) for name, count in flops.items()}
    seconds = {
        name: (computing.get(name, 0.0) + others.get(name, 0.0)) / distributed.size()
        for name in steps
        if name in flops or name in others
    }
    for name, expected in seconds.items():
        count = "no network"
        if name in flops:
            count = f"{flops[name] / 1e9:.0f} GFLOP at {rates.of(name) / 1e9:.0f} GFLOP/s"
        log.info("%-22s %29s, about %s", name, count, duration(expected))
    log.info(
        "together about %s, by what %s does now (dense CRF %.1f s and random walk %.1f s for a "
        "million pixels); other programs slow it down, more GPUs share it",
        duration(sum(seconds.values())), speed.device.type, 1e6 * speed.crf,
        1e6 * speed.walk / CAM_STRIDE**2,
    )  # fmt: skip
    needed, free = operations.disk(steps), shutil.disk_usage(existing(args.result_dir)).free
    say = log.warning if needed > free else log.info
    say("maps need about %.2f GB of disk, %.2f GB are free in %s", needed / 1e9, free / 1e9,
        args.result_dir)  # fmt: skip
    return seconds


def expectation(args: Options, steps: Mapping[str, ModuleType]) -> dict[str, float]:
    """Seconds that are expected of each step, for what is left to do; {} where that is little.

    Measured and logged as by --check, where enough images are left to be worth these seconds.
    """
    images = len(args.image_ids("infer"))
    left = {name: left_of(step.writes(args), images) for name, step in steps.items()}
    written = [left[name] for name, step in steps.items() if step.writes(args)]
    if images * max(written, default=0.0) < _WORTH_IMAGES:
        return {}
    if min(written) < 1:
        log.info("a part is there already; the whole would cost:")
    return {name: left[name] * seconds for name, seconds in say_bill(args, steps).items()}


def left_of(places: Mapping[str, Path], images: int) -> float:
    """Share of a step that is left to do, by what is in the places that it writes, 0..1."""
    shares = [1.0]
    for path in places.values():
        if path.is_dir():
            files = sum(entry.name[0] != "." for entry in os.scandir(path) if entry.is_file())
            shares.append(max(0.0, 1 - files / max(1, images)))
        elif path.is_file():
            shares.append(0.0)
    return min(shares)


def say_kept(expected: Mapping[str, float], real: Mapping[str, float]) -> None:
    """Log expected and real seconds of the steps, and of all together, in a line."""
    both = {name: (expected[name], real[name]) for name in expected if name in real}
    if both:
        parts = [f"{name} {duration(e)}, {duration(r)}" for name, (e, r) in both.items()]
        together = (duration(sum(column)) for column in zip(*both.values(), strict=True))
        log.info("expected and real time: %s; together %s, %s", "; ".join(parts), *together)


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def existing(path: Path) -> Path:
    """The nearest folder above a path that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
