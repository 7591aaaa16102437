"""The log of a run, and what the screen shows."""

import json
import logging
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import PROJECT


@pytest.fixture
def call(sample, classifier_file, tiny_run, tmp_path, capsys):
    """Makes the CAMs of one image: exit code, screen, lines of errors."""

    def run(*options):
        given = ("--voc12_root", sample.root, "--result_dir", tmp_path / "result", "--limit", 1)
        given += ("--cam_weights_name", classifier_file)
        passes = () if any("pass" in str(word) for word in options) else ("--make_cam_pass",)
        capsys.readouterr()
        code = tiny_run(*given, *passes, *options)
        said = capsys.readouterr()
        return code, said.out, [x for x in said.err.splitlines() if x.startswith("error: ")]

    return run


@pytest.mark.parametrize(
    "make", [b"\xff\xd8\xff\xe0 a photograph", b"my notes", os.mkfifo, os.mkdir]
)
def test_what_others_made_is_no_log(call, tmp_path, make):
    path = tmp_path / "result" / "run.log"
    path.parent.mkdir()
    make(path) if callable(make) else path.write_bytes(make)
    code, _, (line,) = call()
    assert code == 2 and f"{path}: is not a log of this program" in line
    assert callable(make) or path.read_bytes() == make


def test_a_log_is_continued_with_all_options_and_ends_with_its_run(call, tmp_path):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    for runs in (1, 2):
        code, screen, _ = call("--beta", 8)
        root.warning("said by others")
        assert code == 0 and (root.handlers, root.level) == before
        log = (tmp_path / "result" / "run.log").read_text()
        assert log.startswith("RIB run log\n") and log.count("RIB run log") == 1
        assert log.count(" all options: ") == runs and "said by others" not in log
    shown = json.loads(re.search(r" options: (.*)", screen)[1])
    assert shown["beta"] == 8.0 and shown["limit"] == 1 and "seed_power" not in shown
    recorded = json.loads(re.search(r" all options: (.*)", log)[1])
    assert recorded["beta"] == 8.0 and recorded["seed_power"] == 1.3


def test_counts_and_places_are_named(call, tmp_path):
    call("--make_recam_pass", "--visualize", 1)
    _, said, _ = call("--make_cam_pass", "--eval_cam_pass", "--visualize", 1)
    cam = tmp_path / "result" / "cam"
    assert "make_cam: 1 image, 1 process on cpu, 1 thread each" in said
    assert f"eval_cam of {cam}: 1 image in " in said
    assert not re.search(r"\b1 (images|processes|threads)\b", said)
    assert re.search(f"pictures +{tmp_path / 'result' / 'visualize'}\n", said)


def test_a_name_that_is_not_utf8_is_logged_without_a_traceback(tmp_path, sample, classifier_file):
    folder = os.fsencode(tmp_path / "r") + b"\xff"
    words = ["--voc12_root", sample.root, "--result_dir", folder, "--limit", "1", "--make_cam_pass",
             "--cam_weights_name", classifier_file, "--check", "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    end = subprocess.run([sys.executable, "run_sample.py", *words], cwd=PROJECT,
                         capture_output=True, env=environment)  # fmt: skip
    assert end.returncode == 0 and b"Traceback" not in end.stderr + end.stdout
