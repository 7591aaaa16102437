"""tests/tools/faults.py: its comparison, and its main scenarios on a few images."""

import random
from pathlib import Path

import pytest

from tests.tools.fault_runs import (
    Bench,
    FaultError,
    differences,
    digests,
    unfinished_differences,
)
from tests.tools.faults import (
    flip_bits,
    keep_files_named_alike,
    kill_often,
    kill_workers,
    point_at_files_of_the_user,
    redo_beside_foreign_files,
    send_signals,
    start_twice,
)

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found in /proc"
)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_no_result_is_lost(tmp_path):
    steps = ("train_cam", "make_cam")
    options = ("--num_workers", "0", "--visualize", "0")
    bench = Bench(tmp_path, random.Random(0), kills=3, steps=steps, options=options)
    bench.prepare()
    for disturb in (kill_often, kill_workers, send_signals):
        disturb(bench, tmp_path / "result")
    bench.finish(tmp_path / "result")
    for disturb in (flip_bits, redo_beside_foreign_files):
        disturb(bench, tmp_path / "result")
    keep_files_named_alike(bench, tmp_path / "result")
    options = ("ins_seg_json", "seg_submission", "cam_weights_name")
    point_at_files_of_the_user(bench, tmp_path / "result", options)
    start_twice(bench, tmp_path / "two")
    assert not bench.problems, bench.problems


@pytest.fixture
def results(tmp_path):
    (tmp_path / "cam").mkdir()
    for name in ("cam/a.npy", "cam/b.npy", "res50_cam.pth", "run.log"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_every_difference_is_found(results):
    expected = digests(results)
    assert set(expected) == {"cam/a.npy", "cam/b.npy", "res50_cam.pth"}
    (results / "run.log").write_text("other times")
    assert differences(expected, digests(results)) == []
    (results / "cam" / "a.npy").write_text("cam/a.np")
    (results / "cam" / "b.npy").unlink()
    (results / "cam" / ".c.npy.host-1-0.tmp.npy").touch()
    assert differences(expected, digests(results)) == [
        "different: cam/a.npy",
        "left over: cam/.c.npy.host-1-0.tmp.npy",
        "missing: cam/b.npy",
    ]


def test_a_run_that_was_cut_short_may_lack_files_but_not_have_half_ones(results):
    expected = digests(results)
    (results / "res50_cam.pth").unlink()
    (results / "res50_cam.partial.pth").touch()
    (results / "cam" / ".a.npy.host-1-0.tmp.npy").touch()
    assert unfinished_differences(expected, digests(results)) == []
    (results / "cam" / "a.npy").write_text("cam/")
    (results / "cam" / "c.npy").touch()
    found = unfinished_differences(expected, digests(results))
    assert found == ["different: cam/a.npy", "left over: cam/c.npy"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_in_one_line(tiny_run, sample, tmp_path, capsys, monkeypatch):
    def on_a_full_disk(handler):
        Path(handler.baseFilename).touch()
        return open("/dev/full", "w")

    monkeypatch.setattr("misc.cli.log._LogFile._open", on_a_full_disk)
    assert tiny_run("--voc12_root", sample.root, "--result_dir", tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stopped: ") and "No space left" in line and "same command" in line


def test_a_trial_notes_its_fault_and_the_next_one_is_made(tmp_path):
    bench = Bench(tmp_path, random.Random(0), kills=1)
    with bench.trial("first"):
        raise FaultError("is lost")
    with bench.trial("second"):
        pass
    assert bench.problems == ["first: is lost"]
