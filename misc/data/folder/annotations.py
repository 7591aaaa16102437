"""Labels from annotations that are there already: COCO instances JSON, Pascal XML files."""

import json
from collections.abc import Iterator
from pathlib import Path

from defusedxml import ElementTree

from misc.data.folder.labels import Found
from misc.data.folder.names import name_problem, shown
from misc.data.folder.photographs import Tree, files_below, require_names
from misc.errors import UserError
from misc.storage.files import read_bytes, reason

_MAX_JSON = 2 << 30  # bytes
_MAX_XML = 1 << 20
_COCO = ("A file of COCO's instances has lists of images (id, file_name), categories (id, name) "
         "and annotations (image_id, category_id)")  # fmt: skip
_PASCAL = ("A Pascal file has the root <annotation>, in it <filename> and an <object> with one "
           "<name> for each object; export the annotations as Pascal VOC")  # fmt: skip
_PARTS = ("folder", "filename", "path", "source", "owner", "size", "segmented", "object")


def read_coco(path: Path, tree: Tree) -> Found:
    """Labels from COCO's instances, crowds too; UserError for the first wrong entry."""
    try:
        content = json.loads(read_bytes(path, _MAX_JSON))
        lists = {name: content[name] for name in ("images", "categories", "annotations")}
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        what = f"{type(error).__name__} {reason(error)}"
        raise UserError(f"{path}: is not a file of COCO's instances ({what}). {_COCO}") from None
    images, categories = (
        {number: (where, text) for where, (number, text) in _entries(path, lists, name, keys)}
        for name, keys in (("images", {"id": int, "file_name": str}),
                           ("categories", {"id": int, "name": str}))
    )  # fmt: skip
    found = Found(tree, str(path), "entry", once=True)
    for where, name in categories.values():
        if wrong := name_problem(name):
            raise UserError(f"{where}: {wrong}")
        if (other := found.where.setdefault(name.strip(), where)) != where:
            raise UserError(f"{where}: has the name {shown(name)} of {other}; keep one of the two")
    of_image: dict[int, dict[str, None]] = {number: {} for number in images}
    keys = {"image_id": int, "category_id": int}
    for where, (image, category) in _entries(path, lists, "annotations", keys):
        if image not in images or category not in categories:
            kind = f"category {category}" if image in images else f"image {image}"
            raise UserError(f"{where}: is of {kind}, which the file does not list; correct it")
        of_image[image][categories[category][1].strip()] = None
    for number, names in of_image.items():
        found.add(*images[number], tuple(names))
    found.classes = tuple(categories[number][1].strip() for number in sorted(categories))
    return found


def _entries(
    path: Path, lists: dict[str, list], name: str, keys: dict[str, type]
) -> Iterator[tuple[str, list]]:
    if not isinstance(lists[name], list):
        raise UserError(f"{path}: its {name} are not a list. {_COCO}")
    first: dict[int, str] = {}
    for number, entry in enumerate(lists[name]):
        where = f"{path}: {name}[{number}]"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: is not an object. {_COCO}")
        for key, kind in keys.items():
            value = entry.get(key)
            if type(value) is not kind or (kind is str and not value.strip()):
                text = "missing or null" if value is None else reason(json.dumps(value))
                what = "a text" if kind is str else "a whole number"
                raise UserError(f"{where}: its {key} is {text} and not {what}; correct it")
        if "id" in keys and (other := first.setdefault(entry["id"], where)) != where:
            raise UserError(f"{where}: has the id {entry['id']} of {other}; give it its own")
        yield where, [entry[key] for key in keys]


def read_xml_folder(folder: Path, tree: Tree) -> Found:
    """Labels from Pascal XML files, each of the photograph of its name, or of its <filename>."""
    files = sorted(path for path in files_below(folder)[0] if path.lower().endswith(".xml"))
    if not files:
        raise UserError(f"--labels {folder}: has no .xml files; give the folder of annotations")
    require_names(folder, files)
    found, stale = Found(tree, str(folder), "XML file", once=True), []
    for file in files:
        path = folder / file
        try:
            named, names = _pascal(path)
        except ValueError as error:
            found.wrong(f"{path}: {error}. {_PASCAL}")
            continue
        for name in names:
            found.where.setdefault(name, str(path))
        try:
            found.add(str(path), _photograph(tree, file[: -len(".xml")], named), names)
        except LookupError as error:
            found.wrong(f"{path}: {error.args[0]}")
        if named and not tree.candidates(named):
            stale.append(f"{reason(named)!r} in {path}")
    if stale:
        others = f"{len(stale)} of {len(files)} XML files have a <filename> that is not there"
        found.notes.append(f"{folder}: {others}, such as {stale[0]}: their own names count")
    found.classes = tuple(sorted(found.where))
    return found


def _photograph(tree: Tree, own: str, named: str) -> str:
    by_own, by_named = tree.candidates(own), tree.candidates(named)
    others = by_named or tree.loosely(named)
    both = [path for path in by_own if path in others]
    if by_own and others and not both:
        raise LookupError(f"by its own name it is of {reason(by_own[0])}, by its <filename> "
                          f"{reason(named)!r} of {reason(others[0])}; correct one")  # fmt: skip
    found = both or by_own or by_named
    if len(found) > 1:
        any_of = ", ".join(map(reason, found[:3]))
        raise LookupError(f"may be of any of {len(found)} photographs ({any_of}); give its path in "
                          "<filename>")  # fmt: skip
    if not found:
        raise LookupError(f"there is no photograph of its name in {tree.root}, nor of its "
                          f"<filename> {reason(named)!r}; take it out")  # fmt: skip
    return found[0] if by_own else named


def _pascal(path: Path) -> tuple[str, tuple[str, ...]]:
    try:
        # No DTD: entities of a few lines can stand for gigabytes, or for other files.
        root = ElementTree.fromstring(read_bytes(path, _MAX_XML), forbid_dtd=True)
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"cannot be read ({reason(error)}); get it again") from None
    if root.tag != "annotation":
        raise ValueError(f"its root is <{reason(root.tag)}>")
    if other := next((part.tag for part in root if part.tag not in _PARTS), None):
        raise ValueError(f"it has <{reason(other)}> in <annotation>")
    filenames, objects = root.findall("filename"), root.findall("object")
    if len(filenames) > 1 or not filenames + objects:
        raise ValueError(f"it has {len(filenames) or 'no'} <filename>, {len(objects)} <object>")
    names: dict[str, None] = {}
    for node in objects:
        found = node.findall("name")
        if len(found) != 1 or len(found[0]) or node.find("deleted") is not None:
            raise ValueError(f"an <object> has {len(found) or 'no'} <name>, or is <deleted>")
        name = (found[0].text or "").strip()
        if wrong := name_problem(name):
            raise ValueError(wrong)
        names[name] = None
    return (filenames[0].text or "").strip() if filenames else "", tuple(names)
