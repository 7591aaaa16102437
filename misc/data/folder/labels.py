"""Image-level labels of a folder of photographs, whatever form they come in."""

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from misc.data.folder.classes import alike as alike_class
from misc.data.folder.classes import in_words, made_of, name_problem, same_names, shown
from misc.data.folder.names import is_photograph, normalised
from misc.errors import Problems, counted
from misc.labels import MOST_CLASSES
from misc.storage.files import reason

_MOST_KEPT = 20  # messages of one kind: a table of a gigabyte may be wrong in every row


@dataclass
class Found:
    """Labels as a reader finds them: names of classes by path of the photograph, and problems."""

    names: dict[str, tuple[str, ...]]
    classes: tuple[str, ...]  # all that the source names, whether an image shows them or not
    problems: Problems
    repeated: int = 0  # rows that say what another one says already
    where: Mapping[str, str] = field(default_factory=dict)  # place that names a class first
    form: str = ""  # what a table has to look like whose cells have names of classes
    notes: tuple[str, ...] = ()  # what the log says
    unread: bool = False  # some rows do not say what is on their photograph


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
    """Finds the photograph that a name stands for, by one rule for all files of the user.

    It is the one with this path below the root, otherwise the only one that has the longest end of
    it (`x/a.jpg` of `/home/x/a.jpg`). A name without a photograph's suffix leaves the suffix out.
    """

    def __init__(self, root: Path, photographs: Iterable[str]):
        self.root = root
        self.by_end: dict[str, str] = {}  # names that were found by their end, by photograph
        self._paths = dict.fromkeys(photographs)
        self._files: dict[str, list[str]] | None = None

    def find(self, name: str) -> str:
        """Path of a photograph below the root; ValueError says why there is none."""
        if name in self._paths:
            return name
        found = self.candidates(name)
        if len(found) == 1:
            if not _is_path(self._plain(name), found[0]):
                self.by_end.setdefault(found[0], name)
            return found[0]
        if found:
            some = ", ".join(map(reason, found[:3]))
            raise ValueError(f"{reason(name)!r} may be any of {len(found)} ({some}); give its path")
        other = self.loosely(name)
        near = f"; is it {reason(other[0])!r}?" if other else ""
        if os.path.isfile(file := self.root / self._plain(name)):
            raise ValueError(f"{reason(name)!r} is the file {reason(file)}, which is none of the "
                             f"photographs below {self.root}")  # fmt: skip
        raise ValueError(f"there is no photograph {reason(name)!r} in {self.root}{near}")

    def candidates(self, name: str) -> list[str]:
        """The photographs that a name may stand for."""
        text = self._plain(name)
        if text in self._paths:
            return [text]
        if not text or os.path.isfile(self.root / text):
            return []  # another file, such as one beside the folder
        last = text.rpartition("/")[2]
        found = self._by_file().get(last if is_photograph(last) else f"{last}.", [])
        ends = {path: _common_end(text, path) for path in found}
        longest = [path for path in found if ends[path] == max(ends.values())]
        return [path for path in longest if _is_path(text, path)] or longest

    def loosely(self, name: str) -> list[str]:
        """The photographs with the name of a file, whatever its folder, case and suffix."""
        last = self._plain(name).rpartition("/")[2]
        stem = last.rpartition(".")[0] if is_photograph(last) else last
        return self._by_file().get(f"{stem.casefold()}:", [])

    def _plain(self, name: str) -> str:
        """A name with / between folders, relative to the root where it is below it."""
        text = name.strip().replace("\\", "/")
        if not text:
            return ""
        if os.path.isabs(text):
            for root in (self.root.absolute(), self.root.resolve()):
                if Path(text).is_relative_to(root):
                    return normalised(Path(text).relative_to(root).as_posix())
        return normalised(posixpath.normpath(text))

    def _by_file(self) -> dict[str, list[str]]:
        """Photographs by the name of their file, by "stem." and by "stem in lower case:"."""
        if self._files is None:
            self._files = {}
            for path in self._paths:
                file = normalised(path).rpartition("/")[2]
                stem = file.rpartition(".")[0]
                for key in (file, f"{stem}.", f"{stem.casefold()}:"):
                    self._files.setdefault(key, []).append(path)
        return self._files


def _is_path(text: str, path: str) -> bool:
    """Whether a text is a path, or a path without its suffix."""
    plain = normalised(path)
    return text in (plain, plain.rpartition(".")[0])


def _common_end(text: str, path: str) -> int:
    """How many folders and file, from the end, two paths have in common; suffixes do not count."""
    one, other = text.split("/")[-2::-1], normalised(path).split("/")[-2::-1]
    pairs = zip(one, other, strict=False)
    return 1 + next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


class Rows:
    """Labels by photograph as a reader collects them, and what is wrong with them."""

    def __init__(self, places: Places, kind: str, once: bool = False):
        """kind: what a row is called. once: a photograph may not be there twice at all."""
        self.places, self.kind, self.once = places, kind, once
        self.names: dict[str, tuple[str, ...]] = {}
        self.repeated = 0
        self.unread = False  # some rows do not say what is on their photograph
        self._first: dict[str, tuple[str, str]] = {}  # photograph: where it is named, and how
        self._messages: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def wrong(self, text: str, kind: str = "") -> None:
        """Keep a message, the first ones of each kind; all are counted."""
        self.unread |= not kind
        kind = kind or self.kind
        self._counts[kind] += 1
        if self._counts[kind] <= _MOST_KEPT:
            self._messages.setdefault(kind, []).append(text)

    def add(self, where: str, name: str, names: tuple[str, ...]) -> None:
        """The labels of the photograph that a name stands for."""
        try:
            path = self.places.find(name)
        except ValueError as error:
            text = f"{where}: {error}; correct it, or take the {self.kind} out"
            self.wrong(text, f"{self.kind} of no photograph")
            return
        self.put(where, name, path, names)

    def put(self, where: str, name: str, path: str, names: tuple[str, ...]) -> None:
        """The labels of a photograph."""
        if path not in self.names:
            self.names[path], self._first[path] = names, (where, name)
            return
        place, other = self._first[path]
        if name.strip() != other.strip() and path in self.places.by_end:
            self.wrong(f"{where}: {reason(name)!r} is the photograph {reason(path)}, and so is "
                       f"{reason(other)!r} in {place}; give their paths")  # fmt: skip
        elif self.once:
            self.wrong(f"{where}: {reason(path)} is in {place} already; keep one of the two")
        elif set(self.names[path]) == set(names):
            self.repeated += 1
        else:
            here, there = (";".join(n) or "no class" for n in (names, self.names[path]))
            self.wrong(f"{where}: {reason(path)} has {reason(here)} here and {reason(there)} in "
                       f"{place}; write one row with all of its classes")  # fmt: skip

    @property
    def problems(self) -> Problems:
        """What is wrong so far."""
        problems = Problems()
        for kind, messages in self._messages.items():
            problems.add(kind, messages, self._counts[kind] - len(messages))
        return problems

    def found(
        self,
        source: Path,
        classes: tuple[str, ...],
        where: Mapping[str, str],
        form: str = "",
    ) -> Found:
        """All of it; see Found."""
        notes = ()
        if by_end := self.places.by_end:
            path, name = next(iter(by_end.items()))
            number = counted({"photograph": len(by_end)})
            notes = (f"{source}: {number} found by the end of the path, such as {reason(path)} for "
                     f"{reason(name)!r}",)  # fmt: skip
        return Found(self.names, classes, self.problems, self.repeated, where, form, notes,
                     self.unread)  # fmt: skip


def from_sub_folders(root: Path, photographs: Iterable[str]) -> Found:
    """The folder that a photograph lies in names its class, as in ImageNet."""
    names, problems, where = {}, Problems(), {}
    for path in photographs:
        folder = path.rpartition("/")[0]
        if folder:
            name = folder.rpartition("/")[2]
            names[path] = (name,)
            if name not in where and (wrong := name_problem(name)):
                problems.add("class", [f"{root / folder}: {wrong}; or give a table with --labels"])
            where.setdefault(name, str(root / folder))
    if not names:
        problems.add("label", [
            f"--root {root}: has no sub-folders that could be classes; give a table with --labels, "
            "of lines image,class;class below a line image,labels"
        ])  # fmt: skip
    return Found(names, tuple(sorted(where)), problems, where=where)


def settled(
    found: Found, given: tuple[str, ...] | None, source: str, file: object = "--classes"
) -> Labels:
    """Indices for names; UserError for all problems of the source and of its names together.

    given: the classes of a file, in the order of the labels in masks; otherwise those of the
    source. source, file: what the two are called in messages.
    """
    classes = given or found.classes
    index = {name: number for number, name in enumerate(classes)}
    counts = Counter(name for names in found.names.values() for name in names)
    unknown = [name for name in (*found.classes, *counts) if name not in index]
    by_form = {alike_class(name): name for name in classes}
    for name in dict.fromkeys(unknown):
        near = by_form.get(alike_class(name))
        advice = f"is it {shown(near)}?" if near else "add it there, or correct one of the two"
        found.problems.add("class", [
            f"{found.where.get(name, source)}: the class {shown(name)} (of "
            f"{counted({'image': counts[name]})}) is not in {file}; {advice}"
        ])  # fmt: skip
    if not given:
        found.problems.add("class", _in_two_ways(found, source))
    found.problems.add("class", _joined(found, (*classes, *unknown), source))
    if not found.problems and not counts:
        found.problems.add("class", [f"{source}: has no class for any photograph; give some of "
                                     f"them labels. {found.form}".rstrip()])  # fmt: skip
    if len(classes) > MOST_CLASSES:
        text = (
            f"has {len(classes)} classes, and masks of 16 bits hold at most {MOST_CLASSES}; is a "
            "column something else? Otherwise split the set, or join classes"
        )
        found.problems.add("class", [f"{source}: {text}"])
    found.problems.raise_all()
    of = {path: tuple(sorted({index[n] for n in names})) for path, names in found.names.items()}
    return Labels(tuple(classes), of)


def _in_two_ways(found: Found, source: str) -> list[str]:
    """A line for all classes whose names differ in case or blanks only."""
    names = (*found.where, *found.classes)
    return [
        f"{found.where.get(group[-1], source)}: {in_words(group)} differ in case, blanks or "
        f"accents only; write them alike, or give another name to one. {found.form}".rstrip()
        for group in same_names(names)
    ]


def _joined(found: Found, classes: Iterable[str], source: str) -> list[str]:
    """A line for every class whose name is made of others and a separator."""
    known = {alike_class(name): name for name in classes}
    lines = []
    for name in known.values():
        if parts := made_of(name, known, bool(found.form)):
            lines.append(f"{found.where.get(name, source)}: the class {shown(name)} is made of "
                         f"{in_words(parts)} and a separator; write ; or | between classes in a "
                         f"table, or give it another name. {found.form}".rstrip())  # fmt: skip
    return lines
