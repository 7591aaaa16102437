"""The step modules by name, and which of them makes what."""

import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from misc.cli.options import RECAM, STEPS, Options


def load_steps(names: Iterable[str] = tuple(STEPS)) -> dict[str, ModuleType]:
    """Step modules by name: LISTS, `writes(args)`, `check(args, preflight)`, `run(args)`.

    LISTS names the roles of the image lists that a step reads, and "labels" for image-level labels.
    """
    return {name: importlib.import_module(f"step.{name}") for name in names}


def makers(args: Options, names: Iterable[str] = tuple(STEPS)) -> dict[Path, str]:
    """The step that makes each folder and file that these steps would write with these options."""
    # Of two the first counts, and that of --recam before others that make such maps.
    others = {maker for maker, _ in RECAM.values()} - {RECAM[args.recam][0]}
    steps = sorted(reversed(load_steps(names).items()), key=lambda item: item[0] not in others)
    return {output.path.resolve(): name for name, step in steps for output in step.writes(args)}
