"""The datasets: every package beside misc/ that has a dataset.py is one, under its own name.

`dataset.py` has `describe(root)` and DEFAULT_ROOT; `prepare.py`, which is loaded when it is needed,
has `prepare(...)` and LISTS.
"""

import importlib
from pathlib import Path
from types import ModuleType

from misc.data.dataset_info import DatasetInfo

_PROJECT = Path(__file__).resolve().parents[2]


def dataset_names() -> tuple[str, ...]:
    """Names of all datasets, the one of the paper's main tables first."""
    names = sorted((path.parent.name for path in _PROJECT.glob("*/dataset.py")), reverse=True)
    return tuple(names)


def default_root(name: str) -> Path:
    """Where a dataset is looked for, below the project."""
    return importlib.import_module(f"{name}.dataset").DEFAULT_ROOT


def describe(name: str, root: Path) -> DatasetInfo:
    """The description of a dataset whose files are in `root`."""
    return importlib.import_module(f"{name}.dataset").describe(root)


def preparation(name: str) -> ModuleType:
    """What makes a dataset's lists and labels."""
    return importlib.import_module(f"{name}.prepare")
