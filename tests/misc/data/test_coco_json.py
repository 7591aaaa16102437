"""misc/data/coco_json.py against the recorded annotations."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from misc.data.coco_json import LOWEST, annotation, dataset


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("instance_eval.npz")


def rotated(outline):
    """A closed outline (n, 2) from its smallest vertex on."""
    outline = outline[:-1]
    start = min(range(len(outline)), key=lambda i: tuple(outline[i]))
    return np.roll(outline, -start, axis=0)


def test_recorded_annotations(recorded):
    masks, kinds = recorded["coco_mask"].astype(bool), recorded["coco_class"]
    kept = [i for i, score in enumerate(recorded["coco_score"]) if score >= LOWEST]
    entries = [annotation(masks[i], int(kinds[i]) + 1, "polygons") for i in kept]
    assert [entry["area"] for entry in entries] == recorded["coco_area"].tolist()
    assert [entry["bbox"] for entry in entries] == recorded["coco_bbox"].tolist()
    # The original writes 0-based classes beside categories that start at 1.
    assert [entry["category_id"] - 1 for entry in entries] == recorded["coco_category_id"].tolist()
    lengths = recorded["coco_polygon_length"]
    outlines = np.split(recorded["coco_polygon_xy"], np.cumsum(lengths)[:-1])
    found = [outline for entry in entries for outline in entry["segmentation"]]
    counts = recorded["coco_n_polygons"].tolist()
    assert [len(entry["segmentation"]) for entry in entries] == counts
    for outline, expected in zip(found, outlines, strict=True):
        outline = np.reshape(outline, (-1, 2))
        assert np.array_equal(outline[0], outline[-1]) and len(outline) == len(expected)
        np.testing.assert_allclose(rotated(outline), rotated(np.reshape(expected, (-1, 2))))


def test_run_lengths_are_the_mask(recorded):
    for mask in recorded["coco_mask"].astype(bool):
        if mask.any():
            entry = annotation(mask, 3, id=7)
            assert np.array_equal(coco_mask.decode(entry["segmentation"]), mask)
            assert entry["id"] == 7 and entry["category_id"] == 3


def test_a_file_has_what_all_readers_ask_for():
    content = dataset("masks", [], [], ("cat", "dog"))
    assert content["info"] == {"description": "masks"} and content["licenses"] == []
    kinds = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert content["categories"] == [{**kind, "supercategory": "none"} for kind in kinds]
