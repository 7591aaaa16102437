"""Draws the label maps of COCO images from their annotated objects."""

import re
from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from coco14.instances import ADVICE, AnnotatedImage, Annotation
from misc.errors import UserError, raise_problems
from misc.labels import IGNORED, save_palette_png
from misc.runtime.processes import cpu_count, map_in_processes
from misc.runtime.programs import progress
from misc.storage.files import reason

MAX_LENGTH = 1e6  # pixels on all polygons of an annotation: far more than in any image
# A run in COCO's text: characters of five bits each, of which the last one is marked.
_COMPRESSED = "[P-o]{0,6}[0-O]"
_WORTH_PROCESSES = 500  # images; fewer are done sooner than other processes have started


def draw_mask(image: AnnotatedImage) -> np.ndarray:
    """Label map of an image, H x W uint8: 0 background, class + 1, 255 where only a crowd is.

    The object of the smaller annotated area is on top (a cup on a table), of equal areas the later
    one. A crowd lies beneath all objects: its coarse polygon runs over the single objects in it.
    Raises UserError where a segmentation cannot be decoded.
    """
    height, width = image.size
    labels = np.zeros((width, height), dtype=np.uint8)  # COCO's RLE goes down the columns
    for annotation in sorted(image.annotations, key=lambda a: (not a.is_crowd, -a.area)):
        value = IGNORED if annotation.is_crowd else annotation.label
        np.copyto(labels, value, where=decode(annotation, image.size).T, casting="unsafe")
    return np.ascontiguousarray(labels.T)


def decode(annotation: Annotation, size: tuple[int, int]) -> np.ndarray:
    """Pixels of an annotation, H x W bool in column order; UserError where it makes no sense."""
    segmentation = annotation.segmentation
    try:
        if isinstance(segmentation, dict):
            return _decode_rle(segmentation, size)
        return _decode_polygons(segmentation, size)
    except (ValueError, TypeError, KeyError) as error:
        what = f"the segmentation of annotation {annotation.number} cannot be decoded"
        raise UserError(f"{what} ({reason(error)}); {ADVICE}") from None


def make_masks(images: Sequence[AnnotatedImage], folder: Path) -> None:
    """Draw and save label maps; one UserError, at the end, for annotations that cannot be drawn."""
    processes = cpu_count() if len(images) >= _WORTH_PROCESSES else 1
    with progress(len(images), folder.name, "image") as bar:
        problems = []
        for problem in map_in_processes(partial(_make, folder), images, processes):
            problems += [problem] if problem else []
            bar.update()
    raise_problems("mask", problems)


def _make(folder: Path, image: AnnotatedImage) -> str:
    path = folder / f"{image.image_id}.png"
    try:
        save_palette_png(path, draw_mask(image))
    except UserError as error:
        return f"{path}: {error}"
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room") from None
    return ""


def _decode_polygons(polygons: Sequence[array], size: tuple[int, int]) -> np.ndarray:
    if not polygons:
        raise ValueError("there is no polygon")
    length = 0.0
    for polygon in polygons:
        coordinates = np.frombuffer(polygon)
        if len(polygon) % 2 or not (np.abs(coordinates) <= MAX_LENGTH).all():
            raise ValueError(f"polygon {polygon.tolist()[:6]} ...")
        points = coordinates.reshape(-1, 2)
        length += np.abs(points - np.roll(points, 1, axis=0)).sum()
    if length > MAX_LENGTH:
        raise ValueError(f"polygons of {length:.0f} pixels")
    # Fewer than three points have no inside; pycocotools would take two for a box.
    whole = [polygon for polygon in polygons if len(polygon) >= 6]
    if not whole:
        return np.zeros(size, dtype=bool, order="F")
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(whole, *size))).view(bool)


def _decode_rle(rle: dict, size: tuple[int, int]) -> np.ndarray:
    """Pixels of an RLE; pycocotools would read and write beyond its memory where runs are wrong."""
    if tuple(rle["size"]) != size:
        raise ValueError(f"another size in an image of {list(size)}")
    counts = rle["counts"]
    counts = counts if isinstance(counts, array) else _uncompressed(counts)
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"runs of {sum(counts)} pixels in an image of {list(size)}")
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return pixels.reshape(size, order="F")


def _uncompressed(text: str) -> list[int]:
    """The counts in COCO's text: from the fourth one on, differences to the last but one."""
    counts: list[int] = []
    if not re.fullmatch(f"(?:{_COMPRESSED})*", text):
        raise ValueError("counts that are no runs")
    for run in re.findall(_COMPRESSED, text):
        bits = [ord(letter) - ord("0") for letter in run]
        count = sum((five & 31) << 5 * place for place, five in enumerate(bits))
        count -= (bits[-1] & 16) << 5 * len(bits) - 4  # a sign, in the highest of the five bits
        counts.append(count + counts[-2] if len(counts) > 2 else count)
        if counts[-1] < 0:
            raise ValueError("counts that are negative")
    return counts
