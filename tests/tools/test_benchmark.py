"""The benchmark at toy sizes: the plain references and the project give the same results."""

import dataclasses
import json

import numpy as np
import pytest

from tests.conftest import TINY
from tests.tools import benchmark, comparisons, gpu_session, pipeline
from tests.tools.comparisons import COMPARISONS, CPU

WAYS = ("plain", "here")


@pytest.mark.parametrize("name", COMPARISONS)
def test_both_ways_agree(name):
    entry = COMPARISONS[name]
    with benchmark.opened(entry, entry.toy_sizes, CPU) as comparison:
        times = benchmark.measure_times(comparison, repeats=2)
        results = comparison.here()
    assert times.difference <= entry.kind.tolerance
    assert len(times.plain) == len(times.here) == 2
    assert all(np.ptp(np.asarray(part)) > 0 for part in results)  # something to compare


def test_complete_dense_walk_agrees_with_one_squaring():
    sizes = COMPARISONS["walk"].toy_sizes
    complete, squared_once = comparisons.Walk(**sizes), comparisons.WalkByOneSquaring(**sizes)
    _, matrix = squared_once.timed_plain()
    results = squared_once.plain_results(matrix)
    assert benchmark.difference(results, complete.plain()) < 1e-5


def test_rib_iterations_differ_by_more_than_the_tolerance():
    entry = COMPARISONS["rib"]
    comparison, frozen = (entry.kind(**entry.toy_sizes) for _ in range(2))
    frozen.settings = dataclasses.replace(frozen.settings, learning_rate=0.0)
    for each in (comparison, frozen):
        each.use(CPU)
    apart = benchmark.difference(comparison.here(), frozen.here())
    assert apart > 10 * entry.kind.tolerance


def test_difference_is_a_share_of_the_largest_value():
    first, second = [np.array([1.0, -4.0])], [np.array([1.0, -5.0])]
    assert benchmark.difference(first, second) == pytest.approx(0.2)
    assert benchmark.difference(first, [np.ones(3)]) == float("inf")


def test_slow_plain_way_is_not_repeated(monkeypatch):
    entry = COMPARISONS["pooling"]
    monkeypatch.setattr(benchmark, "PLAIN_BUDGET", 1e-9)
    with benchmark.opened(entry, entry.toy_sizes, CPU) as comparison:
        times = benchmark.measure_times(comparison, repeats=3)
    assert (len(times.plain), len(times.here)) == (1, 3)


@pytest.fixture
def toy_sizes(monkeypatch):
    toys = {n: e._replace(sizes=e.toy_sizes) for n, e in COMPARISONS.items()}
    monkeypatch.setattr(benchmark, "COMPARISONS", toys)


def test_table_and_json(toy_sizes, tmp_path, capsys):
    path = tmp_path / "numbers.json"
    assert benchmark.main(["pooling", "irn_step", "--repeats", "2", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "torch" in printed.splitlines()[0]
    assert "pooling with gradient, 3 x 4 x 6 x 5" in printed and "MiB" in printed
    content = json.loads(path.read_text())
    pooling, step = content["comparisons"]
    assert content["matrix_flops_per_second"]["float32"] > 1e8
    assert pooling["goal_ratio"] == 20 and pooling["memory_bytes"] is None
    assert len(step["seconds"]["plain"]) == 2 and step["memory_bytes"]["here"] >= 0
    low, high = step["ratio_quartiles"]
    assert 0 < low <= high
    assert step["images_per_second"]["here"] == pytest.approx(2 / np.mean(step["seconds"]["here"]))
    flops = {way: step["flops_per_second"][way] * np.mean(step["seconds"][way]) for way in WAYS}
    assert flops["here"] == pytest.approx(flops["plain"])  # both run the same convolutions
    assert step["flops_per_second"]["matrix"] > 1e8


def test_quartiles_are_of_runs_that_followed_each_other():
    times = benchmark.Times([2.0, 6.0, 8.0], [1.0, 2.0, 2.0, 9.0], 0.0, [])
    assert times.ratio == 3.0 and times.quartiles == (2.5, 3.5)
    assert benchmark.Times([3.0], [1.0], 0.0, []).quartiles == (3.0, 3.0)


@pytest.mark.parametrize(("rate", "outcome"), [(64.0, "missed"), (66.0, "met")])
def test_goal_for_the_share_of_the_matrix_rate(rate, outcome):
    entry = COMPARISONS["rib"]
    times = benchmark.Times([1.2], [1.0], 0.0, [1.0])
    rates = benchmark.Rates(plain=90.0, here=rate, matrix=100.0)
    report = benchmark.Report("rib", "RIB", entry, 1, times, None, rates, "")
    assert benchmark.format_goal(report) == f"1.1 x, 65% of the matrix rate: {outcome}"
    assert f"of 1e-07 (90% / {rate:.0f}%)" in benchmark.format_rates(rates)


def test_matrix_rate_is_measured_with_every_run():
    entry = COMPARISONS["irn_step"]
    with benchmark.opened(entry, entry.toy_sizes, CPU) as comparison:
        times = benchmark.measure_times(comparison, repeats=2)
    assert len(times.matrix) == 10  # five products before each of two runs
    assert benchmark.matrix_rate(CPU, [1.0, 2.0, 4.0]) == 1024**3


def test_sizes_that_the_plain_way_cannot_treat_are_left_out():
    runs, left_out = benchmark.at_sizes("walk", COMPARISONS["walk"], [128, 320, 640])
    assert [(name, entry.sizes["size"]) for name, entry in runs] == [
        ("walk_128", (24, 32)),
        ("walk_320", (60, 80)),
    ]
    assert all(entry.goal_ratio is None for _, entry in runs)
    assert left_out == ["walk: left out at 640: the plain way takes too much there"]
    assert benchmark.at_sizes("rib_loading", COMPARISONS["rib_loading"], [128])[0] == []


@pytest.mark.parametrize("name", [n for n, entry in COMPARISONS.items() if entry.at])
def test_sizes_are_arguments_of_the_comparison(name):
    entry = COMPARISONS[name]
    assert entry.at(128).keys() == entry.sizes.keys() == entry.toy_sizes.keys()


def test_wrong_results_are_reported(toy_sizes, monkeypatch, capsys):
    monkeypatch.setattr(comparisons, "gndp2d", lambda maps, present, tau: maps.mean(dim=(2, 3)))
    assert benchmark.main(["pooling", "--repeats", "1"]) == 1
    assert "TOO LARGE" in capsys.readouterr().out


def test_unknown_name_is_an_error(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["pool"])
    assert "no comparison is called pool" in capsys.readouterr().err


def test_a_session_without_a_gpu_runs_through_toys(tmp_path, capsys):
    out = tmp_path / "session"
    assert benchmark.main(["--gpu_session", str(out)]) == 0
    found = json.loads((out / "session.json").read_text())
    assert list(found) == list(gpu_session.PARTS)
    assert not any("failed" in part for part in found.values()), found
    rows = found["RIB"]
    assert rows["float32"]["from float32"] == 0 < rows["bf16"]["from float32"] < 0.5
    assert found["one image under the profiler"]["operations"] > 1000
    assert found["deterministic"]["equal"] is True
    page = (out / "session.md").read_text()
    assert "no figures" in page and all(f"## {name}" in page for name in gpu_session.PARTS)


def test_steps_on_drawn_photographs_are_timed_one_by_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "SIZE", (60, 80))
    words = ["--pipeline", "4", "--width", "8", *TINY, "--train_cam_pass", "--make_cam_pass"]
    report = tmp_path / "report.json"
    assert benchmark.main([*words, "--json", str(report)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split("|")[1].strip() for line in lines[-3:]] == ["train_cam", "make_cam", "all"]
    found = json.loads(report.read_text())
    assert found["images"] == 4 and "--make_cam_pass" in found["options"]
    steps = found["steps"]
    both = steps["train_cam"]["seconds"] + steps["make_cam"]["seconds"]
    assert steps["all"]["seconds"] == pytest.approx(both)
    with pytest.raises(SystemExit):
        benchmark.main(["--pipeline", "3"])
