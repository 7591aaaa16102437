"""misc/storage/files.py: a file appears whole or not at all, and one run at a time writes."""

import os
import subprocess
import sys

import numpy as np
import pytest

from misc.errors import UserError
from misc.storage import files
from misc.storage.files import LOCK, atomic_path, ignores_case, locked, reason, remove_leftovers
from tests.conftest import PROJECT


def test_a_file_appears_at_the_end_with_the_usual_permissions(tmp_path):
    path = tmp_path / "a.npy"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".npy"
        np.save(temporary, np.arange(3))
        assert not path.exists()
    assert os.listdir(tmp_path) == ["a.npy"] and np.load(path).tolist() == [0, 1, 2]
    (tmp_path / "b").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_a_failure_keeps_the_older_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="half way"), atomic_path(str(path)) as temporary:
        temporary.write_text("ne")
        raise ValueError("half way")
    assert os.listdir(tmp_path) == ["a.txt"] and path.read_text() == "old"


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # the last one to end


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


def start(code, *arguments):
    command, pipe = [sys.executable, "-c", code, *arguments], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=PROJECT)


def test_leftovers_of_a_killed_writer_go_and_all_else_stays(tmp_path):
    below = tmp_path / "labels" / "train"
    below.mkdir(parents=True)
    killed, living = start(WRITER, tmp_path, "killed"), start(WRITER, tmp_path, "living")
    deep = start(WRITER, below, "killed")
    left, busy = killed.stdout.readline().strip(), living.stdout.readline().strip()
    deep_left = below / deep.stdout.readline().strip()
    for writer in (killed, deep):  # dead, though their parent has not taken notice yet
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
    elsewhere = "." + left.removeprefix(f".{files._host()}").join(("another_host", ""))
    users = {left.replace(".rib.", ".0123456789abcdef."), f".a.{left.removeprefix('.')}"}
    names = {".hidden.npy", "b.npy", ".a.npy.tmp.npy", elsewhere, *users, "labels"}
    for name in names - {"labels"}:
        (tmp_path / name).write_bytes(b"")
    assert {left, busy} <= set(os.listdir(tmp_path))
    remove_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) == {busy, *names} and deep_left.exists()
    remove_leftovers(tmp_path, below=True)
    assert not deep_left.exists()
    living.communicate("")
    assert set(os.listdir(tmp_path)) == {"a.npy", *names}
    killed.wait()
    deep.wait()


def test_a_file_system_is_asked_by_a_name_that_nobody_has(tmp_path, monkeypatch):
    for name in (".Probe", ".probe"):
        (tmp_path / name).write_text("mine")
    assert not ignores_case(tmp_path)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: True)
    assert ignores_case(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine", "mine"]


def test_reasons_are_one_short_line():
    assert reason("a\r\n\x1b[2Jb\u2028c") == "a ?[2Jb c"
    assert reason(ValueError()) == "ValueError" and len(reason("a b" * 10**6)) == 100


HOLDER = """
import sys, time
from pathlib import Path
from misc.storage.files import locked
with locked([Path(sys.argv[1])]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = start(HOLDER, tmp_path)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_told_who_holds_the_folder(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PATIENCE", 0.0)
    other = tmp_path / "a"
    other.mkdir()
    words = f"{tmp_path}: another run writes here .process {holder.pid} on .* since "
    with pytest.raises(UserError, match=words), locked([other, tmp_path]):
        pass
    assert not (other / LOCK).exists()


def test_a_killed_run_leaves_no_lock_and_one_that_is_ending_is_waited_for(holder, tmp_path):
    code = f"import os, time; time.sleep(0.5); os.kill({holder.pid}, 9)"
    killer = subprocess.Popen([sys.executable, "-c", code])
    with locked([tmp_path]):
        assert f"process {os.getpid()} " in (tmp_path / LOCK).read_text()
        assert killer.wait() == 0
    assert not (tmp_path / LOCK).exists()


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.FileLock, "acquire", refuse)
    with locked([tmp_path]):
        assert "two runs at once are not noticed here (" in caplog.text


@pytest.mark.parametrize("linked, content", [(True, ""), (True, "mine"), (False, "mine")])
def test_a_file_of_the_user_in_the_place_of_the_lock_stays(tmp_path, linked, content):
    target = tmp_path / ("thesis.txt" if linked else LOCK)
    target.write_text(content)
    if linked:
        (tmp_path / LOCK).symlink_to(target)
    words = f"{LOCK}: is not a lock of this program and stays as it is; move it away"
    with pytest.raises(UserError, match=words), locked([tmp_path]):
        pass
    assert target.read_text() == content and (tmp_path / LOCK).is_symlink() == linked
