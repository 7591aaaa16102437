"""The datasets: every package beside misc/ or beside this module that has a dataset.py is one.

`dataset.py` has `describe(root)` and DEFAULT_ROOT, which is None where --root has to be given; one
that describes a dataset by further options has their names in OPTIONS, and takes them by name.
`prepare.py`, which is loaded when it is needed, has `prepare(...)` and LISTS, and may have MASKS, a
module with `writes(args)`, `check(args)` and `run(args)` that follows the pseudo masks of a run.
"""

import importlib
from pathlib import Path
from types import ModuleType

from misc.data.dataset_info import DatasetInfo

_HERE = Path(__file__).resolve().parent
_PROJECT = _HERE.parents[1]


def dataset_names() -> tuple[str, ...]:
    """Names of all datasets, the one of the paper's main tables first."""
    names = sorted((path.parent.name for path in _PROJECT.glob("*/dataset.py")), reverse=True)
    return (*names, *sorted(path.parent.name for path in _HERE.glob("*/dataset.py")))


def default_root(name: str) -> Path | None:
    """Where a dataset is looked for, below the project; None where that has to be said."""
    return _module(name, "dataset").DEFAULT_ROOT


def own_options(name: str) -> tuple[str, ...]:
    """Names of the options that a dataset is described by, beside its root."""
    return getattr(_module(name, "dataset"), "OPTIONS", ())


def describe(name: str, root: Path | None, **options: object) -> DatasetInfo:
    """The description of a dataset whose files are in `root`.

    options: `own_options` by name; without them a dataset that has some is described in general.
    """
    return _module(name, "dataset").describe(root, **options)


def preparation(name: str) -> ModuleType:
    """What makes a dataset's lists and labels."""
    return _module(name, "prepare")


def _module(name: str, part: str) -> ModuleType:
    inside = (_HERE / name / "dataset.py").is_file()
    return importlib.import_module(f"{'misc.data.' if inside else ''}{name}.{part}")
