"""The benchmark at small sizes: this project and the reference implementations agree."""

import json

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from tests.tools import benchmark, comparisons, gpu_session, pipeline
from tests.tools.comparisons import COMPARISONS, CPU


@pytest.mark.parametrize("name", COMPARISONS)
def test_this_project_agrees_with_the_reference_implementation(name):
    entry = COMPARISONS[name]
    comparison = entry.kind(CPU, **entry.small)
    results = comparison.ours()
    _, expected = comparison.timed_reference()
    assert benchmark.difference(results, expected) <= comparison.tolerance
    assert all(np.ptp(np.asarray(part)) > 0 for part in results)  # something to compare


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


def test_the_gpu_session_runs_through_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_session, "PRECISIONS", ("float32", "tf32"))  # bf16 is slow here
    monkeypatch.delitem(gpu_session.PARTS, "processes on one GPU, images per second")
    found = gpu_session.measure(tmp_path, CPU)
    assert list(found) == list(gpu_session.PARTS)
    assert not any("failed" in part for part in found.values()), found
    assert found["RIB"]["float32"]["from float32"] == 0 and found["deterministic"]["equal"]
    assert list(json.loads((tmp_path / "session.json").read_text())) == list(found)


def test_steps_on_synthetic_photographs_are_timed_one_by_one():
    words = [*TINY, "--train_cam_pass", "--make_cam_pass", "--visualize", "0", "--num_threads", "1"]
    seconds = pipeline.measured(words, images=4, width=8, size=(48, 64))
    assert list(seconds) == ["train_cam", "make_cam", "all"]
    assert seconds["all"] == pytest.approx(seconds["train_cam"] + seconds["make_cam"])
