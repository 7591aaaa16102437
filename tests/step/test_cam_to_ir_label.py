"""step/cam_to_ir_label.py against recorded labels, and its rules one by one."""

import numpy as np

from step import cam_to_ir_label
from step.cam_to_ir_label import confident_labels


def test_labels_are_the_recorded_ones(golden):
    data = golden("crf.npz")
    fg_th, bg_th = data["conf_thresholds"]
    cams, keys = data["cams_high_res"], data["cams_keys"]
    labels = confident_labels(data["img"], cams, keys, fg_th, bg_th)
    assert labels.dtype == np.uint8 and (labels == data["conf"]).mean() > 0.999
    assert set(np.unique(labels)) == set(np.unique(data["conf"]))


def test_what_both_thresholds_say(monkeypatch):
    monkeypatch.setattr(cam_to_ir_label, "refine_label_maps", lambda _, maps, n_labels: maps)
    image = np.zeros((1, 6, 3), dtype=np.uint8)
    cams = np.array([[[0.9, 0.0, 0.3, 0.1, 0.35, 0.17]], [[0.2, 0.8, 0.2, 0.1, 0.0, 0.0]]])
    labels = confident_labels(image, cams.astype(np.float32), np.array([3, 11]), 0.35, 0.17)
    assert labels.tolist() == [[4, 12, 255, 0, 255, 0]]


def test_a_refined_foreground_wins_over_background(monkeypatch):
    """The CRF may say foreground at the high threshold where it says background at the low one."""
    answers = np.array([[[1, 0, 0]], [[0, 0, 1]]])
    monkeypatch.setattr(cam_to_ir_label, "refine_label_maps", lambda *_, n_labels: answers)
    image, cams = np.zeros((1, 3, 3), dtype=np.uint8), np.zeros((1, 1, 3), dtype=np.float32)
    assert confident_labels(image, cams, np.array([6]), 0.35, 0.17).tolist() == [[7, 0, 255]]


def test_an_image_without_classes_is_background():
    image = np.zeros((4, 5, 3), dtype=np.uint8)
    no_maps, no_keys = np.zeros((0, 0, 0), dtype=np.float32), np.zeros(0, dtype=np.int64)
    labels = confident_labels(image, no_maps, no_keys, 0.35, 0.17)
    assert labels.dtype == np.uint8 and labels.tolist() == np.zeros((4, 5)).tolist()
