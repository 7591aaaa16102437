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
def call(on_copy, classifier_file):
    """Makes the CAMs of one image, or runs the given steps."""

    def run(*options):
        passes = () if any("pass" in str(word) for word in options) else ("--make_cam_pass",)
        return on_copy("--limit", 1, "--cam_weights_name", classifier_file, *passes, *options)

    return run


@pytest.mark.parametrize(
    "make", [b"\xff\xd8\xff\xe0 a photograph", b"my notes", os.mkfifo, os.mkdir]
)
def test_what_others_made_is_no_log(call, tmp_path, make):
    path = tmp_path / "result" / "run.log"
    path.parent.mkdir()
    make(path) if callable(make) else path.write_bytes(make)
    code, (line,), _ = call()
    assert code == 2 and f"{path}: is not a log of this program" in line
    assert callable(make) or path.read_bytes() == make


def test_a_log_is_continued_with_all_options_and_ends_with_its_run(call, tmp_path):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    for runs in (1, 2):
        code, _, screen = call("--beta", 8)
        root.warning("said by others")
        assert code == 0 and (root.handlers, root.level) == before
        log = (tmp_path / "result" / "run.log").read_text()
        assert log.startswith("RIB run log\n") and log.count("RIB run log") == 1
        assert log.count(" all options: ") == runs and "said by others" not in log
    shown = json.loads(re.search(r" options: (.*)", screen)[1])
    assert shown["beta"] == 8.0 and shown["limit"] == 1 and "seed_power" not in shown
    assert " steps: make_cam\n" in screen
    assert "[1/1] make_cam: " in log and "[1/1] make_cam: " not in screen  # the file has more
    recorded = json.loads(re.search(r" all options: (.*)", log)[1])
    assert recorded["beta"] == 8.0 and recorded["seed_power"] == 1.3


def test_a_name_that_is_not_utf8_is_logged_without_a_traceback(tmp_path, sample, classifier_file):
    folder = os.fsencode(tmp_path / "r") + b"\xff"
    words = ["--voc12_root", sample.root, "--result_dir", folder, "--limit", "1", "--make_cam_pass",
             "--cam_weights_name", classifier_file, "--check", "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    end = subprocess.run([sys.executable, "run_sample.py", *words], cwd=PROJECT,
                         capture_output=True, env=environment)  # fmt: skip
    assert end.returncode == 0 and b"Traceback" not in end.stderr + end.stdout
