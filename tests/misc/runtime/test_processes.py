"""misc/runtime/processes.py: plain work in one process or several."""

import os
import time

import pytest

from misc.errors import StoppedError, UserError
from misc.runtime.processes import in_processes, map_in_processes


def square(number):
    return number**2


def end_at_three(number):
    if number == 3:
        os._exit(1)
    return number


def report_and_fail(part, report):
    report(part)
    if part == "b":
        raise UserError("b is wrong")
    time.sleep(60)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes):
    assert list(map_in_processes(square, range(20), processes)) == [n**2 for n in range(20)]


def test_errors_of_processes_and_their_ends_reach_the_caller():
    with pytest.raises(TypeError, match="unsupported operand"):
        list(map_in_processes(square, [1, "a"], 2))
    with pytest.raises(StoppedError, match="a process ended"):
        list(map_in_processes(end_at_three, range(6), 2))


def test_bad_input_of_one_process_ends_all():
    reports = in_processes(report_and_fail, "ab", "work")
    with pytest.raises(UserError, match="^b is wrong$"):
        while True:
            assert next(reports) in [(0, "a"), (1, "b")]
