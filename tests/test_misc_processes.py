"""misc/processes.py: plain work in one process or several."""

import os

import pytest

from misc.errors import StoppedError
from misc.processes import map_in_processes


def square(number):
    return number**2


def end_at_three(number):
    if number == 3:
        os._exit(1)
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes):
    assert list(map_in_processes(square, range(20), processes)) == [n**2 for n in range(20)]


@pytest.mark.parametrize("processes", [1, 2])
def test_errors_reach_the_caller(processes):
    with pytest.raises(TypeError):
        list(map_in_processes(square, [1, "a"], processes))


def test_a_killed_process_is_reported():
    with pytest.raises(StoppedError, match="a process ended"):
        list(map_in_processes(end_at_three, range(6), 2))
