"""Every step on pretended GPUs: the maps, masks and weights are those of the CPU."""

import contextlib
import gc
import io
import json
import subprocess
import sys

import numpy as np
import pytest

import run_sample
from misc.labels import read_label_png
from misc.storage.cam_files import load_cam, load_dict
from net.checkpoint import read_checkpoint
from tests.conftest import PROJECT
from tests.pretended_gpu import environment
from tests.test_pipeline_ranks import losses, options

# Megabytes that hold the network but not the work of a step, and the options that lower it.
LIMITS = {
    "train_cam": (12, "--cam_batch_size or --cam_crop_size"),
    "make_cam": (12.9, "--max_long or --num_processes"),
    "make_recam_with_RIB": (20, "--RIB_batch_size or --max_long or --cam_crop_size or --num_pro"),
    "make_recam_with_AdvCAM": (14.5, "--max_long or --num_processes"),
    "train_irn": (12, "--irn_batch_size or --irn_crop_size"),
    "make_sem_seg_labels": (30, "--num_processes"),
    "make_ins_seg_labels": (30, "--num_processes"),
    "train_seg": (25, "--seg_batch_size or --seg_crop_size"),
    "make_seg": (18, "--num_processes"),
}
STEPS = [*LIMITS, "eval_seg"]
STEPS[4:4] = ["eval_cam", "cam_to_ir_label"]
# What a GPU does not take, with the words of the error; a value that is not finite is one too.
BUGS = {
    "torch.ones(2, device='cuda') + torch.ones(2)": r"same device.*\['cpu', 'cuda:0'\]",
    "torch.ones(2, device='cuda') * torch.ones(2, device='cuda:1')": "same device",
    "torch.ones(2, device='cuda:2')": "invalid device ordinal 2",
    "torch.cuda.set_device(torch.device('cuda'))": "specified index",
    "torch.ones(2, device='cuda').numpy()": "can't convert cuda:0",
    "torch.empty(2, device='cuda').cpu()": "not finite",
    "torch.ones(2, device='cuda').to('cpu', non_blocking=True)": "not finite",
    "overwritten(torch.ones(2).pin_memory())": "pinned memory was written",
    "in_fork.apply(torch.ones, (2,), {'device': 'cuda'})": "forked subprocess",
    "torch.ones(1 << 20, device='cuda')": "CUDA out of memory",
}
PLANT = """
import json, multiprocessing, sys, torch

def overwritten(pinned):
    pinned.to("cuda", non_blocking=True)
    pinned.zero_()
    torch.cuda.synchronize()

def finite(tensor):
    torch.cuda.synchronize()
    assert tensor.cpu().isfinite().all(), "not finite"

torch.ones(2, device="cuda")
in_fork = multiprocessing.get_context("fork").Pool(1)
finite(torch.ones(2, device="cuda").to("cpu", non_blocking=True))
said = []
for code in sys.argv[1:]:
    try:
        assert eval(code).isfinite().all(), "not finite"
        said.append("found nothing")
    except Exception as error:
        said.append(str(error))
print(json.dumps(said))
"""


def run(*command, gpus=2, memory=None):
    """Return the output of a Python command in a process of its own, which has these GPUs."""
    ended = subprocess.run(
        [sys.executable, *command], cwd=PROJECT, env=environment(gpus, memory),
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def test_bugs_that_are_planted_are_found():
    said = json.loads(run("-c", PLANT, *BUGS, memory=1 << 20))
    for code, found in zip(BUGS, said, strict=True):
        with pytest.raises(RuntimeError, match=BUGS[code]):
            raise RuntimeError(f"{code}: {found}")


def words(sample, folder, *more):
    """Options of a run on four images, without the steps."""
    given = [word for word in options(sample, folder) if not word.endswith("_pass")]
    given += ["--cam_scales", "1.0,0.5", "--RIB_iter", "2", "--adv_iter", "1", "--limit", "4"]
    return [*given, "--seg_iterations", "1", "--seg_crf", "none", *more]


@pytest.fixture(scope="module")
def on_cpu(sample, tmp_path_factory, tiny_run):
    folder = tmp_path_factory.mktemp("on_cpu") / "r"
    assert tiny_run(*words(sample, folder), *(f"--{step}_pass" for step in STEPS)) == 0
    return folder


def assert_the_same(folder, expected, near):
    """Maps up to `near` of their peak, labels but for that fraction of pixels, and all losses."""
    for path in expected.glob("cam*/*.npy"):
        found, maps = load_cam(folder / path.relative_to(expected)), load_cam(path)
        assert np.abs(found["high_res"] - maps["high_res"]).max() < near, path
    for path in (p for n in ("ir_label", "sem_seg", "seg") for p in expected.glob(f"{n}/*.png")):
        pair = (read_label_png(p) for p in (folder / path.relative_to(expected), path))
        assert np.not_equal(*pair).mean() < near, path
    found = losses(folder)
    for epoch, values in losses(expected).items():  # IRN's loss has corners, where rounding grows
        assert found[epoch] == pytest.approx(values, rel=max(5e-3, near), abs=5e-4), epoch


def in_turn(given):
    """Run steps with memory for nothing, for their network and for all; print what they say."""
    from tests.pretended_gpu import state

    said = []
    for step in STEPS:
        nothing = [1] if step in ("train_irn", "make_cam") else []
        for megabytes in (*nothing, *LIMITS.get(step, ())[:1], None):
            gc.collect()
            state.limit = state.bytes + int(1e6 * (megabytes or 1e6))
            two = step == "make_recam_with_RIB" and not megabytes  # as many as 8 images are worth
            more = ["--limit", "8", "--num_processes", "2"] if two else []
            with contextlib.redirect_stderr(io.StringIO()) as error:
                code = run_sample.main([*given, *more, f"--{step}_pass"])
            said.append((step, megabytes, code, error.getvalue().splitlines()))
    print(json.dumps(said))


def test_every_step_ends_where_memory_does_and_then_gives_what_the_cpu_gives(
    on_cpu, sample, tmp_path
):
    given = words(sample, tmp_path, "--device", "cuda", "--precision", "float32")
    code = "import sys; from tests.test_on_pretended_gpu import in_turn; in_turn(sys.argv[1:])"
    said = json.loads(run("-c", code, *given, "--num_workers", "1").splitlines()[-1])
    for step, megabytes, code, lines in said:
        assert (code, len(lines)) == ((1, 1) if megabytes else (0, 0)), (step, lines)
        where = f"stopped: {step}: {'image ' if megabytes != 1 and 'make' in step else ''}"
        for line in lines:
            assert line.startswith(where) and f"; lower {LIMITS[step][1]}" in line
            assert line.endswith("; the same command resumes where it stopped")
    assert "2 processes on cuda" in (tmp_path / "run.log").read_text()
    assert_the_same(tmp_path, on_cpu, 1e-5)
    for name in ("res50_cam.pth", "deeplab_v2.pth"):
        state = read_checkpoint(tmp_path / name)["state_dict"]
        for key, value in read_checkpoint(on_cpu / name)["state_dict"].items():
            assert (state[key] - value).abs().max() <= 1e-4 * value.abs().max(), key
    for path in on_cpu.glob("ins_seg/*.npy"):
        found, expected = (load_dict(p, "") for p in (tmp_path / "ins_seg" / path.name, path))
        assert np.array_equal(found["mask"], expected["mask"]), path


def test_two_ranks_on_two_devices_in_bf16(on_cpu, sample, tmp_path):
    given = words(sample, tmp_path, "--device", "cuda", "--precision", "bf16")
    given += [f"--{step}_pass" for step in STEPS if step != "make_ins_seg_labels"]
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run(*ranks, "run_sample.py", *given)
    log = (tmp_path / "run.log").read_text()
    assert "make_cam: 2 images on the first of 2 ranks, 1 process on cuda" in log
    assert_the_same(tmp_path, on_cpu, 0.05)
