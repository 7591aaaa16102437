"""misc/data/exports.py against the recorded annotations."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from misc.data.exports import LOWEST, annotation


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("instance_eval.npz")


def test_recorded_annotations(recorded):
    masks, kinds = recorded["coco_mask"].astype(bool), recorded["coco_class"]
    kept = [i for i, score in enumerate(recorded["coco_score"]) if score >= LOWEST]
    entries = [annotation(masks[i], int(kinds[i]) + 1) for i in kept]
    assert [entry["area"] for entry in entries] == recorded["coco_area"].tolist()
    assert [entry["bbox"] for entry in entries] == recorded["coco_bbox"].tolist()
    # The original writes 0-based classes beside categories that start at 1.
    assert [entry["category_id"] - 1 for entry in entries] == recorded["coco_category_id"].tolist()
    ends = np.cumsum(recorded["coco_polygon_length"])[:-1]
    polygons = iter(np.split(recorded["coco_polygon_xy"], ends))
    for entry, count in zip(entries, recorded["coco_n_polygons"].tolist(), strict=True):
        mask = np.pad(coco_mask.decode(entry["segmentation"]), 1)
        for polygon in (next(polygons) for _ in range(count)):
            # The vertices lie halfway between a pixel inside and one outside, or were cut at 0.
            x, y = polygon.reshape(-1, 2)[(polygon.reshape(-1, 2) > 0).all(axis=1)].T + 1
            low, high = np.floor([y, x]).astype(int), np.ceil([y, x]).astype(int)
            assert (mask[tuple(low)] != mask[tuple(high)]).all()
