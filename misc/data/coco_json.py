"""Instances in COCO's JSON: images, categories, and one annotation for each mask."""

import numpy as np
from pycocotools import mask as coco_mask

LOWEST = 1e-5  # score of what is left out: fragments


def polygons(mask: np.ndarray) -> list[list[float]]:
    """The outlines of a mask H x W bool: x, y, x, y, ... of pixel centres, the first vertex twice.

    Vertices lie halfway between a pixel inside and one outside, so that corners are cut. Holes are
    outlines of their own. Pixels inside that meet at a corner are apart. Coordinates below 0 are 0.
    """
    from skimage.measure import find_contours  # loads slowly, and is rarely asked for

    outlines = find_contours(np.pad(mask, 1).astype(float), 0.5)
    return [np.maximum(outline[:, ::-1] - 1, 0).ravel().tolist() for outline in outlines]


def run_lengths(mask: np.ndarray) -> dict[str, object]:
    """A mask H x W bool as COCO's compressed run lengths."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


FORMS = {"rle": run_lengths, "polygons": polygons}  # of a mask


def annotation(
    mask: np.ndarray, label: int, form: str = "rle", **more: object
) -> dict[str, object]:
    """The entry of an instance. mask: H x W bool. label: class + 1. form: a name of FORMS."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    left, top = float(columns[0]), float(rows[0])
    box = [left, top, columns[-1] + 1 - left, rows[-1] + 1 - top]
    return {
        **more, "category_id": label, "iscrowd": 0, "area": int(mask.sum()),
        "bbox": list(map(float, box)), "segmentation": FORMS[form](mask),
    }  # fmt: skip


def dataset(
    description: str, images: list[dict], annotations: list[dict], class_names: tuple[str, ...]
) -> dict[str, object]:
    """A whole file; the ids of the categories are class + 1.

    pycocotools 2.0.9 and 2.0.10 ask for `info`; others for a licence and a supercategory.
    """
    names = enumerate(class_names, start=1)
    return {
        "info": {"description": description},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "none"} for i, name in names],
    }
