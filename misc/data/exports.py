"""Label maps and maps in the forms that other programs of the field read."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import cKDTree
from skimage.measure import find_contours

from misc.data.coco_json import annotation
from misc.data.dataset_info import DatasetInfo
from misc.labels import classes_in
from misc.palette import voc_palette


def regions(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Connected regions of a label map H x W: label (class + 1) and mask H x W bool.

    Pixels that meet at a corner are apart. Neither background nor undecided pixels have
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
    """One outline N x 2 (x, y) of a region H x W bool, closed, pixel (0, 0) being the unit square.

    Every pixel's centre is inside exactly where the mask is, by the even-odd rule. Holes are joined
    to it by the shortest seams, which have no width.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = rows[0], columns[0]
    cut = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    found = find_contours(np.pad(cut, 1).astype(float), 0.5)
    parts = [contour[:, ::-1] - 0.5 + (left, top) for contour in found]  # -1 of the padding
    parts.sort(key=lambda part: np.ptp(part, axis=0).prod())
    joined, holes = parts.pop(), parts
    while holes:  # the nearest first, so that no seam crosses another hole
        tree = cKDTree(joined)
        near = [tree.query(hole) for hole in holes]
        which = min(range(len(holes)), key=lambda n: near[n][0].min())
        distances, places = near[which]
        start = int(distances.argmin())
        hole = holes.pop(which)
        turned = np.concatenate([hole[start:], hole[1 : start + 1]])
        at = int(places[start])
        joined = np.concatenate([joined[: at + 1], turned, joined[at:]])
    return joined


def yolo_text(labels: np.ndarray) -> str:
    """A line for each region of a label map: class from 0, and its outline as shares of the sides.

    An empty text says that the image shows nothing.
    """
    height, width = labels.shape
    lines = []
    for label, mask in regions(labels):
        points = (outline(mask)[:-1] / (width, height)).ravel()
        lines.append(f"{label - 1} " + " ".join(f"{share:.6f}" for share in points) + "\n")
    return "".join(lines)


def yolo_config(info: DatasetInfo, root: Path) -> str:
    """What data.yaml says of such a folder. JSON's strings are YAML's too."""
    names = "".join(f"  {n}: {json.dumps(name)}\n" for n, name in enumerate(info.class_names))
    place = json.dumps(str(root.resolve()))
    return (
        f"path: {place}\ntrain: images/train\n"
        f"val: images/train  # give images with ground truth here\nnames:\n{names}"
    )


def mmseg_config(info: DatasetInfo, root: Path) -> str:
    """A piece of a configuration of mmsegmentation 1.x for such a folder."""
    return f"""data_root = {str(root.resolve())!r}
metainfo = dict(
    classes={info.label_names!r},
    palette={voc_palette(info.num_labels).tolist()!r},
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="BaseSegDataset",
        data_root=data_root,
        data_prefix=dict(img_path="img_dir/train", seg_map_path="ann_dir/train"),
        img_suffix=".jpg",
        seg_map_suffix=".png",
        reduce_zero_label=False,
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
model = dict(decode_head=dict(num_classes={info.num_labels}))
"""
