"""misc/runtime/processes.py: plain work in one process or several."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from misc.errors import StoppedError
from misc.runtime.processes import map_in_processes
from tests.conftest import PROJECT


def square(number):
    return number**2


def end_at_three(number):
    if number == 3:
        os._exit(1)
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes):
    assert list(map_in_processes(square, range(20), processes)) == [n**2 for n in range(20)]


def test_errors_reach_the_caller():
    with pytest.raises(RuntimeError, match="unsupported operand"):
        list(map_in_processes(square, [1, "a"], 2))


def test_a_killed_process_is_reported():
    with pytest.raises(StoppedError, match="a process ended"):
        list(map_in_processes(end_at_three, range(6), 2))


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


INTERRUPTED_START = """
import os, signal, sys
from multiprocessing import util
from misc.runtime import processes
from misc.runtime.programs import said_plainly

start = util.spawnv_passfds

def start_and_interrupt(path, args, passed):
    pid = start(path, args, passed)
    if any("multiprocessing-fork" in str(word) for word in args):
        os.kill(os.getpid(), signal.SIGTERM)  # before it has been told what to do
    return pid

if __name__ == "__main__":
    util.spawnv_passfds = start_and_interrupt
    work = lambda: list(processes.map_in_processes(str, "abcd", 2))
    sys.exit(said_plainly(work))
"""


def test_a_signal_while_processes_start_is_one_line(tmp_path):
    (tmp_path / "program.py").write_text(INTERRUPTED_START)
    command = [sys.executable, str(tmp_path / "program.py")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    end = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert end.returncode == 128 + signal.SIGTERM
    assert end.stderr.startswith("interrupted: ") and end.stderr.count("\n") == 1
