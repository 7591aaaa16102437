"""Draws the label maps of COCO images from their annotated objects."""

from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from coco14.instances import ADVICE, AnnotatedImage, Annotation
from misc.errors import UserError, raise_first
from misc.palette import save_palette_png
from misc.processes import cpu_count, map_in_processes

VOID = 255
MAX_COORDINATE = 1e6  # far outside any image; what is beyond would fill the memory
_CHUNK = 32  # images handed to a process at once
_WORTH_PROCESSES = 500  # images; fewer are done sooner than other processes have started


def draw_mask(image: AnnotatedImage, class_index: Mapping[int, int]) -> np.ndarray:
    """Label map of an image, H x W uint8: 0 background, class + 1, 255 where only a crowd is.

    Where objects overlap the one of the smaller annotated area is on top: of a cup on a table the
    table's outline covers both. Of equal areas the later one of the file is on top. A crowd lies
    beneath all objects: its outline is coarse and runs over the single objects in it, whose own
    outlines are exact, so that these pixels can be scored; the rest of it has no certain label.
    Raises UserError where a segmentation cannot be decoded.
    """
    height, width = image.size
    labels = np.zeros((width, height), dtype=np.uint8)  # COCO's runs go down the columns
    for annotation in sorted(image.annotations, key=lambda a: (not a.is_crowd, -a.area)):
        value = VOID if annotation.is_crowd else class_index[annotation.category] + 1
        np.copyto(labels, value, where=decode(annotation, image.size).T, casting="unsafe")
    return np.ascontiguousarray(labels.T)


def decode(annotation: Annotation, size: tuple[int, int]) -> np.ndarray:
    """Pixels of an annotation, H x W bool in column order; UserError where it makes no sense."""
    segmentation = annotation.segmentation
    try:
        if isinstance(segmentation, dict):
            return _decode_runs(segmentation, size)
        return _decode_polygons(segmentation, size)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"the segmentation of annotation {annotation.number} cannot be decoded ({error}); "
            f"restore the instances file: {ADVICE}"
        ) from None


def make_masks(
    images: Sequence[AnnotatedImage], class_index: Mapping[int, int], folder: Path
) -> None:
    """Draw and save the label maps of the images, in as many processes as there are cores.

    Raises UserError for the first annotation that cannot be drawn, after all others have been.
    """
    chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    work = partial(_make_chunk, folder=folder, class_index=class_index)
    processes = cpu_count() if len(images) >= _WORTH_PROCESSES else 1
    problems = []
    with tqdm(total=len(images), desc=folder.name, unit="image") as bar:
        for chunk, found in zip(chunks, map_in_processes(work, chunks, processes), strict=True):
            problems += found
            bar.update(len(chunk))
    raise_first(problems)


def _make_chunk(
    images: Sequence[AnnotatedImage], folder: Path, class_index: Mapping[int, int]
) -> list[str]:
    """Draw and save some masks; returns what was wrong."""
    problems = []
    for image in images:
        path = folder / f"{image.image_id}.png"
        try:
            save_palette_png(path, draw_mask(image, class_index))
        except UserError as error:
            problems.append(f"{path}: {error}")
        except OSError as error:
            return [f"{path}: cannot be written ({error.strerror}); make room and run again"]
    return problems


def _decode_polygons(polygons: Sequence[array], size: tuple[int, int]) -> np.ndarray:
    """Pixels inside any of the polygons."""
    if not polygons:
        raise ValueError("there is no polygon")
    for polygon in polygons:
        coordinates = np.frombuffer(polygon)
        if len(polygon) % 2 or not (np.abs(coordinates) <= MAX_COORDINATE).all():
            raise ValueError(f"polygon {polygon.tolist()[:6]} ...")
    # Fewer than three points have no inside; pycocotools would take two for a box.
    whole = [polygon for polygon in polygons if len(polygon) >= 6]
    if not whole:
        return np.zeros(size, dtype=bool, order="F")
    return _pixels(coco_mask.merge(coco_mask.frPyObjects(whole, *size)))


def _decode_runs(rle: dict, size: tuple[int, int]) -> np.ndarray:
    """Pixels of an RLE whose counts are numbers or, compressed, a string."""
    counts = rle["counts"]
    if tuple(rle["size"]) != size:
        raise ValueError(f"size {rle['size']} in an image of {list(size)}")
    if isinstance(counts, array):
        # pycocotools would leave what is beyond the last run as it was in memory.
        if sum(counts) != size[0] * size[1]:
            raise ValueError(f"runs of {sum(counts)} pixels in an image of {list(size)}")
        return _pixels(coco_mask.frPyObjects({"size": size, "counts": counts}, *size))
    pixels = _pixels({"size": size, "counts": counts})
    if coco_mask.encode(pixels.view(np.uint8))["counts"] != counts.encode():
        raise ValueError("the runs do not fill the image")
    return pixels


def _pixels(rle: dict) -> np.ndarray:
    return coco_mask.decode(rle).view(bool)
