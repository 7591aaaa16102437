"""Image ids of a folder tree: what files made from a photograph are called, whatever its path is.

The id of `IMG_1.jpg` is `IMG_1`; other photographs keep their suffix (`IMG_1.png`). A character
that means something in lists or file names, such as / or a space, stands as %XX, as in web
addresses. So every path has one id and every id one path, without a table of both. A long one is
cut, and ends in %~ and a digest: such an id alone does not say its path.
"""

import hashlib
import os
import re
import unicodedata

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")  # in any case
_PLAIN = ".jpg"
_KEPT = frozenset("-_.+=@()[],'!&~")
_LONGEST = 140  # bytes of an id: 255 is the limit of a file name, and temporary ones need the rest
_CUT_TO = 100
_CUT = re.compile(r".+%~[0-9a-f]{16}")


def is_photograph(path: str) -> bool:
    """Whether a path has the suffix of a format that is read."""
    return path.lower().endswith(SUFFIXES)


def id_of(path: str) -> str:
    """The id of a photograph from its path below the root, with / between folders."""
    body = path.removesuffix(_PLAIN)
    plain = body != path
    letters = [_quoted(letter) for letter in body]
    if plain and is_photograph(body):  # x.png.jpg is not x.png
        letters[body.rindex(".")] = "%2E"
    if letters[:1] == ["."]:
        letters[0] = "%2E"
    image_id = "".join(letters)
    if len(image_id.encode()) <= _LONGEST:
        return image_id
    start = image_id.encode()[:_CUT_TO].decode(errors="ignore")
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return f"{re.sub('%.?$', '', start)}%~{digest}"


def is_cut(image_id: str) -> bool:
    """Whether an id is that of a path too long to be found from it."""
    return _CUT.fullmatch(image_id) is not None


def path_of(image_id: str) -> str:
    """The path below the root of an id that is not cut."""
    path = re.sub(r"(?:%[0-9A-F]{2})+", _unquoted, image_id)
    return path if is_photograph(image_id) else path + _PLAIN


def is_id(text: str) -> bool:
    """Whether a text has the form of an id, of a path that stays below the root."""
    if is_cut(text) or not text:
        return bool(text)
    path = path_of(text)
    parts = path.split("/")
    inside = all(part not in ("", ".", "..") for part in parts) and "\0" not in path
    return inside and id_of(path) == text


def normalised(path: str) -> str:
    """A path with accents in one of the two ways that Unicode has for them."""
    return unicodedata.normalize("NFC", path)


def _quoted(letter: str) -> str:
    kept = letter in _KEPT or letter.isalnum()
    if kept or (ord(letter) > 127 and letter.isprintable() and not letter.isspace()):
        return letter
    return "".join(f"%{byte:02X}" for byte in os.fsencode(letter))


def _unquoted(match: re.Match) -> str:
    return os.fsdecode(bytes.fromhex(match[0].replace("%", "")))
