"""misc/instances.py and misc/instance_metrics.py against the recorded labels and scores."""

import numpy as np
import pytest
import torch

from misc.instance_metrics import InstanceScores, mask_ious, objects_of
from misc.instances import (
    centroids,
    clusters,
    decided,
    detections,
    instance_maps,
    instance_scores,
    instances,
)
from tests.conftest import recorded_names

IMAGES = recorded_names("instance_labels.npz", "_edge")


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("instance_labels.npz")


def config_of(data):
    return dict(zip(data["config_names"].tolist(), data["config"].tolist(), strict=True))


def same(found, data, prefix):
    np.testing.assert_allclose(found.score, data[f"{prefix}_det_score"], atol=1e-4)
    assert np.array_equal(found.mask, data[f"{prefix}_det_mask"])
    assert np.array_equal(found.classes, data[f"{prefix}_det_class"])
    assert found.mask.sum(axis=(1, 2)).tolist() == data[f"{prefix}_det_area"].tolist()


@pytest.mark.parametrize("image", IMAGES)
def test_recorded_centroids_and_clusters(recorded, image):
    field = recorded[f"{image}_dp"]
    ends = centroids(field)
    np.testing.assert_allclose(ends, recorded[f"{image}_centroids_raw"], atol=1e-4)
    assert np.array_equal(np.rint(ends), recorded[f"{image}_centroids"])
    groups = clusters(field, ends)
    assert np.array_equal(groups, recorded[f"{image}_cluster"])
    assert groups.max() + 1 == recorded[f"{image}_n_clusters"]
    maps = instance_maps(recorded[f"{image}_cam"], groups)
    expected = recorded[f"{image}_instance_cam"]
    assert np.array_equal(maps, expected.reshape(-1, *groups.shape))


def test_recorded_moves(recorded):
    ends = centroids(recorded["slow_dp"])
    np.testing.assert_allclose(ends, recorded["slow_centroids_raw"], atol=1e-4)
    assert np.array_equal(np.rint(ends), recorded["slow_centroids"])
    for name in (name for name in recorded.files if "_centroids_it" in name):
        image, _, moves = name.partition("_centroids_it")
        found = centroids(recorded[f"{image}_dp"], int(moves))
        assert np.array_equal(np.rint(found), np.rint(recorded[name])), name


@pytest.mark.parametrize("image", IMAGES)
def test_recorded_instances(recorded, image):
    size = tuple(int(n) for n in recorded[f"{image}_size"])
    cams, keys = recorded[f"{image}_cam"], recorded[f"{image}_keys"]
    edge = torch.from_numpy(recorded[f"{image}_edge"])
    groups = recorded[f"{image}_cluster"]
    scores = instance_scores(cams, groups, edge, size).numpy()
    if f"{image}_scores" in recorded:
        np.testing.assert_allclose(scores, recorded[f"{image}_scores"], atol=1e-4)
    else:
        rows = recorded[f"{image}_score_rows_index"]
        np.testing.assert_allclose(scores[:, rows], recorded[f"{image}_score_rows"], atol=1e-4)
    background = config_of(recorded)["background_threshold"]
    assert np.array_equal(decided(scores, background), recorded[f"{image}_label"])
    same(instances(cams, keys, recorded[f"{image}_dp"], edge, size, background), recorded, image)
    if f"{image}_bg_other" in recorded:
        other = float(recorded[f"{image}_bg_other"])
        found = instances(cams, keys, recorded[f"{image}_dp"], edge, size, other)
        same(found, recorded, f"{image}_other")


def test_recorded_parts(recorded):
    scores, labels = recorded["parts_score_map"], recorded["parts_label"]
    classes, limit = recorded["parts_class_id"], float(recorded["parts_min_fragment"])
    found = detections(scores, labels, classes, limit)
    np.testing.assert_allclose(found.score, recorded["parts_score"], atol=1e-6)
    assert np.array_equal(found.mask, recorded["parts_mask"])
    assert np.array_equal(found.classes, recorded["parts_class"])
    for name, other in (("limit0", 0), ("limit_huge", 1e9)):
        found = detections(scores, labels, classes, other)
        np.testing.assert_allclose(found.score, recorded[f"parts_score_{name}"], atol=1e-6)


def test_images_without_anything_to_find_have_no_instances(recorded):
    size, field = tuple(int(n) for n in recorded["c_size"]), recorded["c_dp"]
    edge, cams = torch.from_numpy(recorded["c_edge"]), recorded["c_cam"]
    for maps, keys in ((cams[:0], recorded["c_keys"][:0]), (0 * cams, recorded["c_keys"])):
        found = instances(maps, keys, field, edge, size)
        assert len(found.score) == 0 and found.mask.shape == (0, *size)
    assert len(instances(cams, recorded["c_keys"], field, edge, size, background=1.0).score) == 0


def scored(data, keep_zero=True):
    scores = InstanceScores()
    for i in range(int(data["n_images"])):
        keep = data[f"pred_score_{i}"] > (-1 if keep_zero else 0)
        part = InstanceScores()  # as of several processes
        part.add(
            data[f"pred_score_{i}"][keep], data[f"pred_mask_{i}"][keep],
            data[f"pred_class_{i}"][keep], data[f"gt_mask_{i}"], data[f"gt_label_{i}"],
        )  # fmt: skip
        scores.merge(part)
    return scores


def test_recorded_objects(golden):
    data = golden("instance_eval.npz")
    for i in range(int(data["n_images"])):
        masks, kinds = objects_of(data[f"gt_object_{i}"], data[f"gt_class_{i}"])
        assert np.array_equal(masks, data[f"gt_mask_{i}"].astype(bool))
        assert np.array_equal(kinds, data[f"gt_label_{i}"])
        ious = mask_ious(data[f"pred_mask_{i}"], masks)
        assert np.array_equal(ious, data[f"iou_{i}"].reshape(ious.shape))
    masks, kinds = objects_of(data["odd_object"], data["odd_class"])
    assert np.array_equal(masks, data["odd_mask"].astype(bool))
    assert np.array_equal(kinds, data["odd_label"])
    spoilt = data["odd_class"].copy()
    spoilt[masks[1]] = 0
    with pytest.raises(ValueError, match="background"):
        objects_of(data["odd_object"], spoilt)


@pytest.mark.parametrize("which, name", [(0, "50"), (1, "75")])
def test_recorded_average_precisions(golden, which, name):
    data = golden("instance_eval.npz")
    scores = scored(data)
    found = scores.average_precisions(which)
    np.testing.assert_allclose(found, data[f"ap_{name}"], rtol=0, atol=1e-12)
    assert np.nanmean(found) == pytest.approx(float(data[f"map_{name}"]), abs=1e-12)
    without = scored(data, keep_zero=False).average_precisions(which)
    np.testing.assert_allclose(without, data[f"ap_{name}_without_zero"], rtol=0, atol=1e-12)
    curves = scores.curves(which)  # at 101 levels of recall
    assert sorted(curves) == np.flatnonzero(~np.isnan(found)).tolist()
    assert all(abs(curve.mean() - found[kind]) < 0.02 for kind, curve in curves.items())
    for kind in range(len(found)):
        precision, recall = scores.curve(kind, which)
        if f"prec_{name}_{kind:02d}" in data and data[f"prec_{name}_{kind:02d}"].size:
            np.testing.assert_allclose(precision, data[f"prec_{name}_{kind:02d}"], atol=1e-12)
        if f"rec_{name}_{kind:02d}" in data:
            np.testing.assert_allclose(recall, data[f"rec_{name}_{kind:02d}"], atol=1e-12)
