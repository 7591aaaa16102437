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
    label: int  # in masks: class + 1; while the file is read, the id of its category
    area: float  # pixels
    is_crowd: bool
    # Polygons x0, y0, x1, y1, ... as double precision arrays, or an RLE as pycocotools takes it.
    segmentation: tuple[array, ...] | dict


class AnnotatedImage(NamedTuple):
    """An image of an instances file: its id, (height, width) and what is on it."""

    image_id: str
    size: tuple[int, int]
    annotations: list[Annotation]


def read_instances(path: Path, info: DatasetInfo) -> list[AnnotatedImage]:
    """All images of an instances file, ascending by id; segmentations are not looked at yet."""
    with about(path):
        content = _load(path)
        try:
            return _joined(content, info)
        except ValueError as error:
            raise UserError(f"{error}; {ADVICE}") from None


def _joined(content: dict[str, list], info: DatasetInfo) -> list[AnnotatedImage]:
    label_of = _labels(content["categories"], info)
    images = _images(content["images"], info)
    by_number = {int(image.image_id): image for image in images}
    for annotation in content["annotations"]:
        if not isinstance(annotation, Annotation):
            raise ValueError("an annotation has no segmentation")
        number, image, category = annotation[:3]
        if category not in label_of:
            raise ValueError(f"annotation {number} has the unknown category {category}")
        if image not in by_number:
            raise ValueError(f"annotation {number} is of image {image}, which is not listed")
        by_number[image].annotations.append(annotation._replace(label=label_of[category]))
    return images


def _load(path: Path) -> dict[str, list]:
    try:
        text = read_bytes(path, _MAX_BYTES).decode("utf-8")
        content = json.loads(text, object_hook=_compact)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}); check the file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not valid JSON ({reason(error)}); {ADVICE}") from None
    tables = ("images", "annotations", "categories")
    if isinstance(content, dict) and all(isinstance(content.get(t), list) for t in tables):
        return content
    raise UserError(f"has no lists of images, annotations and categories; {ADVICE}")


def _compact(entry: dict) -> object:
    """The needed part of each JSON object; polygons as Python's floats would take gigabytes."""
    try:
        if "segmentation" in entry:
            return _annotation(entry)
        if "height" in entry and "width" in entry:
            number, *size = (_integer(entry[name]) for name in ("id", "height", "width"))
            return AnnotatedImage(f"{number:012d}", tuple(size), [])
        if isinstance(entry.get("counts"), list):
            return {"size": entry.get("size"), "counts": array("I", entry["counts"])}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        shown = f"with id {_brief(entry['id'])}" if "id" in entry else _brief(entry)
        raise UserError(f"the entry {shown} is wrong ({reason(error)}); {ADVICE}") from None
    return entry


def _annotation(entry: dict) -> Annotation:
    segmentation, area = entry["segmentation"], float(entry["area"])
    if not area >= 0:
        raise ValueError(f"area {area}")
    if not isinstance(segmentation, dict):
        segmentation = tuple(array("d", polygon) for polygon in segmentation)
    number, image, category = (_integer(entry[n]) for n in ("id", "image_id", "category_id"))
    return Annotation(number, image, category, area, bool(entry.get("iscrowd", 0)), segmentation)


def _integer(value: object) -> int:
    if (number := int(value)).bit_length() > 63:
        raise ValueError("a number of more than 63 bits")
    return number


def _brief(value: object) -> str:
    return reason(reprlib.repr(value))  # not repr: it writes out all that is nested


def _labels(categories: list, info: DatasetInfo) -> Mapping[int, int]:
    labels = {}
    for category in categories:
        known = isinstance(category, dict) and category.get("name") in info.class_names
        if not known or not isinstance(category.get("id"), int):
            raise ValueError(f"{_brief(category)} is not a category of {info.name}")
        labels[category["id"]] = info.class_names.index(category["name"]) + 1
    return labels


def _images(images: list, info: DatasetInfo) -> list[AnnotatedImage]:
    if not images:
        raise ValueError("has no images")
    seen = set()
    for image in images:
        if not isinstance(image, AnnotatedImage):
            raise ValueError("an image has no height or width")
        image_id, (height, width), _ = image
        if min(height, width) < 1 or max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
            raise ValueError(f"image {image_id} is {width}x{height} pixels")
        if image_id in seen or not info.is_id(image_id):
            raise ValueError(f"image {image_id} is listed twice, or is not an image of COCO")
        seen.add(image_id)
    return sorted(images)
