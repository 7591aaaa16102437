"""misc/cli/report.py and misc/storage/scores.py: the table of scores, and what is expected."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from misc.cli.flags import EXPECTED
from misc.cli.options import parse
from misc.cli.report import compare, expected_of, load_expected, table
from misc.errors import NotReproducedError, UserError
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


SPOILT = [
    {"miou": ["0.5", 0.1]}, {"miou": [float("nan"), 0.1]}, {"thresholds": [0.2, None]},
    {"best": True}, {"best": -1}, {"miou": {"0": 1, "1": 2}}, {"images": None}, {"list": 5},
    {"official": "no"}, {"iou": {"cat": "0.5"}}, {"ap": {"cat": []}}, {"runs": [None, "x"]},
    {"precision_at_recall": {"cat": 1}}, {"options": []}, {"list_digest": 7}, {"dataset": {}},
    {"thresholds": [1], "miou": [], "best": 0},
]  # fmt: skip
OTHERS = ["", "[]", "{}", '{"made_by": "RIB", "rows": {"a": {}}}', '{"made_by": "me", "rows": {}}']


@pytest.mark.parametrize("content", [
    *OTHERS, *(json.dumps({"made_by": "RIB", "rows": {"a": {**SCORE, **s}}}) for s in SPOILT),
])  # fmt: skip
def test_other_files_and_scores_of_other_types_are_refused(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with pytest.raises(UserError, match=f"{NAME}: is damaged, or was not made"):
        load_scores(tmp_path)


def test_damaged_scores_are_one_line_of_a_report(tmp_path, capsys, tiny_run):
    (tmp_path / NAME).write_text("{}")
    for more in ((), ("--report_html", "--dataset", "voc12"), ("--expect",)):
        assert tiny_run("--report", "--result_dir", tmp_path, *more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"error: {tmp_path / NAME}: is damaged, or was not made by this program" in line


def test_what_is_kept_of_confusion_matrices():
    good, bad = np.array([[8, 0], [2, 6]]), np.array([[4, 4], [4, 4]])
    kept = score_of(np.stack([bad, good]), [0.2, 0.3], ("background", "cat"))
    assert kept["best"] == 1 and kept["miou"][1] == pytest.approx((0.8 + 0.75) / 2)
    assert kept["precision"] == {"background": 0.8, "cat": 1.0}
    assert kept["recall"] == {"background": 1.0, "cat": 0.75}


@pytest.mark.parametrize("dataset", ["voc12", "coco14"])
def test_papers_figures_stand_beside_official_lists_alone(dataset):
    args = parse(["--dataset", dataset])
    own = table(args, {"RIB seed": SCORE, "pseudo masks": SCORE})
    assert "paper" not in own[0] and own[1].split() == ["RIB", "seed", "56.25", "0.30"]
    assert own[3] == "on 3 images of a.txt"
    official = table(args, {"RIB seed": {**SCORE, "official": True}, "CAM seed": SCORE})
    assert "paper" in official[0] and args.info.paper_note in official
    assert official[2].split()[-1] == str(args.info.paper_scores["RIB seed"])
    assert official[1].split() == ["CAM", "seed", "56.25", "0.30"]
    assert any("another ground truth" in line for line in official) == (dataset == "coco14")


def test_report_prints_what_was_scored_before(tmp_path, capsys, tiny_run):
    assert tiny_run("--report", "--result_dir", tmp_path) == 2
    assert "no scores yet; run --eval_cam_pass" in capsys.readouterr().err
    save_score(tmp_path, "RIB seed", SCORE)
    assert tiny_run("--report", "--result_dir", tmp_path) == 0
    assert "RIB seed                   56.25       0.30" in capsys.readouterr().out
    assert (tmp_path / "visualize" / "miou_over_threshold.png").is_file()


def scored(folder, miou, row="RIB seed", **more):
    score = {"thresholds": [0.3], "miou": [miou], "best": 0, "images": 2, "list_digest": "ab"}
    save_score(folder, row, {**score, "official": False, **more})


@pytest.fixture
def expects(tmp_path):
    """Options with a file that expects two scores of the images of a list within half a point."""

    def write(digest="ab"):
        rows = {r: {"low": 51.35, "high": 52.35} for r in ("RIB seed", "instances AP50")}
        entry = {"dataset": "voc12", "images": 2, "list_digest": digest, "rows": rows}
        content = {"made_by": "RIB expected scores", "expected": [entry]}
        (tmp_path / "expected.json").write_text(json.dumps(content))
        return SimpleNamespace(result_dir=tmp_path, expect=tmp_path / "expected.json")

    return write


def test_an_older_name_of_a_method_is_read(expects, tmp_path):
    args = expects()
    args.expect.write_text(args.expect.read_text().replace("RIB seed", "upper bound"))
    scored(tmp_path, 0.5185, "upper bound", dataset="voc12")
    assert set(load_scores(tmp_path)) == {"fully supervised"}
    compare(args)


def test_scores_outside_of_their_range_are_not_reproduced(expects, tmp_path):
    scored(tmp_path, 0.5185, dataset="voc12")
    compare(expects())
    scored(tmp_path, 0.2, "instances AP50")  # these do not say their dataset
    with pytest.raises(NotReproducedError, match="not reproduced: instances AP50$"):
        compare(expects())
    with pytest.raises(NotReproducedError, match="has no scores of these images"):
        compare(expects(digest="cd"))


FAITHFUL = {  # what runs of others gave
    "pseudo masks, CAM": (66.3, 66.0, 65.9, 64.9), "pseudo masks": (69.0, 69.9),
    "instances AP50, CAM": (37.7, 35.7, 32.4), "segmentation + CRF": (65.3, 68.3),
}  # fmt: skip


def test_the_papers_ranges_hold_faithful_runs_and_are_for_the_official_lists_alone():
    expected, score = load_expected(EXPECTED), {"dataset": "voc12", "official": True}
    for row, figures in FAITHFUL.items():
        wanted = expected_of(score, row, expected)
        assert all(wanted["low"] <= figure <= wanted["high"] for figure in figures), row
    assert expected_of({**score, "official": False}, "RIB seed", expected) is None
    assert expected_of({**score, "dataset": "coco14"}, "RIB seed", expected)["high"] < 40


@pytest.mark.parametrize("text", ["", "[]", '{"made_by": "RIB expected scores"}', '{"made_by": 3}'])
def test_another_file_says_nothing_of_scores(tmp_path, text):
    (tmp_path / "expected.json").write_text(text)
    with pytest.raises(UserError, match="does not say what scores are expected"):
        load_expected(tmp_path / "expected.json")
