"""Defaults that differ by dataset, for the help texts."""

from collections.abc import Callable
from pathlib import Path

from misc.data.dataset_info import DatasetInfo
from misc.data.registry import dataset_names, default_root, describe


def both(name: str) -> str:
    """Default of an option that differs by dataset, for its help text."""
    return by_dataset(lambda info: info.defaults[name])


def by_dataset(value: Callable[[DatasetInfo], object]) -> str:
    """A default that is computed from a dataset's description, for its help text."""
    infos = (describe(name, Path()) for name in dataset_names() if default_root(name))
    values = {info.name: value(info) for info in infos}
    if len(set(map(str, values.values()))) == 1:  # the same for all
        return f"(default: {next(iter(values.values()))})"
    return f"(default: {', '.join(f'{name} {default}' for name, default in values.items())})"
