"""Names of classes: what may be one, which are the same, and the file that lists them."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from misc.data.folder.names import normalised
from misc.errors import Problems, UserError
from misc.storage.checksums import Checksum, checksum_of
from misc.storage.files import encoding_of, read_bytes, reason

_MAX_CLASS_FILE = 64 << 20  # bytes
_JOINERS = "\u200c\u200d"  # part of words in some scripts
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of characters that cannot be seen
_WORDS = r"\s+(?:and|or|und|et|y)\s+"  # that join two names


def name_problem(name: str) -> str | None:
    """What is wrong with the name of a class, and what to do; None where nothing is."""
    if not name.strip():
        return "the name of a class is empty; write one"
    if any(unicodedata.category(c) in _UNSEEN and c not in _JOINERS for c in name):
        return (
            f"the name of a class {shown(name)} has a line break or another character that cannot "
            "be seen; take it out"
        )
    if re.sub(r"[\W_]+", "", name).casefold() == "background":
        return (
            f"{shown(name)} is not a class: the background is label 0 of masks and everything that "
            "is of no class; take it out (a photograph of background alone has an empty label)"
        )
    return None


def shown(name: str) -> str:
    """A name in quotes, on one line."""
    printable = name if name.isprintable() else ascii(name)[1:-1]
    return f"'{reason(printable)}'"


def alike(name: str) -> str:
    """What all names share that differ in case, blanks or kinds of accents only."""
    return "".join(normalised(name).casefold().split())


def same_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that are alike."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(alike(name), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def made_of(name: str, known: Mapping[str, str], blanks: bool) -> tuple[str, ...]:
    """The classes that a name joins by a separator; none where it is a name of its own.

    known: the classes by what is `alike` in them. blanks: whether a blank is a separator too.
    """
    joints = set(re.findall(r"[\W_]+" if blanks else r"\s*[^\w\s]+\s*|_+", name))
    signs = {sign for joint in joints for sign in joint if blanks or not sign.isspace()}
    every = r"[\W_]+" if blanks else r"[^\w\s]+|_+"
    for separator in (*sorted(map(re.escape, joints | signs)), every, _WORDS):
        parts = [part for part in map(alike, re.split(separator, name)) if part]
        if len(parts) > 1 and all(part in known for part in parts):
            return tuple(dict.fromkeys(known[part] for part in parts))
    return ()


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of the classes from a file, one a line; UserError for names that cannot be classes."""
    try:
        content = read_bytes(path, _MAX_CLASS_FILE)
        text = content.decode(encoding_of(content))
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text in UTF-8; save it as such") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); check --classes") from None
    lines = [line.strip(" \t") for line in re.split("\r\n|\r|\n", text)]
    first = (
        2 if checksum_of(content) is not Checksum.NONE else 1
    )  # the seal of a list of this program
    lines = lines[first - 1 :]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{path}: names no class; write one a line")
    problems, known = Problems(), {}
    for number, name in enumerate(lines, start=first):
        where = f"{path}, line {number}"
        if wrong := name_problem(name):
            problems.add("class", [f"{where}: {wrong}"])
        elif name in known:
            problems.add("class", [f"{where}: has {shown(name)}, as line {known[name]} has; remove "
                                   "one of the two"])  # fmt: skip
        known.setdefault(name, number)
    for group in same_names(known):
        problems.add("class", [f"{path}: {in_words(group)} differ in case, blanks or accents only; "
                               "keep one of them"])  # fmt: skip
    problems.raise_all()
    return tuple(lines)


def in_words(group: Iterable[str]) -> str:
    """Names of classes in a sentence."""
    return f"the classes {' and '.join(map(shown, group))}"
