"""misc/storage/files.py: a file appears whole or not at all."""

import os
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from misc.storage.files import _host, _token, atomic_path, ignores_case, remove_leftovers


def test_file_appears_at_the_end(tmp_path):
    path = tmp_path / "a.npy"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".npy"
        np.save(temporary, np.arange(3))
        assert not path.exists()
    assert os.listdir(tmp_path) == ["a.npy"]
    assert np.load(path).tolist() == [0, 1, 2]


def test_failure_keeps_the_older_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="half way"), atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise ValueError("half way")
    assert os.listdir(tmp_path) == ["a.txt"] and path.read_text() == "old"


def test_failure_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="at once"), atomic_path(str(tmp_path / "a.txt")):
        raise ValueError("at once")
    assert not os.listdir(tmp_path)


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # the last one to end


def test_file_has_the_usual_permissions(tmp_path):
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("")
    (tmp_path / "b").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes[0] == modes[1]


WRITER = """
import os, signal, sys
from pathlib import Path
from misc.storage.files import atomic_path
with atomic_path(Path(sys.argv[1]) / "a.npy") as temporary:
    temporary.write_bytes(b"half")
    print(temporary.name, flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def start_writer(folder, how):
    command = [sys.executable, "-c", WRITER, str(folder), how]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_leftovers_of_a_killed_writer_go_and_those_of_a_living_one_stay(tmp_path):
    killed, living = start_writer(tmp_path, "killed"), start_writer(tmp_path, "living")
    left, busy = killed.stdout.readline().strip(), living.stdout.readline().strip()
    killed.wait()
    elsewhere = left.replace(os.uname().nodename.replace("-", "_"), "another_host")
    users = f".{_host()}-{killed.pid}-0.0123456789abcdef.tmp.npy", f".a.{left.removeprefix('.')}"
    names = {".hidden.npy", "b.npy", ".a.npy.tmp.npy", elsewhere, *users}
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert {left, busy} <= set(os.listdir(tmp_path))
    remove_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) == {busy, *names}
    living.communicate("")
    assert set(os.listdir(tmp_path)) == {"a.npy", *names}
    remove_leftovers(tmp_path / "none")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks for processes in /proc")
def test_what_a_killed_process_left_goes_before_its_parent_has_noticed(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    name = f"{_host()}-{writer.pid}-0"
    left = tmp_path / f".{name}.{_token(name)}.tmp.npy"
    left.touch()
    remove_leftovers(tmp_path)
    assert left.exists()
    os.kill(writer.pid, signal.SIGKILL)
    while open(f"/proc/{writer.pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    remove_leftovers(tmp_path)
    assert not left.exists()
    writer.wait()


def test_leftovers_below_a_folder_go_where_all_of_it_is_of_the_run(tmp_path):
    (tmp_path / "labels" / "train").mkdir(parents=True)
    writer = start_writer(tmp_path / "labels" / "train", "killed")
    left = tmp_path / "labels" / "train" / writer.stdout.readline().strip()
    writer.wait()
    remove_leftovers(tmp_path)
    assert left.exists()
    remove_leftovers(tmp_path, below=True)
    assert not left.exists()


def test_a_file_system_is_asked_by_a_name_that_nobody_has(tmp_path, monkeypatch):
    for name in (".Probe", ".pROBE", ".probe"):
        (tmp_path / name).write_text("mine")
    assert not ignores_case(tmp_path)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: True)
    assert ignores_case(tmp_path)
    monkeypatch.undo()
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}
    assert len(list(tmp_path.iterdir())) == 3
