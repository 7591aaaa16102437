"""Image-level labels of photographs: collected from any form, checked as a whole, and told."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from misc.data.folder.names import alike, made_of, name_problem, shown
from misc.data.folder.photographs import Tree
from misc.errors import Problems, counted, some
from misc.labels import MOST_CLASSES
from misc.storage.files import reason

log = logging.getLogger(__name__)

FEW = 20  # images of a class; with fewer its maps are rarely worth anything
_MOST_KEPT = 20  # messages: a table of a gigabyte may be wrong in every row
_SHOWN, _CLASSES_SHOWN, _EXAMPLES = 10, 100, 2  # names, classes and photographs in the log


class Labels(NamedTuple):
    """Class indices by path of the photograph; classes[i] is the name of class i."""

    classes: tuple[str, ...]
    of: Mapping[str, tuple[int, ...]]


class Scan(NamedTuple):
    """Everything that is known of a folder."""

    tree: Tree
    labels: Labels
    unlabelled: tuple[str, ...]  # photographs without a row
    notes: tuple[str, ...]  # of how the labels were read, for the log


class Found:
    """Labels as the reader of a form collects them, and what is wrong with them."""

    def __init__(self, tree: Tree, source: str, kind: str, once: bool = False):
        # kind: a row of the source. once: one row for a photograph.
        self.tree, self.source, self.kind, self.once = tree, source, kind, once
        self.names: dict[str, tuple[str, ...]] = {}  # of classes, by path of the photograph
        self.classes: tuple[str, ...] = ()  # all of the source, of any photograph or none
        self.where: dict[str, str] = {}  # the place that names a class first
        self.form = ""  # of a table whose cells have names of classes
        self.repeated = 0  # rows that say what another one says already
        self.notes: list[str] = []  # for the log
        self.problems = Problems()
        self._rows: dict[str, tuple[str, str]] = {}  # where a photograph is named, and how

    def wrong(self, text: str) -> None:
        """Keep a message; after some of them nothing more is read."""
        self.problems.add(self.kind, [text])
        if len(self.problems.by_kind[self.kind]) >= _MOST_KEPT:
            self.problems.raise_all()

    def add(self, where: str, name: str, names: tuple[str, ...]) -> None:
        """The classes of the photograph that a name stands for."""
        try:
            path = self.tree.find(name)
        except ValueError as error:
            self.wrong(f"{where}: {error}; correct it, or take the {self.kind} out")
            return
        place, other = self._rows.setdefault(path, (where, name))
        known = self.names.setdefault(path, names)
        if place == where:
            return
        if name.strip() != other.strip() and path in self.tree.by_end:
            self.wrong(f"{where}: {reason(name)!r} is the photograph {reason(path)}, and so is "
                       f"{reason(other)!r} in {place}; give their paths")  # fmt: skip
        elif self.once:
            self.wrong(f"{where}: {reason(path)} is in {place} already; keep one of the two")
        elif set(known) == set(names):
            self.repeated += 1
        else:
            here, there = (reason(";".join(of) or "no class") for of in (names, known))
            self.wrong(f"{where}: {reason(path)} has {here} here and {there} in {place}; write one "
                       "row with all of its classes")  # fmt: skip


def from_sub_folders(tree: Tree) -> Found:
    """The folder that a photograph lies in names its class, as in ImageNet."""
    found = Found(tree, f"--root {tree.root}", "class")
    for path in tree.photographs:
        folder, slash, _ = path.rpartition("/")
        if slash:
            found.names[path] = (folder.rpartition("/")[2],)
            found.where.setdefault(*found.names[path], str(tree.root / folder))
    for name, folder in found.where.items():
        if wrong := name_problem(name):
            found.wrong(f"{folder}: {wrong}; or give a table with --labels")
    if not found.names:
        found.wrong(f"{found.source}: has no sub-folders that could be classes; give a table with "
                    "--labels, of lines image,class;class below a line image,labels")  # fmt: skip
    found.classes = tuple(sorted(found.where))
    return found


def settled(found: Found, given: tuple[str, ...] | None, file: object = "--classes") -> Labels:
    """Indices of names, as in `given`, the classes of `file`; UserError for all problems."""
    classes = given or found.classes
    index = {name: number for number, name in enumerate(classes)}
    counts = Counter(name for names in found.names.values() for name in names)
    known: dict[str, str] = {}
    lines: list[tuple[str, str]] = []  # what is wrong with a class, or with all ("")
    for name in dict.fromkeys((*(given or ()), *found.where, *classes, *counts)):
        other = known.setdefault(alike(name), name)
        if name not in index:
            advice = f"is it {shown(other)}?" if other != name else "add it, or correct one"
            lines.append((name, f"the class {shown(name)} (of {counted({'image': counts[name]})}) "
                                f"is not in {file}; {advice}"))  # fmt: skip
        elif other != name:
            lines.append((name, f"the classes {shown(other, name)} differ in case, blanks or "
                                f"accents only; write them alike. {found.form}"))  # fmt: skip
    for name in known.values():
        if parts := made_of(name, known, bool(found.form)):
            lines.append((name, f"the class {shown(name)} is made of the classes {shown(*parts)} "
                                "and a separator; write ; or | between classes in a table, or "
                                f"give it another name. {found.form}"))  # fmt: skip
    if not found.problems and not lines and not counts:
        lines.append(("", f"has no class for any photograph; give some labels. {found.form}"))
    if len(classes) > MOST_CLASSES:
        lines.append(("", f"has {len(classes)} classes; masks hold at most {MOST_CLASSES}"))
    found.problems.add("class", [f"{found.where.get(name, found.source)}: {line}".rstrip(". ")
                                 for name, line in lines])  # fmt: skip
    found.problems.raise_all()
    of = {path: tuple(sorted({index[n] for n in names})) for path, names in found.names.items()}
    return Labels(tuple(classes), of)


def log_contents(scan: Scan) -> None:
    """Log the classes with their numbers of photographs, so that a person sees a shifted table."""
    tree, labels = scan.tree, scan.labels
    counts = Counter(number for of in labels.of.values() for number in of)
    numbers = [(reason(name), counts[number]) for number, name in enumerate(labels.classes)]
    every = some([f"{name} {n}" for name, n in numbers], _CLASSES_SHOWN)
    log.info("%s: %s with labels of %s: %s", tree.root, counted({"photograph": len(labels.of)}),
             counted({"class": len(numbers)}), every)  # fmt: skip
    for path, of in sorted(labels.of.items())[:_EXAMPLES]:
        names = "; ".join(reason(labels.classes[number]) for number in of)
        log.info("for example %s: %s", path, names or "no class")
    for note in scan.notes:
        log.info("%s", note)
    if empty := sum(not of for of in labels.of.values()):
        log.info("%s without any class: background alone", counted({"photograph": empty}))
    if text := tree.left_out():
        log.warning("%s: left out: %s", tree.root, text)
    for link, number in tree.links.items():
        log.warning("%s: is a link that leaves the folder; %s came through it",
                    tree.root / link, counted({"photograph": number}))  # fmt: skip
    lacking = map(reason, scan.unlabelled)
    for thing, what, names in (
        ("photograph without a label", ", left out (lists/unlabelled.txt)", lacking),
        ("class", " of no photograph, never to be found", (name for name, n in numbers if not n)),
        ("class", f" of fewer than {FEW} photographs, too few for good maps; add some",
         (f"{name} {n}" for name, n in numbers if 0 < n < FEW)),
    ):  # fmt: skip
        if names := list(names):
            log.warning("%s%s: %s", counted({thing: len(names)}), what, some(names, _SHOWN))
