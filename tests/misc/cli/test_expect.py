"""`--expect`: scores inside and outside of the ranges that are expected."""

import json
from types import SimpleNamespace

import pytest

from misc.cli import expect
from misc.cli.options import EXPECTED
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
    return SimpleNamespace(result_dir=tmp_path, expect=path, expect_record=path)


def test_what_was_recorded_is_reproduced(args, tmp_path):
    scored(tmp_path, RIB_seed=0.5185, pseudo_masks=0.6454)
    expect.record(args)
    (entry,) = expect.load_expected(args.expect)
    assert entry["rows"]["RIB seed"] == {"low": 51.35, "high": 52.35, "note": "recorded 51.85"}
    assert entry["options"] == {"RIB_iter": 3}  # places are others elsewhere
    assert expect.run(args) == ""
    scored(tmp_path, RIB_seed=0.513)
    assert "not reproduced: RIB seed" in expect.run(args)
    expect.record(args)  # in place of what was there of these images
    assert len(expect.load_expected(args.expect)) == 1 and expect.run(args) == ""


def test_instances_which_do_not_say_their_dataset_are_judged_too(args, tmp_path):
    scored(tmp_path, RIB_seed=0.5185, instances_AP50=0.2)
    path = tmp_path / "scores.json"
    content = json.loads(path.read_text())
    del content["rows"]["instances AP50"]["dataset"]
    path.write_text(json.dumps(content))
    expect.record(args)
    assert expect.run(args) == ""
    scored(tmp_path, instances_AP50=0.9)
    assert "not reproduced: instances AP50" in expect.run(args)


def test_other_images_have_no_expectation(args, tmp_path):
    scored(tmp_path, RIB_seed=0.5)
    expect.record(args)
    content = json.loads(args.expect.read_text())
    content["expected"][0]["list_digest"] = "cd"
    args.expect.write_text(json.dumps(content))
    assert "has no scores of these images" in expect.run(args)


def test_the_papers_ranges_are_for_the_official_lists_alone():
    expected = expect.load_expected(EXPECTED)
    score = {"thresholds": [0.3], "miou": [0.565], "best": 0, "dataset": "voc12", "official": True}
    miou, wanted = expect.judged(score, "RIB seed", expected)
    assert wanted["low"] < 56.5 < wanted["high"] and miou == pytest.approx(56.5)
    assert expect.judged({**score, "official": False}, "RIB seed", expected)[1] is None
    assert expect.judged({**score, "dataset": "coco14"}, "RIB seed", expected)[1]["high"] < 40


@pytest.mark.parametrize("text", ["", "[]", '{"made_by": "RIB expected scores"}', '{"made_by": 3}'])
def test_another_file_says_nothing_of_scores(args, text):
    args.expect.write_text(text)
    with pytest.raises(UserError, match="does not say what scores are expected"):
        expect.check(args)
