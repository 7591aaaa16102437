"""The benchmark at toy sizes: the plain references and the project give the same results."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest

from tests import benchmark


@pytest.mark.parametrize("name", benchmark.COMPARISONS)
def test_both_ways_agree(name):
    entry = benchmark.COMPARISONS[name]
    with contextlib.closing(entry.kind(**entry.toy_sizes)) as comparison:
        times = benchmark.measure_times(comparison, repeats=2)
        results = comparison.here()
    assert times.difference <= entry.kind.tolerance
    assert len(times.plain) == len(times.here) == 2
    assert all(np.ptp(np.asarray(part)) > 0 for part in results)  # something to compare


def test_complete_dense_walk_agrees_with_one_squaring():
    sizes = benchmark.COMPARISONS["walk"].toy_sizes
    complete, squared_once = benchmark.Walk(**sizes), benchmark.WalkByOneSquaring(**sizes)
    _, matrix = squared_once.timed_plain()
    results = squared_once.plain_results(matrix)
    assert benchmark.difference(results, complete.plain()) < 1e-5


def test_rib_iterations_differ_by_more_than_the_tolerance():
    entry = benchmark.COMPARISONS["rib"]
    comparison, frozen = (entry.kind(**entry.toy_sizes) for _ in range(2))
    frozen.rib.settings = dataclasses.replace(frozen.settings, learning_rate=0.0)
    apart = benchmark.difference(comparison.here(), frozen.here())
    assert apart > 10 * entry.kind.tolerance


def test_difference_is_a_share_of_the_largest_value():
    first, second = [np.array([1.0, -4.0])], [np.array([1.0, -5.0])]
    assert benchmark.difference(first, second) == pytest.approx(0.2)
    assert benchmark.difference(first, [np.ones(3)]) == float("inf")


def test_slow_plain_way_is_not_repeated(monkeypatch):
    entry = benchmark.COMPARISONS["pooling"]
    monkeypatch.setattr(benchmark, "PLAIN_BUDGET", 1e-9)
    times = benchmark.measure_times(entry.kind(**entry.toy_sizes), repeats=3)
    assert (len(times.plain), len(times.here)) == (1, 3)


@pytest.fixture
def toy_sizes(monkeypatch):
    toys = {n: e._replace(sizes=e.toy_sizes) for n, e in benchmark.COMPARISONS.items()}
    monkeypatch.setattr(benchmark, "COMPARISONS", toys)


def test_table_and_json(toy_sizes, tmp_path, capsys):
    path = tmp_path / "numbers.json"
    assert benchmark.main(["pooling", "affinity", "--repeats", "2", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "torch" in printed.splitlines()[0]
    assert "pooling with gradient, 3 x 4 x 6 x 5" in printed and "MiB" in printed
    pooling, affinity = json.loads(path.read_text())["comparisons"]
    assert pooling["goal_ratio"] == 20 and pooling["memory_bytes"] is None
    assert len(affinity["seconds"]["plain"]) == 2 and affinity["memory_bytes"]["here"] >= 0


def test_wrong_results_are_reported(toy_sizes, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "gndp2d", lambda maps, present, tau: maps.mean(dim=(2, 3)))
    assert benchmark.main(["pooling", "--repeats", "1"]) == 1
    assert "TOO LARGE" in capsys.readouterr().out


def test_unknown_name_is_an_error(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["pool"])
    assert "no comparison is called pool" in capsys.readouterr().err
