import logging

import numpy as np
import pytest

from misc.cams import save_cam
from misc.cli.options import parse
from misc.storage.scores import save_score
from step import suggest_thres
from tests.conftest import TINY


def test_the_threshold_parts_two_heaps():
    counts = np.zeros(256)
    counts[10:60], counts[170:240] = 50, 20
    assert 59 / 256 < suggest_thres.suggested(counts) <= 170 / 256
    counts[10:60], counts[170:240] = 0, 0
    counts[100], counts[110] = 5, 1
    assert 100 / 256 < suggest_thres.suggested(counts) < 111 / 256


@pytest.fixture
def args(tmp_path, sample):
    """Options of a run on two images, whose maps have 0.1 beside and 0.8 on the object."""
    (tmp_path / "list.txt").write_text("2012_000001\n2012_000002\n")
    (tmp_path / "r" / "cam_plain").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for image_id, level in (("2012_000001", 0.8), ("2012_000002", 0.7)):
        cam = np.full((1, 40, 40), 0.1, np.float32)
        cam[:, 10:20, 10:30] = level
        cam += rng.uniform(-0.05, 0.05, cam.shape).astype(np.float32)
        save_cam(tmp_path / "r" / "cam_plain" / f"{image_id}.npy", np.array([3]), cam, cam)
    return parse([*TINY, "--voc12_root", str(sample.root), "--result_dir", str(tmp_path / "r"),
                  "--recam", "none", "--infer_list", str(tmp_path / "list.txt")])  # fmt: skip


def test_maps_suggest_their_threshold(args, caplog):
    with caplog.at_level(logging.INFO):
        found = suggest_thres.run(args)
    assert list(found) == ["CAM seed"] and 0.149 < found["CAM seed"] < 0.65
    assert "suggested by the maps" in caplog.text and "mIoU" not in caplog.text


def test_where_scores_are_known_the_distance_from_the_best_is_said(args, caplog):
    score = {"thresholds": [0.0, 1.0], "miou": [0.5, 0.5], "best": 0}
    save_score(args.result_dir, "CAM seed", score)
    with caplog.at_level(logging.INFO):
        suggest_thres.run(args)
    assert "mIoU 50.00 % there, 0.00 below" in caplog.text
