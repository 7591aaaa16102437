"""Synthetic scenes: poses, sizes, and masks that are exact."""

import numpy as np
import pytest
from scipy import ndimage

from Dataset import scene as scene_module
from Dataset.make_sample import choose_objects
from Dataset.objects import OBJECT_CLASSES
from Dataset.scene import Pose, draw_scene


def test_scenes_are_objects_of_the_wanted_size_with_disjoint_masks():
    shares = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        objects = choose_objects(rng, seed)
        scene = draw_scene(rng, objects)
        assert [i.name for i in scene.instances] == [kind.name for kind in objects]
        masks = np.array([i.mask for i in scene.instances])
        assert masks.shape[1:] == scene.image.shape[:2] and masks.dtype == bool
        assert masks.sum(axis=0).max() == 1
        assert masks.mean(axis=(1, 2)).min() > 0.02  # big enough to be seen in the features
        shares.append(masks.any(axis=0).mean())
    assert 0.15 < np.quantile(shares, 0.1) and np.quantile(shares, 0.9) < 0.45


@pytest.mark.parametrize("kind", OBJECT_CLASSES, ids=lambda kind: kind.name)
def test_mask_of_an_object_is_what_was_painted(kind):
    canvas = np.full((150, 170, 3), -5.0, np.float32)
    pose = Pose((80.0, 70.0), 60.0, tilt=0.1)
    mask = scene_module._paint_object(np.random.default_rng(0), canvas, kind, pose)
    touched = (canvas != -5).any(axis=2)
    assert mask.any() and touched[mask].all()
    assert not touched[~ndimage.binary_dilation(mask, iterations=2)].any()
