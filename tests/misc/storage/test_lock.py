"""misc/storage/lock.py: one run at a time, and a killed one leaves nothing."""

import subprocess
import sys
import time

import pytest

from misc.errors import UserError
from misc.storage import files
from misc.storage.files import LOCK, locked
from misc.storage.manifest import make_writable
from tests.conftest import PROJECT

HOLDER = """
import sys, time
from pathlib import Path
from misc.storage.files import LOCK, locked
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
    monkeypatch.setattr(files, "_PATIENCE", 0.0)
    words = f"{tmp_path}: another run writes here .process {holder.pid} on .* since "
    with pytest.raises(UserError, match=words), locked([tmp_path]):
        pass


def test_a_killed_run_leaves_no_lock(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with locked([tmp_path]):
        assert "process" in (tmp_path / LOCK).read_text()
    assert not (tmp_path / LOCK).exists()


def test_a_run_that_is_ending_is_waited_for(holder, tmp_path):
    code = f"import os, time; time.sleep(0.5); os.kill({holder.pid}, 9)"
    subprocess.Popen([sys.executable, "-c", code])
    start = time.monotonic()
    with locked([tmp_path]):
        assert time.monotonic() - start > 0.3


def test_several_folders_are_free_again_when_one_is_held(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PATIENCE", 0.0)
    other = tmp_path / "a"
    other.mkdir()
    with pytest.raises(UserError), locked([other, tmp_path]):
        pass
    assert not (other / LOCK).exists()


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.FileLock, "acquire", refuse)
    with locked([tmp_path]):
        assert "two runs at once are not noticed here (Operation not supported)" in caplog.text


@pytest.mark.parametrize("content", ["", "mine"])
def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path, content):
    target = tmp_path / "thesis.txt"
    target.write_text(content)
    (tmp_path / LOCK).symlink_to(target)
    with (
        pytest.raises(UserError, match=f"{LOCK}: is not a lock of this program"),
        locked([tmp_path]),
    ):
        pass
    assert target.read_text() == content and (tmp_path / LOCK).is_symlink()


def test_a_file_of_the_user_in_the_place_of_the_lock_stays(tmp_path):
    (tmp_path / LOCK).write_text("mine")
    with pytest.raises(UserError, match="move it away"), locked([tmp_path]):
        pass
    assert (tmp_path / LOCK).read_text() == "mine"


def test_locks_and_probes_of_other_programs_do_not_matter(tmp_path):
    for name in (".lock", ".probe"):
        (tmp_path / name).write_text("mine")
    make_writable(tmp_path, "--result_dir")
    with locked([tmp_path]):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        ".lock": "mine", ".probe": "mine"
    }  # fmt: skip


def test_the_holder_is_known_to_every_run_that_asks(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PATIENCE", 0.0)
    for _ in range(3):
        with pytest.raises(UserError, match=f"process {holder.pid} on"), locked([tmp_path]):
            pass
