"""Label maps in the formats of COCO and YOLO."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from misc.data.dataset_info import DatasetInfo
from misc.labels import classes_in

LOWEST = 1e-5  # score of what is left out of COCO's JSON: fragments
# Part of a pixel at which its point is written. Ultralytics' reader cuts numbers to whole pixels,
# others round: both find the pixel.
_IN_PIXEL = 0.49


def annotation(mask: np.ndarray, label: int, **more: object) -> dict[str, object]:
    """COCO's entry of an instance, as compressed RLE. mask: H x W bool. label: class + 1."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        **more, "category_id": label, "iscrowd": 0, "area": int(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
    }  # fmt: skip


def coco_dataset(
    description: str, images: list[dict], annotations: list[dict], class_names: tuple[str, ...]
) -> dict[str, object]:
    """A whole file of COCO; the ids of the categories are class + 1."""
    names = enumerate(class_names, start=1)
    categories = [{"id": i, "name": name, "supercategory": "none"} for i, name in names]
    return {"info": {"description": description}, "licenses": [],  # readers ask for both
            "images": images, "annotations": annotations, "categories": categories}  # fmt: skip


def regions(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """4-connected regions of the classes in a label map: label (class + 1) and mask H x W bool."""
    for label in classes_in(labels):
        count, numbered = cv2.connectedComponents((labels == label).astype(np.uint8), None, 4)
        for number in range(1, count):
            yield label, numbered == number


def polygon(mask: np.ndarray) -> np.ndarray:
    """One closed polygon N x 2 (x, y) of the border pixels of a region H x W bool, N > 2.

    `cv2.fillPoly` gives the region back; a seam along a row joins a hole to what lies left of it.
    """
    found, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [np.roll(ring[:, 0], -ring[:, 0, 0].argmin(), axis=0).tolist() for ring in found]
    is_hole = (tree[0, :, 3] >= 0).tolist()
    order = sorted(range(len(rings)), key=lambda n: (is_hole[n], rings[n][0][0]))
    path = _joined(*([tuple(point) for point in rings[n]] for n in order))
    points = np.array(path)
    points = points[_directions(points).any(axis=1)] if len(path) > 1 else points  # each once
    ahead = _directions(points)
    corners = points[(ahead != np.roll(ahead, 1, axis=0)).any(axis=1)]
    corners = corners if len(corners) else points  # a single pixel
    return np.pad(corners, ((0, max(0, 3 - len(corners))), (0, 0)), mode="edge")


def _joined(outside: list[tuple[int, int]], *holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """One closed path along all borders, each of which begins at its leftmost pixel."""
    points, place = list(outside), {point: n for n, point in enumerate(outside)}
    following = [*range(1, len(points)), 0]
    for hole in holes:
        x, y = hole[0]
        while (x, y) not in place:  # along the row, whose pixels are all of the region
            x -= 1
        here, start = place[x, y], len(points)
        points += [*hole, hole[0], (x, y)]
        following += [*range(start + 1, len(points)), following[here]]
        following[here] = start
        place |= {point: start + n for n, point in enumerate(hole)}
    order = [0]
    while following[order[-1]]:
        order.append(following[order[-1]])
    return [points[n] for n in order]


def _directions(path: np.ndarray) -> np.ndarray:
    """Directions from the points of a closed path to the next ones, N x 2 of -1, 0, 1."""
    return np.sign(np.roll(path, -1, axis=0) - path)


def yolo_text(labels: np.ndarray) -> str:
    """A line for each region of a label map: class from 0, polygon in fractions of the sides."""
    height, width = labels.shape
    lines = []
    for label, mask in regions(labels):
        points = ((polygon(mask) + _IN_PIXEL) / (width, height)).ravel()
        lines.append(f"{label - 1} " + " ".join(f"{number:.6f}" for number in points) + "\n")
    return "".join(lines)


def yolo_config(info: DatasetInfo, root: Path) -> str:
    names = "".join(f"  {n}: {_yaml(name)}\n" for n, name in enumerate(info.class_names))
    return (
        f"path: {_yaml(str(root.resolve()))}\ntrain: images/train\n"
        f"val: images/train  # give images with ground truth here\nnames:\n{names}"
    )


def _yaml(text: str) -> str:
    """A string of YAML; JSON's differ in the characters beyond the basic plane."""
    plain = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(plain)}"'
