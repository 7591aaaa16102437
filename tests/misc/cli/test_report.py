"""misc/cli/report.py and misc/storage/scores.py: what is kept of scores, and the table of it."""

import json

import numpy as np
import pytest

from misc.cli.options import parse
from misc.cli.report import table
from misc.errors import UserError
from misc.metrics import score_of
from misc.storage.scores import NAME, load_scores, save_score

SCORE = {"thresholds": [0.2, 0.3], "miou": [0.5, 0.5625], "best": 1, "images": 3, "list": "a.txt"}


def test_scores_of_rows_are_kept_beside_each_other(tmp_path):
    assert load_scores(tmp_path) == {}
    save_score(tmp_path, "RIB seed", {**SCORE, "iou": {"cat": float("nan")}})
    save_score(tmp_path, "CAM seed", SCORE)
    save_score(tmp_path, "RIB seed", {**SCORE, "best": 0, "iou": {"cat": float("nan")}})
    rows = load_scores(tmp_path)
    assert rows["CAM seed"] == SCORE and rows["RIB seed"]["best"] == 0
    assert rows["RIB seed"]["iou"] == {"cat": None}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"made_by": "RIB", "rows": {"a": {}}}', '{"made_by": "me", "rows": {}}',
     '{"made_by": "RIB", "rows": {"a": {"thresholds": [1], "miou": [], "best": 0}}}'],
)  # fmt: skip
def test_other_files_are_named(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with pytest.raises(UserError, match=f"{NAME}: is damaged, or was not made"):
        load_scores(tmp_path)


@pytest.mark.parametrize(
    "spoilt",
    [{"miou": ["0.5", 0.1]}, {"miou": [float("nan"), 0.1]}, {"miou": [0.5, 1e999]},
     {"thresholds": ["a", "b"]}, {"thresholds": [0.2, None]}, {"best": 1.0}, {"best": True},
     {"best": "1"}, {"best": -1}, {"miou": {"0": 1, "1": 2}}, {"images": "3"}, {"images": None},
     {"list": 5}, {"official": "no"}, {"iou": [0.5]}, {"iou": {"cat": "0.5"}}, {"ap": {"cat": []}},
     {"runs": [None, "x"]}, {"runs": 3}, {"precision_at_recall": {"cat": 1}}, {"options": []},
     {"list_digest": 7}, {"dataset": {}}],
)  # fmt: skip
def test_scores_of_other_types_and_nan_are_refused(tmp_path, spoilt):
    rows = {"RIB seed": {**SCORE, **spoilt}}
    (tmp_path / NAME).write_text(json.dumps({"made_by": "RIB", "rows": rows}))
    with pytest.raises(UserError, match=f"{NAME}: is damaged, or was not made"):
        load_scores(tmp_path)


def test_damaged_scores_are_one_line_of_a_report(tmp_path, capsys, tiny_run):
    rows = {"RIB seed": {**SCORE, "miou": [float("nan"), 0.5]}}
    (tmp_path / NAME).write_text(json.dumps({"made_by": "RIB", "rows": rows}))
    for more in ((), ("--report_html", "--dataset", "voc12"), ("--expect",)):
        assert tiny_run("--report", "--result_dir", tmp_path, *more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"error: {tmp_path / NAME}: is damaged, or was not made by this program" in line


def test_masks_that_were_not_cut_at_a_threshold_have_none_in_the_table():
    lines = table(
        parse([]), {"masks of d": {**SCORE, "thresholds": [None], "miou": [0.5], "best": 0}}
    )
    assert lines[1].split() == ["masks", "of", "d", "50.00", "-"]


def test_what_is_kept_of_confusion_matrices():
    good, bad = np.array([[8, 0], [2, 6]]), np.array([[4, 4], [4, 4]])
    kept = score_of(np.stack([bad, good]), [0.2, 0.3], ("background", "cat"))
    assert kept["best"] == 1 and kept["miou"][1] == pytest.approx((0.8 + 0.75) / 2)
    assert kept["precision"] == {"background": 0.8, "cat": 1.0}
    assert kept["recall"] == {"background": 1.0, "cat": 0.75}


@pytest.mark.parametrize("dataset", ["voc12", "coco14"])
def test_papers_figures_stand_beside_official_lists_alone(dataset):
    args = parse(["--dataset", dataset])
    plain = table(args, {"RIB seed": SCORE, "pseudo masks": SCORE})
    assert "paper" not in plain[0] and plain[1].split() == ["RIB", "seed", "56.25", "0.30"]
    assert plain[3] == "on 3 images of a.txt"
    official = table(args, {"RIB seed": {**SCORE, "official": True}, "CAM seed": SCORE})
    assert "paper" in official[0] and args.info.paper_note in official
    assert official[2].split()[-1] == str(args.info.paper_scores["RIB seed"])
    assert official[1].split() == ["CAM", "seed", "56.25", "0.30"]
    assert any("another ground truth" in line for line in official) == (dataset == "coco14")


def test_official_lists_are_known_by_their_images():
    info = parse([]).info
    official = info.official_ids("train")
    assert info.is_official("train", official) and info.is_official("train", official[::-1])
    assert not info.is_official("train", (*official[:-1], "2012_999999"))
    assert not info.is_official("train", official[:-1])
    coco = parse(["--dataset", "coco14"]).info
    assert coco.is_official("val14", ("000000000001",) * 40504)


def test_report_prints_what_was_scored_before(tmp_path, capsys, tiny_run):
    assert tiny_run("--report", "--result_dir", tmp_path) == 2
    assert "no scores yet; run --eval_cam_pass" in capsys.readouterr().err
    save_score(tmp_path, "RIB seed", SCORE)
    assert tiny_run("--report", "--result_dir", tmp_path) == 0
    assert "RIB seed                   56.25       0.30" in capsys.readouterr().out
    assert (tmp_path / "visualize" / "miou_over_threshold.png").is_file()
    assert json.loads((tmp_path / NAME).read_text())["made_by"] == "RIB"
