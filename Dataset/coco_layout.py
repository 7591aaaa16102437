"""Scenes in the layout of MS COCO 2014: images and instances files."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from coco14.dataset import CATEGORY_IDS, CLASS_NAMES
from Dataset.scene import Scene

FIRST_NUMBERS = {"train": 1, "val": 500_001}
CROWD = 4  # objects of one class in an image that are annotated as a crowd, not one by one
CROWD_MARGIN = 2  # pixels that the region of a crowd reaches beyond its objects


def write_split(folder: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write the images of a split and annotations/instances_{split}2014.json."""
    for name in ("JPEGImages", "annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, scene in enumerate(scenes, start=FIRST_NUMBERS[split]):
        name = f"{number:012d}.jpg"
        Image.fromarray(scene.image).save(folder / "JPEGImages" / name, quality=92)
        height, width = scene.image.shape[:2]
        images.append({"file_name": name, "height": height, "width": width, "id": number})
        for order, entry in enumerate(annotations_of(scene)):
            annotations.append({**entry, "image_id": number, "id": 100 * number + order})
    categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "annotations" / f"instances_{split}2014.json"
    path.write_text(json.dumps({"info": {"description": "Synthetic sample"}, **content}) + "\n")


def annotations_of(scene: Scene) -> Iterator[dict]:
    """Annotations of a scene as in the official files, without the ids: objects, then crowds."""
    counts = Counter(instance.name for instance in scene.instances)
    crowds = {name for name, count in counts.items() if count >= CROWD}
    for instance in scene.instances:
        found = polygons(instance.mask)
        if found and instance.name not in crowds:
            yield _annotation(instance.name, instance.mask, found, is_crowd=0)
    for name in sorted(crowds):
        masks = [instance.mask for instance in scene.instances if instance.name == name]
        region = ndimage.binary_dilation(np.any(masks, axis=0), iterations=CROWD_MARGIN)
        yield _annotation(name, region, rle(region), is_crowd=1)


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons x0, y0, x1, y1, ... round the parts of a mask H x W bool; holes are filled."""
    kind = (cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours, _ = cv2.findContours(mask.astype(np.uint8), *kind)
    # Contours run through the centres of pixels, whose corners have whole numbers in COCO.
    return [(contour + 0.5).ravel().tolist() for contour in contours if len(contour) >= 3]


def rle(mask: np.ndarray) -> dict:
    """Uncompressed RLE of a mask H x W bool: runs down the columns, the first is of zeros."""
    pixels = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels, prepend=False))
    counts = np.diff(edges, prepend=0, append=pixels.size)
    return {"counts": counts.tolist(), "size": list(mask.shape)}


def _annotation(name: str, mask: np.ndarray, segmentation: list | dict, is_crowd: int) -> dict:
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
    category = CATEGORY_IDS[CLASS_NAMES.index(name)]
    return {"segmentation": segmentation, "area": int(mask.sum()), "iscrowd": is_crowd,
            "bbox": box, "category_id": category}  # fmt: skip
