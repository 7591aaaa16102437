"""The step modules by name, and which of them makes what."""

import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from misc.cli.options import STEPS, Options


def load_steps(names: Iterable[str] = tuple(STEPS)) -> dict[str, ModuleType]:
    """Step modules by name: LISTS, `writes(args)`, `check(args, preflight)`, `run(args)`."""
    return {name: importlib.import_module(f"step.{name}") for name in names}


def makers(args: Options, names: Iterable[str] = tuple(STEPS)) -> dict[Path, str]:
    """The step that makes each folder and file that these steps would write with these options."""
    return {
        path.resolve(): name
        for name, step in reversed(load_steps(names).items())  # of two the first counts
        for path in step.writes(args).values()
    }
