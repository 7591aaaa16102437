"""Reads COCO's instances files, whose hundreds of megabytes become a tenth of that in memory."""

import json
import reprlib
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from misc.data.dataset_info import DatasetInfo
from misc.errors import UserError, about
from misc.storage.files import read_bytes, reason
from misc.storage.images import MAX_PIXELS

ADVICE = "unpack it again from annotations_trainval2014.zip of cocodataset.org"
MAX_SIDE = 65535  # pixels of a JPEG file
_MAX_BYTES = 2 << 30  # the official files have at most 450 MiB


class Annotation(NamedTuple):
    """An object, or a crowd of objects that are not told apart."""

    number: int  # its "id" in the file
    image: int
    category: int
    area: float  # pixels
    is_crowd: bool
    # Polygons x0, y0, x1, y1, ... as double precision arrays, or an RLE as pycocotools takes it.
    segmentation: tuple[array, ...] | dict


class AnnotatedImage(NamedTuple):
    """An image of an instances file: its id, (height, width) and what is on it."""

    image_id: str
    size: tuple[int, int]
    annotations: list[Annotation]


class Instances(NamedTuple):
    """Content of an instances file; `class_index` gives the class, from 0, of a category id."""

    images: list[AnnotatedImage]
    class_index: Mapping[int, int]


class _Size(NamedTuple):
    image: int
    height: int
    width: int


def read_instances(path: Path, info: DatasetInfo) -> Instances:
    """All images of an instances file, ascending by id, also those without any object.

    Raises UserError where the file is missing, broken, or says what cannot be. Segmentations are
    looked at where they are drawn.
    """
    with about(path):
        content = _load(path)
        class_index = _class_index(content["categories"], info)
        images = _images(content["images"], info)
        by_number = {int(image.image_id): image for image in images}
        for annotation in content["annotations"]:
            _attach(annotation, by_number, class_index)
    return Instances(images, class_index)


def _load(path: Path) -> dict[str, list]:
    try:
        text = read_bytes(path, _MAX_BYTES).decode("utf-8")
        content = json.loads(text, object_hook=_compact)
    except FileNotFoundError:
        raise UserError(f"no such file; {ADVICE}") from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}); check the file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not valid JSON ({reason(error)}); {ADVICE}") from None
    tables = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(t), list) for t in tables):
        raise UserError(f"has no lists of images, annotations and categories; {ADVICE}")
    return content


def _compact(entry: dict) -> object:
    """What is needed of a JSON object; called for each as soon as it was read.

    As Python's floats the polygons of all objects would take gigabytes.
    """
    try:
        if "segmentation" in entry:
            return _annotation(entry)
        if "height" in entry and "width" in entry:
            return _Size(*(_integer(entry[name]) for name in ("id", "height", "width")))
        if isinstance(entry.get("counts"), list):
            return {"size": entry.get("size"), "counts": array("I", entry["counts"])}
    except KeyError as error:
        raise UserError(f"the entry {_shown(entry)} has no {error}; {ADVICE}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the entry {_shown(entry)} is wrong ({reason(error)}); {ADVICE}") from None
    return entry


def _integer(value: object) -> int:
    number = int(value)
    if number.bit_length() > 63:
        raise ValueError("a number of more than 63 bits")
    return number


def _shown(entry: dict) -> str:
    # Not repr: it writes out all that is nested.
    return f"with id {_brief(entry['id'])}" if "id" in entry else _brief(entry)


def _brief(value: object) -> str:
    return reason(reprlib.repr(value))


def _annotation(entry: dict) -> Annotation:
    segmentation, area = entry["segmentation"], float(entry["area"])
    if not area >= 0:
        raise ValueError(f"area {area}")
    if not isinstance(segmentation, dict):
        segmentation = tuple(array("d", polygon) for polygon in segmentation)
    return Annotation(
        number=_integer(entry["id"]),
        image=_integer(entry["image_id"]),
        category=_integer(entry["category_id"]),
        area=area,
        is_crowd=bool(entry.get("iscrowd", 0)),
        segmentation=segmentation,
    )


def _class_index(categories: list, info: DatasetInfo) -> dict[int, int]:
    """Class of every category id, by the names: files of other origin number them otherwise."""
    index = {}
    for category in categories:
        known = isinstance(category, dict) and category.get("name") in info.class_names
        if not known or not isinstance(category.get("id"), int):
            raise UserError(f"{_brief(category)} is not a category of {info.name}; {ADVICE}")
        index[category["id"]] = info.class_names.index(category["name"])
    return index


def _images(sizes: list, info: DatasetInfo) -> list[AnnotatedImage]:
    images = []
    for size in sizes:
        if not isinstance(size, _Size):
            raise UserError(f"an image has no height or width; {ADVICE}")
        sides = (size.height, size.width)
        if min(sides) < 1 or max(sides) > MAX_SIDE or size.height * size.width > MAX_PIXELS:
            raise UserError(f"image {size.image} is {size.width}x{size.height} pixels; {ADVICE}")
        images.append(AnnotatedImage(f"{size.image:012d}", sides, []))
    if not images:
        raise UserError(f"has no images; {ADVICE}")
    images.sort()
    ids = [image.image_id for image in images]
    for image_id, following in zip(ids, [*ids[1:], ""], strict=True):
        if image_id == following or not info.is_id(image_id):
            raise UserError(
                f"image {image_id} is listed twice, or is not an image of COCO; {ADVICE}"
            )
    return images


def _attach(
    annotation: object, by_number: Mapping[int, AnnotatedImage], class_index: Mapping[int, int]
) -> None:
    """Put an annotation to its image."""
    if not isinstance(annotation, Annotation):
        raise UserError(f"an annotation has no segmentation; {ADVICE}")
    if annotation.category not in class_index:
        raise UserError(
            f"annotation {annotation.number} has the unknown category {annotation.category}; "
            f"{ADVICE}"
        )
    if annotation.image not in by_number:
        raise UserError(
            f"annotation {annotation.number} is of image {annotation.image}, which is not listed; "
            f"{ADVICE}"
        )
    by_number[annotation.image].annotations.append(annotation)
