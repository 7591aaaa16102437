"""misc/runtime/programs.py: the end of a program is one line, whatever ended it."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from misc.errors import NotReproducedError, SaidElsewhereError, UserError
from misc.runtime.programs import said_plainly, shielded
from misc.storage.torch_files import write_torch
from tests.conftest import PROJECT

PROGRAMS = {
    "run_sample": ["--check"],
    "step.sweep": ["--preset", "K"],
    "Dataset.make_sample": ["--out", "none"],
}
LINE = "interrupted: the same command resumes where it stopped\n"

# Sends Ctrl-C when a module is looked for, and again while it is loaded.
INTERRUPTED = """
import os, runpy, signal, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Watch())
name = sys.argv.pop(1)
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


def ended(code, *words):
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)


@pytest.mark.parametrize("name", PROGRAMS)
def test_ctrl_c_while_modules_load_is_one_line(name):
    end = ended(INTERRUPTED, name, *PROGRAMS[name])
    assert (end.returncode, end.stderr, end.stdout) == (130, LINE, "")


@pytest.fixture(autouse=True)
def handlers():
    """Signals do what they did, also after an interruption that is meant to end the process."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


def plain_work(number):
    send(number)
    pytest.fail("continued")


def work_whose_library_drops_the_interruption(number):
    with contextlib.suppress(KeyboardInterrupt):
        send(number)
    raise ValueError("a library thinks that a file is damaged")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("work", [plain_work, work_whose_library_drops_the_interruption])
def test_an_interrupted_run_ends_with_one_line(number, work, capfd):
    assert said_plainly(lambda: work(number)) == 128 + number
    assert capfd.readouterr().err == LINE


def test_writing_is_not_interrupted(tmp_path, monkeypatch):
    def save(content, stream):
        stream.write(b"PK\3\4 first half, ")
        send(signal.SIGTERM)
        stream.write(b"second half")

    def work():
        with shielded(), shielded():
            write_torch(tmp_path / "a.pth", {})
        pytest.fail("continued")

    monkeypatch.setattr("torch.save", save)
    assert said_plainly(work) == 128 + signal.SIGTERM
    assert (tmp_path / "a.pth").read_bytes().startswith(b"PK\3\4 first half, second half")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(("error", "code", "said"), [
    (UserError("a.csv: is empty\nb.csv: is empty"), 2, "error: a.csv: is empty\nerror: b.csv"),
    (SaidElsewhereError("a.csv: is empty"), 2, ""),
    (NotReproducedError("mIoU differs"), 1, "compared: mIoU differs"),
    (OSError(28, "No space left"), 1, "stopped: [Errno 28] No space left; the same command"),
])  # fmt: skip
def test_what_ends_a_program_is_said_in_lines(capsys, error, code, said):
    def work():
        raise error

    assert said_plainly(work) == code
    assert capsys.readouterr().err.startswith(said)
