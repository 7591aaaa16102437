import shutil

import numpy as np
import pytest

from misc.cams import load_cam, save_cam
from misc.labels import read_label_png, save_label_png
from misc.storage.cam_files import save_dict
from misc.storage.scores import load_scores, save_score
from tests.tools.compare_results import main

ID = "2012_000001"


@pytest.fixture
def folders(tmp_path, classifier_file):
    """Two result folders of the same content."""
    first, second = tmp_path / "a", tmp_path / "b"
    for name in ("cam_plain", "cam", "sem_seg", "lists"):
        (first / name).mkdir(parents=True)
    cam = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 4, 4)
    for name in ("cam_plain", "cam"):
        save_cam(first / name / f"{ID}.npy", np.array([3]), cam, cam)
    save_label_png(first / "sem_seg" / f"{ID}.png", np.zeros((4, 4), np.uint8))
    save_score(first, "CAM seed", {"thresholds": [0.1], "miou": [0.5], "best": 0})
    (first / "ins_seg").mkdir()
    save_dict(first / "ins_seg" / f"{ID}.npy", {"score": np.ones(1, np.float32)})
    shutil.copy(classifier_file, first / "res50_cam.pth")
    (first / "lists" / "train.txt").write_text(f"{ID}\n")
    shutil.copytree(first, second)
    return first, second


def test_the_same_results_are_identical(folders, capsys):
    assert main(list(map(str, folders))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "first stage that differs: none"
    assert len(lines) == 8 and all("identical (1 files)" in line for line in lines[:-1])


def test_the_first_stage_that_differs_is_named_and_by_how_much(folders, capsys):
    second = folders[1]
    maps = load_cam(second / "cam" / f"{ID}.npy")
    save_cam(second / "cam" / f"{ID}.npy", **{**maps, "cam": maps["cam"] * np.float32(0.75)})
    mask = read_label_png(second / "sem_seg" / f"{ID}.png").copy()
    mask[0] = 4
    save_label_png(second / "sem_seg" / f"{ID}.png", mask)
    save_score(second, "CAM seed", {**load_scores(second)["CAM seed"], "miou": [0.4]})
    assert main(list(map(str, folders))) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "first stage that differs: RIB maps"
    said = {line[:22].strip(): line for line in lines}
    assert f"1 of 1 files differ: 0.25, cam/{ID}.npy" in said["RIB maps"]
    assert f"1 of 1 files differ: 0.25, sem_seg/{ID}.png" in said["pseudo masks"]
    assert "1 of 1 files differ: 0.1, scores.json" in said["scores"]


def test_folders_without_results_are_an_error(tmp_path, folders, capsys):
    assert main([str(tmp_path / "x"), str(tmp_path / "y")]) == 2
    (folders[0] / "res50_cam.pth").write_bytes(b"no network")
    assert main(list(map(str, folders))) == 2
    assert capsys.readouterr().err.count("error: ") == 2
