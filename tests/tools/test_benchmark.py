"""The benchmark at small sizes: this project and the reference implementations agree."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests import pretended_gpu
from tests.conftest import PROJECT, TINY
from tests.tools import benchmark, comparisons, gpu_session, launches, pipeline
from tests.tools.comparisons import COMPARISONS, CPU


@pytest.mark.parametrize("name", COMPARISONS)
def test_this_project_agrees_with_the_reference_implementation(name, device):
    entry = COMPARISONS[name]
    comparison = entry.kind(device, **entry.small)
    results = comparison.ours()
    _, expected = comparison.timed_reference()
    assert benchmark.difference(results, expected) <= comparison.tolerance
    assert all(torch.as_tensor(part).unique().numel() > 1 for part in results)  # no constants


@pytest.fixture
def small_sizes(monkeypatch):
    small = {n: e._replace(sizes=e.small) for n, e in COMPARISONS.items()}
    monkeypatch.setattr(benchmark, "COMPARISONS", small)


def test_table_and_json_of_a_comparison(small_sizes, tmp_path, capsys):
    path = tmp_path / "numbers.json"
    assert benchmark.main(["pooling", "scoring", "--repeats", "2", "--json", str(path)]) == 0
    assert "pooling with gradient, 3 x 4 x 6 x 5" in capsys.readouterr().out
    pooling, scoring = json.loads(path.read_text())["comparisons"]
    low, high = pooling["ratio_quartiles"]
    assert len(pooling["ours"]) == 2 and 0 < low <= high and scoring["difference"] == 0


def test_wrong_results_are_reported(small_sizes, monkeypatch, capsys):
    monkeypatch.setattr(comparisons, "gndp2d", lambda maps, present, tau: maps.mean(dim=(2, 3)))
    assert benchmark.main(["pooling", "--repeats", "1"]) == 1
    assert "TOO LARGE" in capsys.readouterr().out


def test_results_are_compared_in_strict_float32_and_timed_in_tf32(monkeypatch):
    """A GPU rounds what both sides convolve, each in an order of its own."""
    computed = []

    class Rounded(comparisons.Comparison):
        def ours(self):
            computed.append(torch.backends.cudnn.allow_tf32)
            return [np.array([1.0, 1.0 + 1e-2 * computed[-1]])]

        def reference(self):
            return [np.ones(2)]

    flags = torch.backends.cudnn
    monkeypatch.setattr(flags, "allow_tf32", flags.allow_tf32)  # restored at the end
    entry = comparisons.Entry(lambda device: Rounded("", device), {}, {})
    report = benchmark.measure("rounded", entry, 2, CPU)
    assert report.agrees and computed == [False, True, True]


def test_all_parts_of_the_gpu_session_run_on_a_pretended_gpu(sample, classifier_file, tmp_path):
    words = ["--tiny", "--voc12_root", sample.root, "--classifier", classifier_file]
    words += ["--imagenet_weights", classifier_file, "--part", *gpu_session.PARTS]
    command = [sys.executable, "-m", "tests.tools.gpu_session", tmp_path, *words]
    subprocess.run(command, cwd=PROJECT, env=pretended_gpu.environment(1), check=True)
    found = json.loads((tmp_path / "session.json").read_text())
    assert list(found) == list(gpu_session.PARTS) and "failed" not in json.dumps(found)
    assert all(of["peak GiB"] > 0 for part in ("RIB", "steps") for of in found[part].values())
    assert found["agreement"]["make_cam in float32"]["agrees"]
    assert found["tests"] == {"exit code of pytest": 0} and found["photographs"]["mIoU"]
    assert "- tf32, --num_processes 1: seconds" in (tmp_path / "session.md").read_text()


def test_a_part_of_the_gpu_session_ends_at_its_limit_with_all_it_started(tmp_path, monkeypatch):
    program, late = tmp_path / "python", f"(sleep 2; touch {tmp_path}/late) & wait"
    program.write_text(f'#!/bin/sh\ncase "$*" in *"--part RIB") {late};; *) exit 3;; esac\n')
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    parts = {name: (gpu_session.PARTS[name][0], 1.0) for name in ("RIB", "steps")}
    monkeypatch.setattr(gpu_session, "PARTS", parts)
    gpu_session.main([str(tmp_path), "--device", "cpu", "--tiny"])
    found = json.loads((tmp_path / "session.json").read_text())
    assert found == {"RIB": {"ended": "by its limit of 1 s"}, "steps": {"failed": ""}}
    time.sleep(2)
    assert not (tmp_path / "late").exists()


def test_a_gpu_is_watched_by_its_uuid(tmp_path, monkeypatch):
    """nvidia-smi counts all GPUs, those that CUDA_VISIBLE_DEVICES hides too."""
    program, known = tmp_path / "nvidia-smi", SimpleNamespace(uuid="12ab")
    program.write_text('#!/bin/sh\n[ "$2" = GPU-12ab ] && printf "40, 1024\\n60, 2048\\n50, 10"\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: known)
    with pipeline.Watch(torch.device("cuda", 0))(1) as watch:
        watch.update()
        watch.samples.wait()
    assert watch.figures(0) == {"busy": 0.5, "GiB in use": 2.0}


def test_steps_on_synthetic_photographs_are_timed_one_by_one(capsys):
    words = [*TINY, "--train_cam_pass", "--make_cam_pass", "--num_threads", "1"]
    pipeline.main(["4", "--width", "8", *words], size=(48, 64))
    lines = [json.loads(x) for x in capsys.readouterr().out.splitlines() if x.startswith("{")]
    assert lines[1]["train_cam"]["seconds"] > 0 and lines[2]["make_cam"]["images/s"] > 0


def test_launches_and_waits_are_counted(capsys):
    with launches.Launches() as counted:
        torch.ones(3, 2).add(1).relu_().view(-1)[:4].sum().item()
    assert (counted.started, counted.waits) == (4, 1)  # a view starts nothing
    assert benchmark.main(["launches"]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(rows) == 6 and all(int(started) > 100 for started, _, _ in rows)
