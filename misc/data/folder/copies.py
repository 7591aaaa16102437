"""Photographs that are there twice, under other names, with other labels."""

import contextlib
import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from misc.data.dataset_info import DatasetInfo
from misc.errors import some
from misc.storage.manifest import file_hash

log = logging.getLogger(__name__)

_TAIL = 4096  # bytes at the end of a file, in which photographs of one size differ
_SHOWN = 3


def warn_of_copies(info: DatasetInfo, labels: Mapping[str, tuple[int, ...]]) -> None:
    """Log photographs with the same bytes whose labels differ.

    labels: class indices by path below the root. Only files of the same size are read, and their
    ends first.
    """
    alike: Iterable[list[str]] = [list(labels)]
    for key_of in (_size, _tail, file_hash):
        alike = [part for group in alike for part in _parted(info.root, group, key_of, labels)]
    for group in list(alike)[:_SHOWN]:
        first = group[0]
        other = next(path for path in group if labels[path] != labels[first])
        names = (some([info.class_names[c] for c in labels[path]]) or "none"
                 for path in (first, other))  # fmt: skip
        log.warning("%s and %s are the same photograph with other labels: %s and %s; correct one",
                    info.root / first, info.root / other, *names)  # fmt: skip
    if len(alike) > _SHOWN:
        log.warning("... and %d more photographs are there twice with other labels",
                    len(alike) - _SHOWN)  # fmt: skip


def _parted(
    root: Path,
    group: list[str],
    key_of: Callable[[Path], object],
    labels: Mapping[str, tuple[int, ...]],
) -> Iterator[list[str]]:
    """The files of a group with the same key, where their labels differ."""
    parts = defaultdict(list)
    for path in group:
        with contextlib.suppress(OSError):  # said where the photographs are checked
            parts[key_of(root / path)].append(path)
    return (part for part in parts.values() if len({labels[path] for path in part}) > 1)


def _size(path: Path) -> int:
    return os.stat(path).st_size


def _tail(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        return hashlib.sha256(file.read()).digest()
