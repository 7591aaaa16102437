"""Labels from annotations that are there already: COCO instances JSON, Pascal XML files."""

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from defusedxml import ElementTree

from misc.data.folder.classes import name_problem, shown
from misc.data.folder.labels import Found, Places, Rows
from misc.data.folder.scan import Walk, require_names
from misc.errors import UserError
from misc.storage.files import read_bytes, reason

_MAX_JSON = 2 << 30  # bytes
_MAX_XML = 1 << 20
_COCO = (
    "A file of COCO's instances has lists of images (id, file_name), categories (id, name) and "
    "annotations (image_id, category_id)"
)
_PASCAL = (
    "A Pascal file has the root <annotation>, in it <filename> and an <object> with one <name> for "
    "each object; export the annotations as Pascal VOC"
)
_PARTS = ("folder", "filename", "path", "source", "owner", "size", "segmented", "object")


def read_coco(path: Path, places: Places) -> Found:
    """Labels from a file with `images`, `annotations` and `categories` in COCO's form.

    An image has the classes of all its annotations, crowds too; one without has no class. The
    classes are in the order of their ids.
    """
    content = _coco_lists(path)
    rows = Rows(places, "entry", once=True)
    entries = _Entries(path, rows)
    images = entries.by_id("images", content["images"], "file_name")
    categories = entries.by_id("categories", content["categories"], "name")
    first: dict[str, str] = {}
    for number, (where, text) in categories.items():
        categories[number] = where, text.strip()
        if wrong := name_problem(text):
            rows.wrong(f"{where}: {wrong}")
        elif (other := first.setdefault(text.strip(), where)) != where:
            rows.wrong(f"{where}: has the name {shown(text.strip())} of {other}; keep one of the "
                       "two")  # fmt: skip
    of_image: dict[int, dict[str, None]] = {number: {} for number in images}
    for where, entry in entries.each("annotations", content["annotations"]):
        image = entries.number(where, entry, "image_id")
        category = entries.number(where, entry, "category_id")
        for what, number, known in (("image", image, images), ("category", category, categories)):
            if number is not None and number not in known:
                rows.wrong(f"{where}: is of {what} {number}, which the file does not list; "
                           "correct it")  # fmt: skip
        if image in images and category in categories:
            of_image[image][categories[category][1]] = None
    for number, names in of_image.items():
        where, file = images[number]
        rows.add(where, file, tuple(names))
    classes = tuple(dict.fromkeys(categories[number][1] for number in sorted(categories)))
    return rows.found(path, classes, first)


class _Entries:
    """The entries of a COCO file; what is wrong with one is kept as a problem."""

    def __init__(self, path: Path, rows: Rows):
        self.path, self.rows = path, rows

    def each(self, name: str, entries: list) -> Iterator[tuple[str, dict]]:
        """Place and content of the entries of a list."""
        for number, entry in enumerate(entries):
            where = f"{self.path}: {name}[{number}]"
            if isinstance(entry, dict):
                yield where, entry
            else:
                self.rows.wrong(f"{where}: is not an object; correct it. {_COCO}")

    def by_id(self, name: str, entries: list, text: str) -> dict[int, tuple[str, str]]:
        """Place and one text of the entries of a list, by their ids."""
        found: dict[int, tuple[str, str]] = {}
        for where, entry in self.each(name, entries):
            number = self.number(where, entry, "id")
            value = entry.get(text)
            if not isinstance(value, str) or not value.strip():
                self.rows.wrong(f"{where}: its {text} is {_json(value)} and not a text; correct it")
            elif number in found:
                self.rows.wrong(f"{where}: has the id {number} of "
                                f"{found[number][0].partition(': ')[2]}; give it its own"
                                )  # fmt: skip
            elif number is not None:
                found[number] = where, value
        return found

    def number(self, where: str, entry: dict, key: str) -> int | None:
        """A whole number of an entry."""
        value = entry.get(key)
        if type(value) is int:
            return value
        self.rows.wrong(f"{where}: its {key} is {_json(value)} and not a whole number; correct it")
        return None


def _json(value: object) -> str:
    return reason(json.dumps(value)) if value is not None else "missing or null"


def _coco_lists(path: Path) -> dict[str, list]:
    """The content of a file of instances; UserError for files of another form."""
    try:
        content = json.loads(read_bytes(path, _MAX_JSON))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check --labels") from None
    except (OSError, ValueError, RecursionError) as error:
        text = f"{type(error).__name__} {reason(error)}"
        raise UserError(f"{path}: is not a file of instances in COCO's form ({text}). {_COCO}"
                        ) from None  # fmt: skip
    for name in ("images", "categories", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise UserError(f"{path}: is not a file of instances in COCO's form (it has no list of "
                            f"{name}). {_COCO}")  # fmt: skip
    return content


def read_xml_folder(folder: Path, places: Places) -> Found:
    """Labels from a folder tree of Pascal XML files: names of all objects, difficult ones too.

    A file is of the photograph that has its own name, or, where none has, of the one that it names
    itself. The two are never different photographs.
    """
    files = sorted(path for path in Walk(folder).files() if path.lower().endswith(".xml"))
    if not files:
        raise UserError(f"--labels {folder}: has no .xml files; give a table, or the folder of the "
                        "annotations")  # fmt: skip
    require_names(folder, files)
    rows, first, stale = Rows(places, "XML file", once=True), {}, []
    form = _PASCAL
    for file in files:
        path = folder / file
        try:
            named, names = _pascal(path)
        except ValueError as error:
            rows.wrong(f"{path}: {error}. {form}".rstrip(". "))
            form = ""  # once is enough
            continue
        for name in names:
            first.setdefault(name, str(path))
        photograph = _photograph(path, file[: -len(".xml")], named, rows)
        if not photograph:
            continue
        if named and not places.candidates(named):
            stale.append((path, named))
        rows.put(str(path), file, photograph, names)
    found = rows.found(folder, tuple(sorted(first)), first)
    if stale:
        found.notes += (f"{folder}: {len(stale)} of {len(files)} XML files have a <filename> that "
                        f"is not there, such as {reason(stale[0][1])!r} in {stale[0][0]}; they are "
                        "of the photographs with their own names",)  # fmt: skip
    return found


def _photograph(path: Path, own: str, named: str, rows: Rows) -> str | None:
    """The photograph of an XML file; a problem of `rows` where its two names agree on none.

    own: its path without suffix. named: its <filename>.
    """
    places = rows.places
    by_own = places.candidates(own)
    by_named = places.candidates(named) if named else []
    others = by_named or (places.loosely(named) if named else [])
    both = [path for path in by_own if path in others] or by_own or by_named
    if by_own and others and both[0] not in others:
        rows.wrong(f"{path}: by its own name it is of {reason(by_own[0])}, by its <filename> "
                   f"{reason(named)!r} of {reason(others[0])}; correct the one that is wrong"
                   )  # fmt: skip
    elif len(both) > 1:
        rows.wrong(f"{path}: may be of any of {len(both)} photographs "
                   f"({', '.join(map(reason, both[:3]))}); give its path in <filename>"
                   )  # fmt: skip
    elif not both:
        also = f", nor that of its <filename> {reason(named)!r}" if named else ""
        rows.wrong(f"{path}: there is no photograph of its name in {places.root}{also}; correct "
                   "it, or take the file out", "XML file of no photograph")  # fmt: skip
    else:
        return both[0] if by_own else places.find(named)
    return None


def _pascal(path: Path) -> tuple[str, tuple[str, ...]]:
    """The <filename> of a Pascal file and the names of its objects; ValueError for other forms."""
    try:
        # No DTD: entities of a few lines can stand for gigabytes, or for other files.
        root = ElementTree.fromstring(read_bytes(path, _MAX_XML), forbid_dtd=True)
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"cannot be read ({reason(error)}); get it again") from None
    if root.tag != "annotation":
        raise ValueError(f"its root is <{reason(root.tag)}>")
    if other := next((part.tag for part in root if part.tag not in _PARTS), None):
        raise ValueError(f"it has <{reason(other)}> in <annotation>")
    filenames = root.findall("filename")
    if len(filenames) > 1:
        raise ValueError("it has more than one <filename>")
    if not filenames and not root.findall("object"):
        raise ValueError("it has neither <filename> nor <object>")
    names = dict.fromkeys(_object_name(node) for node in root.iterfind("object"))
    return (filenames[0].text or "").strip() if filenames else "", tuple(names)


def _object_name(node: Element) -> str:
    """The class of an object; ValueError where it does not say one."""
    names = node.findall("name")
    if len(names) != 1 or len(names[0]):
        raise ValueError(f"an <object> has {len(names) or 'no'} <name>")
    if node.find("deleted") is not None:
        raise ValueError("an <object> has <deleted>, as those of LabelMe have")
    name = (names[0].text or "").strip()
    if wrong := name_problem(name):
        raise ValueError(wrong)
    return name
