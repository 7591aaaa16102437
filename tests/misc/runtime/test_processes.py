"""misc/runtime/processes.py: plain work in one process or several."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from misc.errors import StoppedError, UserError
from misc.runtime.processes import in_processes, map_in_processes

PROJECT = Path(__file__).parents[3]


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


KILLED_WITH_A_NEW_READER = """
import os, signal, time
from torch.utils.data import DataLoader
from misc.runtime.processes import set_up_reader

def late(number):
    print(os.getpid(), flush=True)
    parent = os.getppid()
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        time.sleep(0.01)
    set_up_reader(number)

next(iter(DataLoader([1, 2], num_workers=1, worker_init_fn=late, multiprocessing_context="fork")))
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for the process in /proc")
def test_a_reader_ends_though_its_parent_was_killed_before_it_looked():
    command = [sys.executable, "-c", KILLED_WITH_A_NEW_READER]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as parent:
        reader = int(parent.stdout.readline())
        deadline = time.monotonic() + 20
        while runs(reader) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left := runs(reader):
            os.kill(reader, signal.SIGKILL)
    assert not left and parent.returncode == -signal.SIGKILL


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
