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
         "train_seg")  # fmt: skip


def options(sample, result_dir):
    """Trainings of 2, 8 and 2 steps on labels that show objects."""
    weights = PROJECT / SAMPLES["voc"].checkpoint
    return [
        *TINY,
        *("--voc12_root", str(sample.root), "--result_dir", str(result_dir)),
        *("--imagenet_weights", str(weights), "--num_threads", "1", "--cam_scales", "1.0"),
        *("--cam_learning_rate", "0.001", "--RIB_iter", "1", "--irn_num_epoches", "2"),
        *("--conf_fg_thres", "0.3", "--conf_bg_thres", "0.05"),
        *("--seg_init", str(weights), "--seg_label_dir", str(sample.root / "SegmentationClassAug")),
        *("--seg_crop_size", "65", "--seg_batch_size", "4", "--seg_preset", "clims"),
        *("--seg_iterations", "2", "--seg_learning_rate", "0.0001"),
        *(f"--{step}_pass" for step in STEPS),
    ]


def losses(result_dir):
    """Mean losses of the epochs of all trainings, from the log."""
    lines = re.findall(r"(\w+: epoch \d+) of \d+, mean losses: ([^;]*)", log(result_dir))
    return {epoch: [float(value) for value in re.findall(r"\d+\.\d+", text)]
            for epoch, text in lines}  # fmt: skip


def log(result_dir):
    return (result_dir / "run.log").read_text()


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_two_ranks_train_to_the_losses_of_one_process_though_one_is_killed(
    sample, tiny_run, tmp_path
):
    one, two, screen = (tmp_path / name for name in ("one", "two", "screen.txt"))
    assert tiny_run(*options(sample, one)) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
               "2", "--max-restarts", "2", "-m", "tests.often_saving"]  # fmt: skip
    with screen.open("w") as output:  # no pipe: nobody would read it meanwhile
        launcher = subprocess.Popen(
            [*command, *options(sample, two)], cwd=PROJECT, stdout=output, stderr=output
        )
    try:
        while not (two / "res50_irn.partial.pth").exists() and launcher.poll() is None:
            time.sleep(0.01)
        os.kill(children(launcher.pid)[-1], signal.SIGKILL)
        assert launcher.wait(timeout=300) == 0, screen.read_text()
    finally:
        launcher.terminate()  # where it hangs; torchrun ends its ranks
        launcher.wait()
    assert "train_irn: resumes after" in log(two)
    assert "make_recam_with_RIB: 4 images on the first of 2 ranks" in log(two)
    assert len(list((two / "cam").glob("*.npy"))) == 8
    expected, found = losses(one), losses(two)
    assert len(expected) == 4 and {"train_cam: epoch 1", "train_seg: epoch 1"} <= found.keys()
    for epoch, values in found.items():  # the log shows four digits
        assert values == pytest.approx(expected[epoch], rel=1e-3, abs=2e-4), epoch
