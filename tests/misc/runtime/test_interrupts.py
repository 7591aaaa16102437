"""misc/runtime/interrupts.py: a signal ends the block, wherever its exception came up."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from misc.runtime import interrupts
from misc.runtime.interrupts import Interrupted, noticed, shielded
from misc.storage.torch_files import write_torch
from tests.conftest import PROJECT

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_block(number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, noticed():
        send(number)
        pytest.fail("went on")
    assert caught.value.number == number and signal.getsignal(number) == before


def test_a_second_signal_leaves_the_ending_alone():
    ended = []
    with pytest.raises(Interrupted), noticed():
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGTERM)
            send(signal.SIGINT)
            ended.append(True)
    assert ended


def test_an_error_that_a_signal_led_to_is_an_interruption():
    with pytest.raises(Interrupted), noticed():
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ValueError("a library thinks that a file is damaged") from None
    with pytest.raises(ValueError), noticed():
        raise ValueError("it is")


def test_a_dropped_exception_is_raised_at_the_next_check():
    with pytest.raises(Interrupted), noticed():
        with contextlib.suppress(KeyboardInterrupt):
            send(signal.SIGTERM)
        interrupts.check()
        pytest.fail("went on")


def test_writing_is_not_interrupted(tmp_path, monkeypatch):
    def save(content, stream):
        stream.write(b"PK\3\4 first half, ")
        send(signal.SIGTERM)
        stream.write(b"second half")

    monkeypatch.setattr("torch.save", save)
    with pytest.raises(Interrupted), noticed(), shielded():
        write_torch(tmp_path / "a.pth", {})
    assert (tmp_path / "a.pth").read_bytes().startswith(b"PK\3\4 first half, second half")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_shield_inside_another_one_waits_for_the_outer():
    done = []
    with pytest.raises(Interrupted), noticed(), shielded():
        with shielded():
            send(signal.SIGINT)
        done.append(True)
    assert done


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_interpreter_ends_leaves_the_exit_code(number):
    program = """if True:
        import atexit, os, sys
        from misc.runtime.interrupts import noticed
        number = int(sys.argv[1])
        atexit.register(os.kill, os.getpid(), number)
        with noticed(ends_process=True):
            pass
        os.kill(os.getpid(), number)
        sys.exit(5)
    """
    command = [sys.executable, "-c", program, str(int(number))]
    assert subprocess.run(command, cwd=PROJECT).returncode == 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + 15), (signal.SIGINT, 5)])
def test_a_forked_reader_without_handlers_of_its_own_says_nothing(number, code):
    program = """if True:
        import os, signal, sys
        from misc.runtime.interrupts import noticed
        with noticed():
            if pid := os.fork():
                _, status = os.waitpid(pid, 0)
            else:
                os.kill(os.getpid(), int(sys.argv[1]))
                os._exit(5)
        sys.exit(os.waitstatus_to_exitcode(status))
    """
    command = [sys.executable, "-c", program, str(int(number))]
    end = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert (end.returncode, end.stderr) == (code, "")
