"""The one scanner of folders: photographs, masks, annotations, maps, and what is passed over."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from misc.data.folder.names import is_photograph
from misc.errors import UserError, raise_problems
from misc.storage.files import reason

# Pictures that other programs show, so that their owner expects them to be read.
_PICTURES = (".heic", ".heif", ".avif", ".gif", ".bmp", ".jp2", ".dng", ".cr2", ".nef", ".arw",
             ".svg")  # fmt: skip
_MOST_FILES = 10_000_000
# What operating systems, disks and network storage leave in folders, in lower case.
_LEFT_BEHIND = frozenset((
    "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot",
    "~snapshot", "$recycle.bin", "system volume information", "dfsrprivate", "lost+found",
    "lost.dir", "__macosx", "network trash folder", "temporary items",
    "thevolumesettingsfolder", "desktop db", "desktop df", "icon\r", "thumbs.db", "ehthumbs.db",
    "ehthumbs_vista.db", "thumbs.db:encryptable", "desktop.ini", "picasa.ini", "__pycache__",
))  # fmt: skip
_LEFT_FORMS = re.compile(
    r"\..*|.*~|~\$.*|#.*#|(?i:found\.\d{3})|.*@Syno(Resource|EAStream)|Thumbs", re.DOTALL
)


@dataclass(frozen=True)
class Tree:
    """What is in a folder: paths below it with / between folders, ascending."""

    photographs: tuple[str, ...]
    pictures: dict[str, int]  # number of pictures of formats that are not read, by suffix
    others: int  # number of other files
    passed: dict[str, int]  # what systems and editors left behind, by name; no hidden files
    links: dict[str, int]  # linked folders that lead out of it: photographs that came through them

    def left_out(self) -> str:
        """What the log says of files that are no photographs; empty where there are none."""
        convert = " (convert them to JPEG or PNG to have them used)"
        parts = [", ".join(f"{n} {s}" for s, n in sorted(self.pictures.items())) + convert]
        parts = parts if self.pictures else []
        if self.others:
            parts.append(f"{self.others} that are not photographs")
        if self.passed:
            names = (f"{reason(name)} ({count})" for name, count in sorted(self.passed.items()))
            parts.append(f"what other programs left there: {', '.join(names)}")
        return ", ".join(parts)


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system, a disk or an editor left there."""
    return name.casefold() in _LEFT_BEHIND or _LEFT_FORMS.fullmatch(name) is not None


@dataclass
class Walk:
    """All files below a folder but what is left behind; every folder is entered once."""

    root: Path
    without: tuple[Path, ...] = ()  # folders below it that hold something else
    passed: Counter[str] = field(default_factory=Counter)
    links: list[str] = field(default_factory=list)  # linked folders that lead out of the root

    def files(self) -> Iterator[str]:
        """Paths below the root with / between folders; linked folders are entered last."""
        seen: set[tuple[int, int]] = set()
        if self.root.is_dir():
            self._is_new("", seen)
        waiting, linked = [""], []
        while waiting or linked:
            folder = waiting.pop() if waiting else linked.pop(0)
            if folder and not self._is_new(folder, seen):
                continue
            for entry in self._entries(folder):
                path = f"{folder}{entry.name}"
                if not _is_folder(entry):
                    yield path
                elif entry.is_symlink():
                    linked.append(f"{path}/")
                else:
                    waiting.append(f"{path}/")

    def _entries(self, folder: str) -> list[os.DirEntry]:
        try:
            with os.scandir(self.root / folder) as entries:
                every = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise _unreadable(self.root / folder, error) from None
        self.passed.update(e.name for e in every if is_left_behind(e.name) and e.name[0] != ".")
        return [entry for entry in every if not is_left_behind(entry.name)]

    def _is_new(self, folder: str, seen: set[tuple[int, int]]) -> bool:
        """Whether a folder was not met yet: links may lead in circles."""
        path = self.root / folder
        try:
            place, status = path.resolve(), path.stat()
        except OSError as error:
            raise _unreadable(path, error) from None
        key = (status.st_dev, status.st_ino)
        if key in seen or any(place == other.resolve() for other in self.without):
            return False
        seen.add(key)
        leaves = path.is_symlink() and not place.is_relative_to(self.root.resolve())
        if leaves and not folder.startswith(tuple(self.links)):
            self.links.append(folder)
        return True


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _unreadable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: cannot be read ({error.strerror}); allow it, or move it away")


def look_into(root: Path, left_out: tuple[Path, ...] = ()) -> Tree:
    """All photographs below a folder, links followed once.

    left_out: folders below it that hold something else, such as masks.
    """
    photographs, pictures, others = [], Counter(), 0
    walk = Walk(root, left_out)
    for path in walk.files():
        suffix = os.path.splitext(path)[1].lower()
        if is_photograph(path):
            photographs.append(path)
        elif suffix in _PICTURES:
            pictures[suffix] += 1
        else:
            others += 1
        if len(photographs) + others > _MOST_FILES:
            raise UserError(f"--root {root}: has more than {_MOST_FILES} files; give a smaller one")
    require_names(root, photographs)
    through = {link: sum(p.startswith(link) for p in photographs) for link in walk.links}
    return Tree(tuple(sorted(photographs)), dict(pictures), others, dict(walk.passed), through)


def require_names(folder: Path, paths: list[str]) -> None:
    """Raise UserError for files whose names cannot stand in a list, one a line, in UTF-8."""
    wrong = []
    for path in paths:
        text = os.fsencode(path).decode(errors="replace")
        if "\ufffd" in text and text != path:
            wrong.append(f"{folder}/{reason(text)}: its name is not UTF-8; rename it")
        elif len(path.splitlines()) != 1:
            wrong.append(f"{folder}/{reason(path)}: has a line break in its name; rename it")
    raise_problems("file name", wrong)
