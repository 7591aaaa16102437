"""Synthetic scenes: poses, sizes, and masks that are exact."""

import numpy as np
import pytest
from scipy import ndimage

from Dataset import scene as scene_module
from Dataset.make_sample import choose_objects
from Dataset.objects import OBJECT_CLASSES
from Dataset.scene import Pose, draw_scene


@pytest.mark.parametrize("mirrored", [False, True])
def test_pose_maps_there_and_back(mirrored):
    pose = Pose((40.0, 30.0), 25.0, tilt=0.3, mirrored=mirrored)
    x, y = pose.to_image((0.6, -0.2))
    u, v = pose.to_object(np.array(y), np.array(x))
    np.testing.assert_allclose([u, v], [0.6, -0.2], atol=1e-12)


def test_scenes_are_objects_of_the_wanted_size_with_disjoint_masks():
    shares = []
    for seed in range(40):
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


def test_a_head_is_hidden_or_cut_with_the_set_probability(monkeypatch):
    kind = next(kind for kind in OBJECT_CLASSES if kind.name == "cat")

    def draw(occlusion, cut):
        monkeypatch.setattr(scene_module, "OCCLUSION_PROBABILITY", occlusion)
        monkeypatch.setattr(scene_module, "CUT_PROBABILITY", cut)
        return draw_scene(np.random.default_rng(0), [kind], size=(190, 250)).instances[0].mask

    whole, hidden, cut = draw(0, 0), draw(1, 0), draw(0, 1)
    assert not (hidden & ~whole).any() and 0.6 < hidden.sum() / whole.sum() < 0.97
    assert not whole[:, [0, -1]].any() and cut[:, [0, -1]].any()
