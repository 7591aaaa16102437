"""The pipeline under torchrun: two ranks give what one process gives, also when one is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from Dataset.train_sample_classifier import SAMPLES
from tests.conftest import PROJECT, TINY

STEPS = ("train_cam", "make_recam_with_RIB", "eval_cam", "cam_to_ir_label", "train_irn",
         "train_seg", "make_seg", "eval_seg")  # fmt: skip


def options(sample, result_dir):
    """Trainings of 4 and 8 steps on labels that show objects."""
    weights = PROJECT / SAMPLES["voc"].checkpoint
    return [
        *TINY,
        *("--voc12_root", str(sample.root), "--result_dir", str(result_dir)),
        *("--imagenet_weights", str(weights), "--num_threads", "1"),
        *("--cam_num_epoches", "2", "--cam_learning_rate", "0.001"),
        *("--conf_fg_thres", "0.3", "--conf_bg_thres", "0.05", "--irn_num_epoches", "2"),
        *("--seg_init", str(weights), "--seg_label_dir", str(sample.root / "SegmentationClassAug")),
        *("--seg_crop_size", "65", "--seg_batch_size", "4", "--seg_preset", "clims"),
        *("--seg_iterations", "4", "--seg_learning_rate", "0.0001"),
        *(f"--{step}_pass" for step in STEPS),
    ]


class Ranks:
    """run_sample.py on two ranks that torchrun started."""

    def __init__(self, result_dir, *options, restarts=2):
        result_dir.mkdir(parents=True)
        self.screen = result_dir.parent / "screen.txt"
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        with self.screen.open("w") as screen:  # no pipe: nobody would read it meanwhile
            self.process = subprocess.Popen(
                [sys.executable, *launcher, "--max-restarts", str(restarts)]
                + ["-m", "tests.often_saving", *options],
                cwd=PROJECT,
                stdout=screen,
                stderr=subprocess.STDOUT,
            )

    def end(self):
        """Waits for the end; exit code and what was on the screen."""
        try:
            return self.process.wait(timeout=300), self.screen.read_text()
        finally:
            self.process.terminate()  # where it hangs; torchrun ends its ranks
            self.process.wait()


@pytest.fixture(scope="module")
def one_process(tiny_run, sample, tmp_path_factory):
    result_dir = tmp_path_factory.mktemp("one") / "result"
    assert tiny_run(*options(sample, result_dir)) == 0
    return result_dir


@pytest.fixture(scope="module")
def two_ranks(sample, tmp_path_factory):
    result_dir = tmp_path_factory.mktemp("two") / "result"
    code, screen = Ranks(result_dir, *options(sample, result_dir)).end()
    assert code == 0, screen
    return result_dir


def losses(result_dir):
    """Mean losses of all epochs of the trainings, from the log."""
    lines = re.findall(r"mean losses: ([^;]*)", (result_dir / "run.log").read_text())
    return [float(value) for line in lines for value in re.findall(r"\d+\.\d+", line)]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_ranks_train_to_the_losses_of_one_process(one_process, two_ranks):
    expected, found = losses(one_process), losses(two_ranks)
    assert len(expected) == 2 * 1 + 2 * 7 + 2 and min(expected) > 0
    assert found == pytest.approx(expected, rel=1e-3, abs=2e-4)  # the log shows four digits


def test_two_ranks_share_the_images(two_ranks, sample):
    assert len(list((two_ranks / "cam").glob("*.npy"))) == 8
    log = (two_ranks / "run.log").read_text()
    assert "make_recam_with_RIB: 4 images on the first of 2 ranks" in log
    assert re.search(r"RIB seed .*mIoU \d+\.\d\d %", log)


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_a_killed_rank_costs_no_result(two_ranks, sample, tmp_path):
    result_dir = tmp_path / "result"
    ranks = Ranks(result_dir, *options(sample, result_dir))
    state = result_dir / "res50_irn.partial.pth"
    while not state.exists() and ranks.process.poll() is None:
        time.sleep(0.01)
    os.kill(children(ranks.process.pid)[-1], signal.SIGKILL)
    code, screen = ranks.end()
    assert code == 0, screen
    assert "train_irn: resumes after" in (result_dir / "run.log").read_text()
    for name in ("cam", "ir_label"):
        assert files(result_dir / name) == files(two_ranks / name)
    for name in ("res50_cam.pth", "res50_irn.pth"):
        assert (result_dir / name).read_bytes() == (two_ranks / name).read_bytes()


def test_bad_input_is_said_by_one_rank(sample, tmp_path):
    result_dir = tmp_path / "result"
    command = options(sample, result_dir)
    command[command.index("--irn_batch_size") + 1] = "1"
    code, screen = Ranks(result_dir, *command, restarts=0).end()
    lines = [line for line in screen.splitlines() if line.startswith("error: ")]
    assert code != 0 and len(lines) == 1 and lines[0].startswith("error: --irn_batch_size 1: ")
