"""`--expect`: scores inside and outside of the ranges that are expected."""

import json
from types import SimpleNamespace

import pytest

from misc.cli import expect
from misc.cli.flags import EXPECTED
from misc.errors import UserError
from misc.storage.scores import save_score


def scored(folder, **rows):
    for row, miou in rows.items():
        score = {"thresholds": [0.3], "miou": [miou], "best": 0, "dataset": "voc12", "images": 2}
        score |= {"list_digest": "ab", "official": False, "options": {"RIB_iter": 3, "x": "a/b"}}
        save_score(folder, row.replace("_", " "), score)


@pytest.fixture
def args(tmp_path):
    path = tmp_path / "expected.json"
    return SimpleNamespace(result_dir=tmp_path, expect=path)


def expects(args, digest="ab", **rows):
    """Write a file that expects rows of the images of a list within half a point."""
    ranges = {
        row.replace("_", " "): {"low": 100 * m - 0.5, "high": 100 * m + 0.5}
        for row, m in rows.items()
    }
    entry = {"dataset": "voc12", "images": 2, "list_digest": digest, "rows": ranges}
    text = json.dumps({"made_by": "RIB expected scores", "expected": [entry]})
    args.expect.write_text(text)


def test_scores_outside_of_their_range_are_not_reproduced(args, tmp_path):
    scored(tmp_path, RIB_seed=0.5185, pseudo_masks=0.6454)
    expects(args, RIB_seed=0.5185, pseudo_masks=0.6454)
    assert expect.run(args) == ""
    scored(tmp_path, RIB_seed=0.513)
    assert expect.run(args).endswith("not reproduced: RIB seed")


def test_instances_which_do_not_say_their_dataset_are_judged_too(args, tmp_path):
    scored(tmp_path, RIB_seed=0.5185, instances_AP50=0.2)
    path = tmp_path / "scores.json"
    content = json.loads(path.read_text())
    del content["rows"]["instances AP50"]["dataset"]
    path.write_text(json.dumps(content))
    expects(args, RIB_seed=0.5185, instances_AP50=0.2)
    assert expect.run(args) == ""
    path.unlink()  # as it is now, it is no longer of this program
    scored(tmp_path, instances_AP50=0.9)
    assert "not reproduced: instances AP50" in expect.run(args)


def test_other_images_have_no_expectation(args, tmp_path):
    scored(tmp_path, RIB_seed=0.5)
    expects(args, digest="cd", RIB_seed=0.5)
    assert "has no scores of these images" in expect.run(args)


def test_the_papers_ranges_are_for_the_official_lists_alone():
    expected = expect.load_expected(EXPECTED)
    score = {"thresholds": [0.3], "miou": [0.565], "best": 0, "dataset": "voc12", "official": True}
    miou, wanted = expect.judged(score, "RIB seed", expected)
    assert wanted["low"] < 56.5 < wanted["high"] and miou == pytest.approx(56.5)
    assert expect.judged({**score, "official": False}, "RIB seed", expected)[1] is None
    assert expect.judged({**score, "dataset": "coco14"}, "RIB seed", expected)[1]["high"] < 40


@pytest.mark.parametrize(
    ("row", "figures"),
    [("pseudo masks, CAM", (66.3, 66.0, 65.9, 64.9)), ("pseudo masks", (69.0, 69.9)),
     ("instances AP50, CAM", (37.7, 35.7, 32.4)), ("segmentation + CRF", (65.3, 68.3))],
)  # fmt: skip
def test_the_ranges_hold_what_faithful_runs_of_others_gave(row, figures):
    for figure in figures:
        score = {"miou": [figure / 100], "best": 0, "dataset": "voc12", "official": True}
        _, wanted = expect.judged(score, row, expect.load_expected(EXPECTED))
        assert wanted["low"] <= figure <= wanted["high"], figure


@pytest.mark.parametrize("text", ["", "[]", '{"made_by": "RIB expected scores"}', '{"made_by": 3}'])
def test_another_file_says_nothing_of_scores(args, text):
    args.expect.write_text(text)
    with pytest.raises(UserError, match="does not say what scores are expected"):
        expect.check(args)
