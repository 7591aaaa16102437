"""Image-level labels of a folder of photographs, whatever form they come in."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from misc.data.folder.names import normalised
from misc.errors import Problems, UserError
from misc.labels import MOST_CLASSES
from misc.storage.seals import Seal, seal_of
from misc.storage.untrusted import read_bytes, reason

log = logging.getLogger(__name__)

_MAX_CLASS_FILE = 64 << 20  # bytes


@dataclass
class Found:
    """Labels as a reader finds them: names of classes by path of the photograph, and problems."""

    names: dict[str, tuple[str, ...]]
    classes: tuple[str, ...]  # all that the source names, whether an image shows them or not
    problems: Problems
    repeated: int = 0  # rows that say what another one says already


@dataclass(frozen=True)
class Labels:
    """Class indices by path of the photograph; classes[i] is the name of class i."""

    classes: tuple[str, ...]
    of: Mapping[str, tuple[int, ...]]

    def digest(self) -> str:
        """Stands for classes and labels."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for path, classes in sorted(self.of.items()):
            digest.update(f"\n{path!r}{classes}".encode())
        return digest.hexdigest()[:16]


class Places:
    """Finds the photograph that a table means by a name: exactly, or where only one is alike."""

    def __init__(self, root: Path, photographs: Iterable[str]):
        self.root = root
        self._paths = dict.fromkeys(photographs)
        self._alike: dict[str, list[str]] | None = None

    def find(self, name: str) -> str:
        """Path of a photograph below the root; ValueError says why there is none."""
        text = name.strip().replace("\\", "/")
        if text in self._paths:
            return text
        text = self._below_root(text)
        if text in self._paths:
            return text
        found = self._by_part().get(normalised(text), [])
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(found[:3])
            raise ValueError(
                f"{reason(name)!r} may be any of {len(found)} ({shown}); give its path"
            )
        other = self._by_part().get(normalised(text).lower(), [])
        near = f"; is it {other[0]!r}?" if other else ""
        raise ValueError(f"there is no photograph {reason(name)!r} in {self.root}{near}")

    def _below_root(self, text: str) -> str:
        path = Path(text)
        if path.is_absolute():
            for root in (self.root, self.root.resolve()):
                if path.is_relative_to(root.absolute()):
                    return path.relative_to(root.absolute()).as_posix()
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"{reason(text)!r} leaves the folder {self.root}; give a path below it"
            )
        return path.as_posix()

    def _by_part(self) -> dict[str, list[str]]:
        """Photographs by what may stand for them: no suffix, no folders, lower case."""
        if self._alike is None:
            self._alike = {}
            for path in self._paths:
                full, file = normalised(path), normalised(path).rpartition("/")[2]
                parts = {full, full.rpartition(".")[0], file, file.rpartition(".")[0]}
                for part in parts | {part.lower() for part in (full, file)}:
                    self._alike.setdefault(part, []).append(path)
        return self._alike


def from_sub_folders(root: Path, photographs: Iterable[str]) -> Found:
    """The folder that a photograph lies in names its class, as in ImageNet."""
    names = {}
    for path in photographs:
        folder = path.rpartition("/")[0].rpartition("/")[2]
        if folder:
            names[path] = (folder,)
    if not names:
        problems = Problems()
        problems.add(
            "label",
            [
                f"--root {root}: has no sub-folders that could be classes; give a table with "
                "--labels, of lines image,class;class"
            ],
        )
        return Found({}, (), problems)
    return Found(names, tuple(sorted({n for (n,) in names.values()})), Problems())


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of the classes from a file, one a line."""
    try:
        content = read_bytes(path, _MAX_CLASS_FILE)
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text in UTF-8; save it as such") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); check --classes") from None
    if seal_of(content) is not Seal.NONE:  # a list of this program, whose first line is its seal
        lines = lines[1:]
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path}: names no class; write one a line")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{path}: has {repeated[0]!r} twice; remove one")
    return tuple(names)


def settled(found: Found, given: tuple[str, ...] | None, source: str) -> Labels:
    """Indices for names; UserError for all problems of the source and of its names together.

    given: the classes of classes.txt, in the order of the labels in masks; otherwise those of the
    source. source: its file, for messages.
    """
    classes = given or found.classes
    index = {name: number for number, name in enumerate(classes)}
    unknown = Counter(n for names in found.names.values() for n in names if n not in index)
    alike = {name.lower(): name for name in classes}
    found.problems.add(
        "class",
        [
            f"{source}: the class {reason(name)!r} (of {count} images) is not in --classes"
            + (f"; is it {alike[name.lower()]!r}?" if name.lower() in alike else "; add it there")
            for name, count in unknown.items()
        ],
    )
    found.problems.add("class", _in_two_ways((*classes, *unknown), source))
    if not found.problems and not classes:
        found.problems.add("class", [f"{source}: names no class; give labels to some images"])
    if len(classes) > MOST_CLASSES:
        text = (
            f"has {len(classes)} classes, and masks of 16 bits hold at most {MOST_CLASSES}; is a "
            "column something else? Otherwise split the set, or join classes"
        )
        found.problems.add("class", [f"{source}: {text}"])
    found.problems.raise_all()
    of = {path: tuple(sorted({index[n] for n in names})) for path, names in found.names.items()}
    return Labels(tuple(classes), of)


def _in_two_ways(classes: Iterable[str], source: str) -> list[str]:
    """A line for all classes whose names differ in case only."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(classes):
        alike.setdefault(normalised(name).casefold(), []).append(name)
    return [
        f"{source}: the classes {' and '.join(map(repr, names))} differ in case or accents only; "
        "write them alike, or give another name to one"
        for names in alike.values()
        if len(names) > 1
    ]
