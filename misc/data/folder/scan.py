"""The photographs in a folder tree."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from misc.data.folder.names import is_photograph
from misc.errors import UserError

# Pictures that other programs show, so that their owner expects them to be read.
_PICTURES = (
    ".heic",
    ".heif",
    ".avif",
    ".gif",
    ".bmp",
    ".jp2",
    ".dng",
    ".cr2",
    ".nef",
    ".arw",
    ".svg",
)
_MOST_FILES = 10_000_000


@dataclass(frozen=True)
class Tree:
    """What is in a folder: paths below it with / between folders, ascending."""

    photographs: tuple[str, ...]
    pictures: dict[str, int]  # number of pictures of formats that are not read, by suffix
    others: int  # number of other files

    def left_out(self) -> str:
        """What the log says of files that are no photographs; empty where there are none."""
        parts = [f"{count} {suffix}" for suffix, count in sorted(self.pictures.items())]
        text = (
            f"{', '.join(parts)} (convert them to JPEG or PNG to have them used)" if parts else ""
        )
        if self.others:
            text += f"{', ' if text else ''}{self.others} that are not photographs"
        return text


def look_into(root: Path, left_out: tuple[Path, ...] = ()) -> Tree:
    """All photographs below a folder, links followed once; hidden files are left out.

    left_out: folders below it that hold something else, such as masks.
    """
    photographs, pictures, others = [], Counter(), 0
    without = {folder.resolve() for folder in left_out}
    for path in _files(root, without):
        suffix = os.path.splitext(path)[1].lower()
        if is_photograph(path):
            photographs.append(path)
        elif suffix in _PICTURES:
            pictures[suffix] += 1
        else:
            others += 1
        if len(photographs) + others > _MOST_FILES:
            raise UserError(f"--root {root}: has more than {_MOST_FILES} files; give a smaller one")
    return Tree(tuple(sorted(photographs)), dict(pictures), others)


def _files(root: Path, without: set[Path]) -> Iterator[str]:
    """Paths of the files below a folder, with / between folders."""
    seen: set[tuple[int, int]] = set()
    if root.is_dir():
        _is_new(root, seen, without)
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{folder}{entry.name}"
                    if not entry.is_dir():
                        yield path
                    elif _is_new(root / path, seen, without):
                        waiting.append(f"{path}/")
        except OSError as error:
            raise UserError(
                f"{root / folder}: cannot be read ({error.strerror}); allow it, or move it away"
            ) from None


def _is_new(folder: Path, seen: set[tuple[int, int]], without: set[Path]) -> bool:
    """Whether a folder was not met yet: links may lead in circles."""
    status = os.stat(folder)
    key = (status.st_dev, status.st_ino)
    new = key not in seen and folder.resolve() not in without
    seen.add(key)
    return new
