"""The synthetic sample in the layout of MS COCO: what is annotated, and how."""

import numpy as np
from pycocotools import mask as coco_mask

from coco14.dataset import CATEGORY_IDS, CLASS_NAMES
from Dataset.coco_layout import CROWD, annotations_of
from Dataset.scene import Instance, Scene


def instance(name, box, shape=(30, 40)):
    mask = np.zeros(shape, bool)
    mask[box] = True
    return Instance(name, mask)


def scene(*instances):
    return Scene(np.zeros((30, 40, 3), np.uint8), instances)


def test_many_objects_of_a_class_are_one_crowd():
    boxes = [np.s_[20:26, 2 + 9 * i : 8 + 9 * i] for i in range(CROWD)]
    herd = [instance("zebra", box) for box in boxes]
    bear = instance("teddy bear", np.s_[2:10, 10:20])
    single, crowd = annotations_of(scene(*herd, bear))
    assert (single["iscrowd"], crowd["iscrowd"]) == (0, 1)
    assert crowd["category_id"] == CATEGORY_IDS[CLASS_NAMES.index("zebra")]
    runs = coco_mask.frPyObjects(crowd["segmentation"], 30, 40)
    pixels = coco_mask.decode(runs).astype(bool)
    assert pixels.sum() == crowd["area"] > CROWD * 36
    assert all(pixels[one.mask].all() for one in herd) and not pixels[bear.mask].any()
    assert len(list(annotations_of(scene(*herd[1:], bear)))) == CROWD
