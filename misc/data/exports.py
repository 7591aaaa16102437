"""Label maps and maps in the forms that other programs of the field read."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from misc.data.coco_json import annotation
from misc.data.dataset_info import DatasetInfo
from misc.labels import classes_in

# Where a pixel's point is written. Ultralytics' reader cuts numbers to whole pixels, others round:
# both find the pixel.
_IN_PIXEL = 0.49


def regions(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Connected regions of a label map H x W: label (class + 1) and mask H x W bool.

    Pixels that meet at a corner are apart. Neither background nor ignored pixels have
    regions.
    """
    for label in classes_in(labels):
        count, numbered = cv2.connectedComponents((labels == label).astype(np.uint8), None, 4)
        for number in range(1, count):
            yield label, numbered == number


def coco_annotations(labels: np.ndarray) -> list[dict]:
    """COCO's entries of the regions of a label map, without ids; categories are class + 1."""
    return [annotation(mask, label) for label, mask in regions(labels)]


def outline(mask: np.ndarray) -> np.ndarray:
    """One closed polygon N x 2 (x, y) of the border pixels of a region H x W bool, N > 2.

    `cv2.fillPoly` gives the region back. A hole is joined to what lies left of it by a seam along a
    row of the region. Points on straight lines are left out.
    """
    path = np.array(_joined(*_borders(mask)))
    path = path[_steps(path).any(axis=1)] if len(path) > 1 else path  # each point once
    steps = _steps(path)
    corners = path[(steps != np.roll(steps, 1, axis=0)).any(axis=1)]
    corners = corners if len(corners) else path  # a single pixel
    return np.pad(corners, ((0, max(0, 3 - len(corners))), (0, 0)), mode="edge")


def _steps(path: np.ndarray) -> np.ndarray:
    """Directions from the points of a closed path to the next ones, N x 2 of -1, 0, 1."""
    return np.sign(np.roll(path, -1, axis=0) - path)


def _borders(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Border pixels (x, y) along the outside of a region, then along its holes from the left."""
    found, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [np.roll(ring[:, 0], -ring[:, 0, 0].argmin(), axis=0) for ring in found]
    is_hole = tree[0, :, 3] >= 0
    order = sorted(range(len(rings)), key=lambda n: (is_hole[n], rings[n][0, 0]))
    return [list(map(tuple, rings[n].tolist())) for n in order]


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
    path, n = points[:1], following[0]
    while n:
        path.append(points[n])
        n = following[n]
    return path


def yolo_text(labels: np.ndarray) -> str:
    """A line for each region of a label map: class from 0, and its polygon as shares of the sides.

    An empty text says that the image shows nothing.
    """
    height, width = labels.shape
    lines = []
    for label, mask in regions(labels):
        shares = (outline(mask) + _IN_PIXEL) / (width, height)
        lines.append(f"{label - 1} " + " ".join(f"{share:.6f}" for share in shares.ravel()) + "\n")
    return "".join(lines)


def yolo_config(info: DatasetInfo, root: Path) -> str:
    """What data.yaml says of such a folder."""
    names = "".join(f"  {n}: {_yaml(name)}\n" for n, name in enumerate(info.class_names))
    return (
        f"path: {_yaml(str(root.resolve()))}\ntrain: images/train\n"
        f"val: images/train  # give images with ground truth here\nnames:\n{names}"
    )


def _yaml(text: str) -> str:
    """A string of YAML; JSON's differ in the characters beyond the basic plane."""
    plain = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(plain)}"'
