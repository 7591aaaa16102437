"""IR labels that are made while maps are: the same bytes, and nothing is lost by a kill."""

import os
import signal

import pytest
import torch

from misc.cli.options import parse
from misc.runtime import devices
from misc.runtime.devices import side_processes
from misc.runtime.resources import Resources
from step import make_cam, make_recam_with_RIB
from step.refine import labels_follow
from tests.conftest import TINY
from tests.robustness.fault_runs import Run

STEPS = (
    "--num_threads",
    "1",
    "--make_recam_pass",
    "--cam_to_ir_label_pass",
    "--conf_fg_thres",
    "0.3",
)


@pytest.fixture(scope="module")
def words(sample, classifier_file):
    inputs = ("--voc12_root", sample.root, "--cam_weights_name", classifier_file)
    return [*map(str, (*TINY, *inputs)), *STEPS]


def files(folder, suffix):
    return {path.name: path.read_bytes() for path in folder.glob(f"2*{suffix}")}


def test_labels_beside_the_maps_and_a_kill_among_them(words, tiny_run, tmp_path):
    """As beside a GPU: whatever happens, the bytes are those of one step after the other."""
    after, result = tmp_path / "after", tmp_path / "meanwhile"
    assert tiny_run(*words, "--result_dir", after) == 0
    expected = {name: files(after / name, end) for name, end in OUTPUTS}
    assert all(len(made) == 8 for made in expected.values())

    beside = [*words, "--num_side_processes", "1", "--result_dir", str(result)]
    with Run(beside, tmp_path / "screen") as run:
        run._wait(lambda: files(result / "ir_label", ".png"))
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
        run.gone()
    assert len(files(result / "ir_label", ".png")) < 8
    for name, end in OUTPUTS:
        assert files(result / name, end).items() <= expected[name].items()

    for path in (*(result / "ir_label").iterdir(), *sorted((result / "cam").glob("*.npy"))[:2]):
        path.unlink()
    make_recam_with_RIB.run(parse(beside))
    labels = files(result / "ir_label", ".png")
    assert 0 < len(labels) < 8 and labels.items() <= expected["ir_label"].items()
    assert tiny_run(*beside) == 0
    assert {name: files(result / name, end) for name, end in OUTPUTS} == expected
    for name in ("cam", "ir_label"):
        manifests = [(folder / name / "manifest.json").read_text() for folder in (after, result)]
        assert manifests[0] == manifests[1]


OUTPUTS = (("cam", ".npy"), ("ir_label", ".png"))


def test_labels_are_made_of_the_maps_that_their_step_reads():
    def follow(refiner, *more):
        return labels_follow(refiner, parse(list(more)))

    rib, plain = make_recam_with_RIB.MakeRIBCAM, make_cam.MakeCAM
    assert follow(rib) and not follow(plain)
    assert follow(plain, "--recam", "none")
    assert not follow(rib, "--make_recam_pass")


def test_who_leaves_work_to_others(monkeypatch):
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    monkeypatch.setattr(devices, "cpu_count", lambda: 16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "_processes_that_fit", lambda each: 12)
    assert side_processes(Resources(), cpu) == 0
    assert side_processes(Resources(), gpu) == 6  # of 8 cores, for the memory of 6
    assert side_processes(Resources("cuda:0", num_processes=2), gpu) == 6
    assert side_processes(Resources(num_side_processes=3), cpu) == 3
