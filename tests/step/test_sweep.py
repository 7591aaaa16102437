"""Sweeps: what is shared among points, what a summary says, and what is refused."""

import csv

import numpy as np
import pytest

from misc.cams import load_cam
from misc.cli.options import parse
from misc.metrics import counts_of, mean_iou
from misc.runtime import devices
from misc.storage.scores import load_scores
from step import sweep
from step.sweep_scores import Point, bootstrapped, mean_ious, rows_of
from tests.conftest import TINY


def call(*words) -> int:
    """`python -m step.sweep` in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "cpu_count", lambda: 1)
        try:
            return sweep.main([*TINY, *map(str, words)])
        except SystemExit as end:
            return end.code


@pytest.fixture(scope="module")
def swept(sample, classifier_file, tmp_path_factory):
    """Folder and command of a sweep over K = 1 and 2, the second of which is the current value."""
    folder = tmp_path_factory.mktemp("sweep") / "r"
    words = ["--voc12_root", sample.root, "--cam_weights_name", classifier_file, "--limit", 4]
    words += ["--result_dir", folder, "--over", "RIB_iter=1,2", "--resamples", 50]
    assert call(*words) == 0
    return folder, words


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_writes_a_table_and_a_plot(swept):
    rows = read(swept[0] / "sweep" / "RIB_iter" / "sweep.csv")
    assert [row["point"] for row in rows] == ["CAM", "RIB_iter=1", "RIB_iter=2"]
    assert rows[0]["miou"] == rows[1]["miou"] != rows[2]["miou"]  # the first maps are the CAM
    assert all(float(row["low"]) <= float(row["high"]) for row in rows)
    assert {row["images"] for row in rows} == {"4"}
    assert float(rows[2]["difference"]) == 0  # to itself: it has the current value
    assert (swept[0] / "sweep" / "RIB_iter" / "sweep.png").stat().st_size > 5000


def test_what_does_not_change_is_shared_and_nothing_is_made_again(swept):
    folder, words = swept
    assert [p.parent for p in folder.rglob("cam_plain/*.npy")] == [folder / "cam_plain"] * 4
    assert len(list((folder / "cam").glob("*.npy"))) == 4  # the ordinary run
    assert not (folder / "sweep" / "RIB_iter=2").exists()
    assert {"CAM seed", "RIB seed"} == set(load_scores(folder))
    first = sorted((folder / "cam").glob("*.npy"))[0]
    plain = load_cam(folder / "cam_plain" / first.name)["high_res"]
    assert np.array_equal(load_cam(folder / "sweep/RIB_iter=1/cam" / first.name)["high_res"], plain)
    made = {p: p.stat().st_mtime_ns for p in folder.rglob("*.npy")}
    assert call(*words) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.npy")} == made


@pytest.fixture
def words(sample, classifier_file):
    given = ("--voc12_root", sample.root, "--cam_weights_name", classifier_file, "--RIB_iter", 2)
    return [*TINY, *map(str, given)]


def test_points_of_a_grid_share_what_both_have(words, tmp_path):
    words += ["--result_dir", str(tmp_path)]

    def options(**chosen):
        return sweep.options_of(words, parse(words), chosen, "masks")

    args = options(RIB_iter="3", beta="8", score_th="0.4")
    assert args.plain_cam_out_dir == tmp_path / "cam_plain"
    assert args.cam_out_dir == tmp_path / "sweep" / "RIB_iter=3" / "cam"
    assert args.irn_weights_name == tmp_path / "sweep" / "RIB_iter=3" / "res50_irn.pth"
    assert args.sem_seg_out_dir == tmp_path / "sweep" / "RIB_iter=3,beta=8.0" / "sem_seg"
    args = options(beta="8.0")
    assert args.cam_out_dir == tmp_path / "cam" and args.sem_seg_out_dir.parent.name == "beta=8.0"
    args = options(cam_weights_name="a/b.pth")  # a given classifier is not trained
    assert not args.train_cam_pass and str(args.cam_weights_name) == "a/b.pth"
    assert args.plain_cam_out_dir.parents[1] == tmp_path / "sweep"


def test_every_preset_is_one_of_run_samples_options(words):
    base = parse(words)
    found = dict(sweep.axis(text, base) for text in sweep.PRESETS.values())
    for name, values in found.items():
        for value in values:
            sweep.options_of(words, base, {name: value}, "seed")
    assert found["RIB_lr"] == ("2e-06", "4e-06", "8e-06", "1.6e-05", "3.2e-05")
    assert found["RIB_batch_size"] == ("1", "2", "3")  # multiples of a small number may be equal


@pytest.mark.parametrize(("over", "complaint"), [
    ("RIB_iter", "is not OPTION=VALUE"),
    ("RIB_itre=1,2", "is not an option of run_sample.py"),
    ("cam_out_dir=a,b", "cannot be swept over"),
    ("RIB_iter=1,x", "'x' is not a number"),
    ("score_th=0.4,0.40", "is there twice"),
    ("device=cpu,cuda", "device cannot be swept over; no step of a sweep depends on it"),
    ("beta=8,10", "the maps do not depend on it; give --score masks"),
    ("cam_weights_name=a/b.pth;a_b.pth", "two points have the folder"),
    (("--preset", "K", "--over", "RIB_iter=1,2"), "--over RIB_iter: is a preset here too"),
])  # fmt: skip
def test_bad_sweeps_are_refused(sample, tmp_path, capsys, over, complaint):
    given = over if isinstance(over, tuple) else ("--over", over)
    assert call("--voc12_root", sample.root, "--result_dir", tmp_path / "r", *given) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_a_summary_of_others_is_in_the_way(sample, tmp_path, capsys):
    path = tmp_path / "r" / "sweep" / "RIB_iter" / "sweep.csv"
    path.parent.mkdir(parents=True)
    path.write_text("mine\n")
    words = ("--voc12_root", sample.root, "--result_dir", tmp_path / "r", "--over", "RIB_iter=1,2")
    assert call(*words) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert path.read_text() == "mine\n" and not (tmp_path / "r" / "lists").exists()


@pytest.fixture
def confusions():
    """Of 6 images at 3 thresholds with 4 labels, the last of which is nowhere."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 50, (6, 3, 4, 4))
    pixels[:, :, 3], pixels[:, :, :, 3] = 0, 0
    return pixels


def test_miou_of_weighted_images_is_that_of_their_confusion(confusions):
    weights = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 0, 3, 1, 0]], float)
    for row, weight in zip(mean_ious(counts_of(confusions), weights), weights, strict=True):
        whole = (weight[:, None, None, None] * confusions).sum(axis=0)
        np.testing.assert_allclose(row, mean_iou(whole))


def test_intervals_are_those_of_resampled_images():
    values = np.random.default_rng(1).normal(5, 2, 40)

    def mean(weights):
        return (weights @ values / weights.sum(axis=1))[None]

    ((value, low, high),) = bootstrapped(mean, 40, 4000, 0)
    half = 1.96 * values.std() / np.sqrt(40)
    assert value == pytest.approx(values.mean())
    assert [low, high] == pytest.approx([value - half, value + half], abs=0.12)
    assert np.isnan(bootstrapped(lambda w: w, 1, 10, 0)[0, 1])  # one image cannot be resampled


def test_differences_are_paired(confusions):
    """The same maps differ by nothing, however far the images spread."""
    counts, at = [counts_of(confusions)], np.arange(3) / 10
    first, same = (Point({"a": n}, counts, at, usual=n == 1, folder="") for n in (1, 2))
    rows = rows_of([same, first], 100, 0)
    assert list(rows["compared_with"]) == ["a=1", ""]
    assert rows["low"][0] < rows["high"][0]
    assert rows["difference_low"][0] == rows["difference_high"][0] == 0
