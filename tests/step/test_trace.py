"""Traces: what is changed on purpose is named, and what machines explain is told from it."""

import json
import shutil

import numpy as np
import pytest

from misc.cams import load_cam, save_cam
from misc.cli.options import parse
from misc.errors import UserError
from step import trace
from tests.conftest import TINY


@pytest.fixture(scope="module")
def words(sample, classifier_file):
    steps = ["--make_cam_pass", "--make_recam_pass", "--limit", 2, "--animate", 1]
    return [*steps, "--voc12_root", sample.root, "--cam_weights_name", classifier_file]


@pytest.fixture(scope="module")
def first(words, tiny_run, tmp_path_factory):
    """Result folder of a run with a trace."""
    folder = tmp_path_factory.mktemp("trace") / "r"
    assert tiny_run(*words, "--result_dir", folder, "--trace") == 0
    return folder


def said(capsys, what: str) -> str:
    """What follows on the line of the output that starts so."""
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith(what)]
    return found[-1].removeprefix(what)


BIT, BEYOND = "first stage that is not the same to the bit: ", "first stage beyond its tolerance: "


def test_the_stages_are_in_the_order_of_the_method(first):
    _, stages = trace.load_trace(first / "trace.json")
    assert [stage.name for stage in stages] == [
        "lists", "image-level labels", "decoded photographs", "resized photographs", "random draws",
        "classifier", "plain maps", "maps after 1 of 2 iterations", "maps after 2 of 2 iterations",
        "maps of make_recam_with_RIB",
    ]  # fmt: skip
    assert len({stage.exact for stage in stages}) == len(stages)
    assert {len(stage.sketches) for stage in stages if stage.name.endswith("maps")} == {2}


def test_the_same_run_is_the_same_to_the_bit(first, words, tiny_run, tmp_path, capsys):
    options = ("--result_dir", tmp_path / "r", "--trace_compare", first / "trace.json")
    assert tiny_run(*words, *options) == 0
    assert said(capsys, BIT) == "none"


@pytest.mark.parametrize(
    ("change", "stage", "option"),
    [
        (("--RIB_lr", 1.0), "maps after 2 of 2 iterations", "RIB_lr is 8e-06 there and 1.0 now"),
        (("--precision", "bf16"), "plain maps", "precision is float32 there and bf16 now"),
        (("--max_long", 64), "resized photographs", "max_long is 96 there and 64 now"),
        (("--seed", 1), "random draws", "seed is 0 there and 1 now"),
    ],
)
def test_the_first_stage_that_an_option_changes_is_named(
    first, words, tiny_run, tmp_path, capsys, change, stage, option
):
    options = ("--result_dir", tmp_path / "r", "--trace_compare", first / "trace.json", *change)
    tiny_run(*words, *options)
    output = capsys.readouterr().out
    (line,) = [line for line in output.splitlines() if line.startswith(BIT)]
    assert line.removeprefix(BIT).startswith(stage)
    differs = [line for line in output.splitlines() if line.startswith("what differs between")]
    assert option in differs[0] and differs[0].count(" there and ") == 1


@pytest.mark.parametrize(("by", "code"), [(1e-6, 0), (0.05, 1)])
def test_other_bits_are_told_from_other_maps(first, words, tiny_run, tmp_path, capsys, by, code):
    """As other numbers of threads, processors and libraries make them."""
    shutil.copytree(first, tmp_path / "r")
    path = sorted((tmp_path / "r" / "cam").glob("*.npy"))[1]
    maps = load_cam(path)
    save_cam(path, **{**maps, "high_res": (maps["high_res"] * (1 - by)).astype(np.float32)})
    options = ("--result_dir", tmp_path / "r", "--trace_compare", first / "trace.json")
    assert tiny_run("--report", "--report_html", *words[2:], *options) == code
    output = capsys.readouterr()
    assert f"{BIT}maps of make_recam_with_RIB" in output.out
    named = "none" if code == 0 else "maps of make_recam_with_RIB"
    assert f"{BEYOND}{named}" in output.out
    assert ("beyond its tolerance: maps of" in output.err) == (code == 1)


def test_threads_are_named(first):
    there = trace.load_trace(first / "trace.json")
    words = [*TINY, "--num_threads", "2"]
    here = trace.environment(parse(words))
    changed = [trace.Stage(**{**vars(stage)}) for stage in there[1]]
    changed[6].exact = "0"
    lines, same = trace.verdict(there, (here, changed))
    assert same and f"{BIT}plain maps" in lines
    assert "threads of a process is 1 there and 2 now" in lines[-1]


def test_traces_are_put_beside_each_other(first, tmp_path, capsys):
    content = json.loads((first / "trace.json").read_text())
    content["environment"]["processor"] = "another one"
    content["stages"][6]["exact"] = "0123456789"
    content["stages"][9] |= {"exact": "abcdef0123", "sketches": {"a": {"shape": [1]}}}
    other = tmp_path / "elsewhere.json"
    other.write_text(json.dumps(content))
    assert trace.main([str(first / "trace.json"), str(other)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| stage | tolerance | trace | elsewhere |"
    digest = trace.load_trace(first / "trace.json")[1][0].exact[:8]
    assert lines[2] == f"| lists | 0 | `{digest}` | `{digest}` 0 |"
    assert lines[8].endswith("| `01234567` less than 1e-7 |")  # the plain maps
    assert lines[11].endswith("| `abcdef01` inf, beyond |")
    assert lines[12].startswith("elsewhere: processor is ") and lines[12].endswith(
        "another one here"
    )
    other.write_text("{}")
    assert trace.main([str(other)]) == 2
    assert "is not a trace" in capsys.readouterr().err


def test_another_file_is_no_trace(first, words, tiny_run, tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"made_by": "somebody", "stages": []}))
    options = ("--result_dir", tmp_path / "r", "--trace_compare", other)
    assert tiny_run(*words, *options) == 2
    assert "is not a trace" in capsys.readouterr().err
    other.write_text("{")
    with pytest.raises(UserError, match="is not a trace"):
        trace.load_trace(other)
