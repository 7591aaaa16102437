"""Labels from annotations that are there already: COCO instances JSON, Pascal XML files."""

import json
from collections.abc import Iterable
from pathlib import Path

from defusedxml import ElementTree

from misc.data.folder.labels import Found, Places
from misc.errors import Problems, UserError
from misc.storage.untrusted import read_bytes, reason

_MAX_JSON = 2 << 30  # bytes
_MAX_XML = 1 << 20


def read_coco(path: Path, places: Places, skip_unknown: bool = False) -> Found:
    """Labels from a file with `images`, `annotations` and `categories` in COCO's form.

    An image has the classes of all its annotations, crowds too; one without has no class. The
    classes are in the order of their ids.
    """
    try:
        content = json.loads(read_bytes(path, _MAX_JSON))
        images = {_number(i["id"]): str(i["file_name"]) for i in content["images"]}
        names = {_number(c["id"]): str(c["name"]).strip() for c in content["categories"]}
        pairs = {(_number(a["image_id"]), _number(a["category_id"]))
                 for a in content["annotations"]}  # fmt: skip
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check --labels") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = f"{type(error).__name__} {reason(error)}"
        raise UserError(
            f"{path}: is not a file of instances in COCO's form ({text}); expected are images, "
            "annotations and categories"
        ) from None
    of_image: dict[int, list[str]] = {number: [] for number in images}
    problems = Problems()
    wrong = []
    for image, category in sorted(pairs):
        if image in of_image and category in names:
            of_image[image].append(names[category])
        else:
            wrong.append(f"{path}: has an annotation of image {image} and category {category}, one "
                         "of which it does not list; correct it")  # fmt: skip
    problems.add("annotation", wrong)
    rows = ((images[number], tuple(found), f"image {number}") for number, found in of_image.items())
    classes = tuple(names[number] for number in sorted(names))
    return _placed(path, rows, classes, places, problems, skip_unknown)


def read_xml_folder(folder: Path, places: Places, skip_unknown: bool = False) -> Found:
    """Labels from a folder tree of Pascal XML files: names of all objects, difficult ones too.

    A file is of the photograph that it names, or of the one with its own name.
    """
    files = sorted(folder.rglob("*.xml"))
    if not files:
        raise UserError(f"--labels {folder}: has no .xml files; give a table, or the folder of the "
                        "annotations")  # fmt: skip
    problems, rows, classes = Problems(), [], set()
    for path in files:
        try:
            image, names = _objects(path, places)
        except ValueError as error:
            problems.add("annotation", [f"{path}: cannot be read ({reason(error)}); get it again"])
            continue
        classes.update(names)
        rows.append((image, names, path.name))
    return _placed(folder, rows, tuple(sorted(classes)), places, problems, skip_unknown)


def _objects(path: Path, places: Places) -> tuple[str, tuple[str, ...]]:
    try:
        # No DTD: entities of a few lines can stand for gigabytes, or for other files.
        root = ElementTree.fromstring(read_bytes(path, _MAX_XML), forbid_dtd=True)
    except (OSError, ElementTree.ParseError, LookupError) as error:
        raise ValueError(reason(error)) from None
    names = [str(node.text or "").strip() for node in root.iterfind("./object/name")]
    image = str(root.findtext("./filename") or "").strip()
    for name in (image, path.stem):
        try:
            image = places.find(name)
            break
        except ValueError:
            continue
    return image or path.stem, tuple(dict.fromkeys(name for name in names if name))


def _placed(
    source: Path,
    rows: Iterable[tuple[str, tuple[str, ...], str]],
    classes: tuple[str, ...],
    places: Places,
    problems: Problems,
    skip_unknown: bool,
) -> Found:
    """Labels by path from rows of an image's name, its classes, and where that stands."""
    found: dict[str, tuple[str, ...]] = {}
    unknown, twice = [], []
    for image, names, where in rows:
        try:
            path = places.find(image)
        except ValueError as error:
            unknown.append(f"{source}, {where}: {error}; correct it, or give --skip_unknown_rows")
            continue
        if path in found and set(found[path]) != set(names):
            twice.append(f"{source}, {where}: {path} is there twice with different classes; keep "
                         "one of the two")  # fmt: skip
        found[path] = names
    problems.add("annotation", twice)
    if not skip_unknown:
        problems.add("annotation", unknown)
    return Found(found, classes, problems)


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"an id is {type(value).__name__}")
    return int(value)
