"""Names: the ids of photographs, and what a class may be called.

`IMG_1.jpg` has the id `IMG_1`, `IMG_1.png` its name; what means something in lists or file names
stands as %XX, as in web addresses. A long id is cut and ends in %~ and a hash.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote_to_bytes

from misc.errors import UserError, raise_problems
from misc.storage.checksums import Checksum, checksum_of
from misc.storage.files import encoding_of, read_bytes, reason

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")  # in any case
_PLAIN = ".jpg"
_QUOTED = re.compile(r"[^\w.+=@()\[\],'!&~-]")
_LONGEST = 140  # bytes of an id: 255 is the limit of a file name, and temporary ones need the rest
_CUT_TO = 100
_CUT = re.compile(r".+%~[0-9a-f]{16}")
_MAX_CLASS_FILE = 64 << 20  # bytes
_JOINERS = "\u200c\u200d"  # part of words in some scripts
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of characters that cannot be seen
_WORDS = r"\s+(?:and|or|und|et|y)\s+"  # that join two names


def is_photograph(path: str) -> bool:
    """Tell by the suffix of a path if it is of a format that is read."""
    return path.lower().endswith(SUFFIXES)


def id_of(path: str) -> str:
    """The id of a photograph from its path below the root, with / between folders."""
    body = path.removesuffix(_PLAIN)
    image_id = _QUOTED.sub(_quoted, body)
    if body != path and is_photograph(body):  # x.png.jpg is not x.png
        image_id = "%2E".join(image_id.rsplit(".", 1))
    image_id = re.sub(r"^\.", "%2E", image_id)
    if len(image_id.encode()) <= _LONGEST:
        return image_id
    start = image_id.encode()[:_CUT_TO].decode(errors="ignore")
    return f"{re.sub('%.?$', '', start)}%~{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"


def _quoted(match: re.Match) -> str:
    letter = match[0]
    if ord(letter) > 127 and letter.isprintable() and not letter.isspace():
        return letter
    return "".join(f"%{byte:02X}" for byte in os.fsencode(letter))


def is_cut(image_id: str) -> bool:
    """Tell if an id is that of a path too long to be found from it."""
    return _CUT.fullmatch(image_id) is not None


def path_of(image_id: str) -> str:
    """The path below the root of an id that is not cut."""
    path = os.fsdecode(unquote_to_bytes(os.fsencode(image_id)))
    return path if is_photograph(image_id) else path + _PLAIN


def is_id(text: str) -> bool:
    """Tell if a text has the form of an id, of a path that stays below the root."""
    path = path_of(text)
    inside = all(part not in ("", ".", "..") for part in path.split("/")) and "\0" not in path
    return is_cut(text) or (text != "" and inside and id_of(path) == text)


def normalised(path: str) -> str:
    """A path with accents in one of the two ways that Unicode has for them."""
    return unicodedata.normalize("NFC", path)


def name_problem(name: str) -> str | None:
    """Say what is wrong with the name of a class, and what to do; None where nothing is."""
    if not name.strip():
        return "the name of a class is empty; write one"
    if any(unicodedata.category(c) in _UNSEEN and c not in _JOINERS for c in name):
        return f"the name of a class {shown(name)} has a line break or an unseen character; mend it"
    if re.sub(r"[\W_]+", "", name).casefold() == "background":
        return f"{shown(name)} is not a class: the background is label 0 of masks; take it out"
    return None


def shown(*names: str) -> str:
    """Names of classes in quotes, on one line."""
    printable = (name if name.isprintable() else ascii(name)[1:-1] for name in names)
    return " and ".join(f"'{reason(name)}'" for name in printable)


def alike(name: str) -> str:
    """The form that all names share which differ in case, blanks or kinds of accents only."""
    return "".join(normalised(name).casefold().split())


def made_of(name: str, known: Mapping[str, str], blanks: bool) -> tuple[str, ...]:
    """The `known` classes that a name joins by a separator, such as one of its `blanks`, if any."""
    every = r"[\W_]+" if blanks else r"\s*[^\w\s]+\s*|_+"
    joints = set(re.findall(every, name))
    signs = {sign for joint in joints for sign in joint if blanks or not sign.isspace()}
    for separator in (*sorted(map(re.escape, joints | signs)), every, _WORDS):
        parts = [part for part in map(alike, re.split(separator, name)) if part]
        if len(parts) > 1 and all(part in known for part in parts):
            return tuple(dict.fromkeys(known[part] for part in parts))
    return ()


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of the classes from a file, one a line; UserError for names that cannot be classes."""
    try:
        content = read_bytes(path, _MAX_CLASS_FILE)
        lines = re.split("\r\n|\r|\n", content.decode(encoding_of(content)))
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text in UTF-8; save it as such") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); check --classes") from None
    first = 2 if checksum_of(content) is not Checksum.NONE else 1  # a list of this program
    names = [line.strip(" \t") for line in lines[first - 1 :]]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise UserError(f"{path}: names no class; write one a line")
    problems, known = [], {}
    for number, name in enumerate(names, start=first):
        line, other = known.setdefault(alike(name), (number, name))
        wrong = name_problem(name)
        if line != number and not wrong:
            wrong = f"has {shown(name)}, and line {line} has {shown(other)}; keep one of the two"
        problems += [f"{path}, line {number}: {wrong}"] if wrong else []
    raise_problems("class", problems)
    return tuple(names)
