"""misc/metrics.py against golden outputs and matrices counted by hand."""

import numpy as np
import pytest

from misc import metrics
from misc.errors import UserError
from tests.conftest import recorded_numbers

IMAGES = recorded_numbers("eval.npz", r"cam_gt_(\d+)")


def stored(values):
    """Recorded scores hold -1 where they are undefined."""
    return np.where(values < 0, np.nan, values)


def grown(confusion, num_labels):
    grown = np.zeros((num_labels, num_labels), dtype=np.int64)
    grown[: len(confusion), : len(confusion)] = confusion
    return grown


@pytest.mark.parametrize("prefix", ["a", "b"])
def test_scores_are_the_recorded_ones(golden, prefix):
    data = golden("eval.npz")
    pairs = ((data[f"{prefix}_gt_{i}"], data[f"{prefix}_pred_{i}"]) for i in IMAGES)
    confusion = sum(metrics.confusion_matrix(*pair, 21) for pair in pairs)
    np.testing.assert_array_equal(confusion, grown(data[f"{prefix}_confusion"], 21))
    expected = np.full(21, np.nan)
    expected[: len(data[f"{prefix}_iou"])] = stored(data[f"{prefix}_iou"])
    np.testing.assert_allclose(metrics.iou(confusion), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.mean_iou(confusion), data[f"{prefix}_miou"], rtol=1e-12)


def test_pseudo_mask_scores_are_the_recorded_ones(golden):
    data = golden("eval.npz")
    pairs = ((data[f"a_gt_{i}"], data[f"seg_pred_{i}"]) for i in IMAGES)
    confusion = sum(metrics.pseudo_mask_confusion(*pair, 21) for pair in pairs)
    np.testing.assert_allclose(metrics.iou(confusion), stored(data["seg_iou"]), rtol=1e-12)
    np.testing.assert_allclose(metrics.mean_iou(confusion), data["seg_miou"], rtol=1e-12)
    false_positive, false_negative = metrics.false_positive_negative(confusion)
    background = (false_positive[0], false_negative[0])
    np.testing.assert_allclose(background, data["seg_bg_fp_fn"], rtol=1e-12)


def golden_scores(data, thresholds, without_classes=None):
    scores = metrics.ThresholdScores(thresholds, 21)
    for i in IMAGES:
        cams, keys = data[f"cam_high_res_{i}"], data[f"cam_keys_{i}"]
        if i == without_classes:
            cams, keys = np.zeros((0, 0, 0), dtype=np.float32), np.zeros(0, dtype=np.int64)
        scores.add(cams, keys, data[f"cam_gt_{i}"])
    return scores


def test_threshold_scores_are_the_recorded_ones(golden):
    data = golden("eval.npz")
    scores = golden_scores(data, data["cam_thresholds"])
    for confusion, expected, size in zip(
        scores.confusions, data["cam_confusion"], data["cam_confusion_sizes"], strict=True
    ):
        np.testing.assert_array_equal(confusion, grown(expected[:size, :size], 21))
    np.testing.assert_allclose(scores.mean_ious(), data["cam_miou"], rtol=1e-12)
    fractions = metrics.false_foreground(scores.counts)
    np.testing.assert_allclose(fractions, data["cam_false_fg_fraction"], rtol=1e-12)
    assert scores.best() == data["cam_miou"].argmax()


def test_coco_threshold_scores_are_the_recorded_ones(golden):
    data = golden("eval.npz")
    scores = golden_scores(data, data["coco_thresholds"], int(data["coco_empty_image"]))
    np.testing.assert_allclose(scores.mean_ious(), data["coco_miou_ignore"], rtol=1e-12)


@pytest.mark.parametrize(
    "truth, prediction", [([[0, 3]], [[0, 0]]), ([[0, 0]], [[0, 3]]), ([[0, 0]], [[0]])]
)
def test_wrong_labels_and_sizes_are_refused(truth, prediction):
    with pytest.raises(UserError):
        metrics.confusion_matrix(np.array(truth), np.array(prediction), 3)


def random_image(rng, num_labels, num_keys, shape=(9, 11)):
    """Coarse scores, so that ties between classes and with thresholds are frequent."""
    keys = np.sort(rng.choice(num_labels - 1, num_keys, replace=False))
    cams = (rng.randint(0, 11, (num_keys, *shape)) / 10).astype(np.float32)
    truth = rng.choice(np.append(np.arange(num_labels), 255), shape).astype(np.uint8)
    return cams, keys, truth


def test_threshold_is_compared_in_float32_and_ties_go_to_background():
    cams = np.array([[[0.3, 0.3000001, 0.29]]], dtype=np.float32)  # float32(0.3) > 0.3 as a double
    truth = np.array([[1, 1, 1]], dtype=np.uint8)
    scores = metrics.ThresholdScores([0.3], 2)
    scores.add(cams, np.array([0]), truth)
    assert scores.confusions.tolist() == [[[0, 0], [2, 1]]]


def test_merging_equals_adding_all():
    rng = np.random.RandomState(1)
    images = [random_image(rng, 5, 2) for _ in IMAGES]
    together, *parts = (metrics.ThresholdScores([0.2, 0.5], 5) for _ in range(3))
    for index, image in enumerate(images):
        together.add(*image)
        parts[index % 2].add(*image)
    parts[0].merge(parts[1])
    np.testing.assert_array_equal(parts[0].confusions, together.confusions)
    with pytest.raises(ValueError):
        parts[0].merge(metrics.ThresholdScores([0.2, 0.6], 5))


def test_threshold_scores_refuse_what_does_not_fit():
    cams = np.zeros((1, 2, 2), dtype=np.float32)
    truth = np.zeros((2, 2), dtype=np.uint8)
    scores = metrics.ThresholdScores([0.2, 0.5], 5)
    with pytest.raises(UserError, match="2 x 3"):
        scores.add(cams, np.array([0]), np.zeros((2, 3), dtype=np.uint8))
    with pytest.raises(UserError, match="label 7 in the ground truth"):
        scores.add(cams, np.array([0]), np.array([[0, 0], [7, 255]], dtype=np.uint8))
    with pytest.raises(UserError, match="label 4 in the CAM keys"):
        scores.add(cams, np.array([4]), truth)
    with pytest.raises(ValueError, match="ascend"):
        metrics.ThresholdScores([0.5, 0.2], 5)
    assert not scores.confusions.any()


def test_average_precision_of_a_ranking_by_hand():
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5], [0.7, 0.3, 0.5], [0.6, 0.4, 0.5]])
    present = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]])
    found = metrics.average_precision(scores, present)
    assert found[:2] == pytest.approx([(1 + 2 / 3) / 2, (1 + 2 / 4) / 2]) and np.isnan(found[2])
