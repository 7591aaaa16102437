"""misc/storage/lock.py: one run at a time, and a killed one leaves nothing."""

import subprocess
import sys
import time

import pytest

from misc.errors import UserError
from misc.storage import lock
from misc.storage.lock import NAME, locked
from tests.conftest import PROJECT

HOLDER = """
import sys, time
from pathlib import Path
from misc.storage.lock import locked
with locked([Path(sys.argv[1])]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_told_who_holds_the_folder(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE", 0.0)
    words = f"{tmp_path}: another run writes here .process {holder.pid} on .* since "
    with pytest.raises(UserError, match=words), locked([tmp_path]):
        pass


def test_a_killed_run_leaves_no_lock(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / NAME).exists()
    with locked([tmp_path]):
        assert "process" in (tmp_path / NAME).read_text()
    assert not (tmp_path / NAME).exists()


def test_a_run_that_is_ending_is_waited_for(holder, tmp_path):
    code = f"import os, time; time.sleep(0.5); os.kill({holder.pid}, 9)"
    subprocess.Popen([sys.executable, "-c", code])
    start = time.monotonic()
    with locked([tmp_path]):
        assert time.monotonic() - start > 0.3


def test_several_folders_are_free_again_when_one_is_held(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE", 0.0)
    other = tmp_path / "a"
    other.mkdir()
    with pytest.raises(UserError), locked([other, tmp_path]):
        pass
    assert not (other / NAME).exists()


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    with locked([tmp_path]):
        assert "two runs at once are not noticed here (Operation not supported)" in caplog.text
