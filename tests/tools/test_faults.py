"""tests/tools/faults.py: its comparison, and a sample of its scenarios on a short run."""

import random
from pathlib import Path

import pytest

from tests.tools.fault_runs import CHECKPOINT, Bench, FaultError, checksums, differences
from tests.tools.faults import kill, worker


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_no_result_is_lost(tmp_path):
    options = ("--cam_weights_name", CHECKPOINT, "--visualize", "0")
    bench = Bench(tmp_path, random.Random(0), 1, ("make_cam",), options)
    bench.prepare()
    for disturb in (kill, worker):
        disturb(bench, tmp_path / "result")
    bench.finish(tmp_path / "result")
    assert not bench.problems, bench.problems


@pytest.fixture
def results(tmp_path):
    (tmp_path / "cam").mkdir()
    for name in ("cam/a.npy", "cam/b.npy", "res50_cam.pth", "run.log"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_every_difference_is_found(results):
    expected = checksums(results)
    assert set(expected) == {"cam/a.npy", "cam/b.npy", "res50_cam.pth"}
    (results / "run.log").write_text("other times")
    assert differences(expected, checksums(results), cut_short=False) == []
    (results / "cam" / "a.npy").write_text("cam/a.np")
    (results / "cam" / "b.npy").unlink()
    (results / "cam" / ".c.npy.host-1-0.tmp.npy").touch()
    assert differences(expected, checksums(results), cut_short=False) == [
        "different: cam/a.npy",
        "left over: cam/.c.npy.host-1-0.tmp.npy",
        "missing: cam/b.npy",
    ]


def test_a_run_that_was_cut_short_may_lack_files_but_not_have_half_ones(results):
    expected = checksums(results)
    (results / "res50_cam.pth").unlink()
    (results / "res50_cam.partial.pth").touch()
    (results / "cam" / ".a.npy.host-1-0.tmp.npy").touch()
    assert differences(expected, checksums(results), cut_short=True) == []
    (results / "cam" / "a.npy").write_text("cam/")
    (results / "cam" / "c.npy").touch()
    found = differences(expected, checksums(results), cut_short=True)
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


def test_a_trial_records_its_fault_and_the_next_one_follows(tmp_path):
    bench = Bench(tmp_path, random.Random(0), kills=1)
    with bench.trial("first"):
        raise FaultError("is lost")
    with bench.trial("second"):
        pass
    assert bench.problems == ["first: is lost"]
