"""tests/tools/faults.py: its comparison, and a sample of its scenarios on a short run."""

import random
from pathlib import Path

import pytest

from tests.tools.fault_runs import CHECKPOINT, Bench, checksums, differences
from tests.tools.faults import kill


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_no_result_is_lost(tmp_path):
    options = ("--cam_weights_name", CHECKPOINT, "--visualize", "0")
    bench = Bench(tmp_path, random.Random(0), 1, ("make_cam",), options)
    bench.prepare()
    kill(bench, tmp_path / "result")
    bench.finish(tmp_path / "result")
    assert not bench.problems, bench.problems


@pytest.fixture
def results(tmp_path):
    (tmp_path / "cam").mkdir()
    for name in ("cam/a.npy", "cam/b.npy", "res50_cam.pth", "run.log"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize("cut_short", [False, True])
def test_every_difference_is_found(results, cut_short):
    """A run that was cut short may lack files, and have unfinished ones, but no half ones."""
    expected = checksums(results)
    assert set(expected) == {"cam/a.npy", "cam/b.npy", "res50_cam.pth"}
    (results / "run.log").write_text("other times")
    assert differences(expected, checksums(results), cut_short) == []
    (results / "cam" / "a.npy").write_text("cam/a.np")
    (results / "cam" / "b.npy").unlink()
    (results / "cam" / "c.npy").touch()
    unfinished = "cam/.d.npy.host-1-0.tmp.npy"
    (results / unfinished).touch()
    found = ["different: cam/a.npy", "left over: cam/c.npy"]
    if not cut_short:
        found = [found[0], f"left over: {unfinished}", found[1], "missing: cam/b.npy"]
    assert differences(expected, checksums(results), cut_short) == found


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_in_one_line(tiny_run, sample, tmp_path, capsys, monkeypatch):
    def on_a_full_disk(handler):
        Path(handler.baseFilename).touch()
        return open("/dev/full", "w")

    monkeypatch.setattr("misc.cli.log._LogFile._open", on_a_full_disk)
    assert tiny_run("--voc12_root", sample.root, "--result_dir", tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stopped: ") and "No space left" in line and "same command" in line
