"""misc/runtime/programs.py: Ctrl-C ends every program with one line, also while modules load."""

import subprocess
import sys

import pytest

from misc.errors import SaidElsewhereError, UserError
from misc.runtime.programs import said_plainly
from tests.conftest import PROJECT

PROGRAMS = {
    "run_sample": ["--check"],
    "step.sweep": ["--preset", "K"],
    "step.rib_process": [],
    "Demo.toy_experiment": [],
    "Dataset.make_sample": ["--out", "none"],
    "Dataset.train_sample_classifier": [],
    "voc12.prepare": ["--voc12_root", "none"],
    "coco14.prepare": ["--coco14_root", "none"],
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


def ended(code, *words, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=PROJECT
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_ctrl_c_while_modules_load_is_one_line(name):
    end = ended(INTERRUPTED, name, *PROGRAMS[name])
    assert (end.returncode, end.stderr, end.stdout) == (130, LINE, "")


def test_every_program_is_among_these():
    found = set()
    for path in (p for p in PROJECT.rglob("*.py") if p.relative_to(PROJECT).parts[0] != "tests"):
        if '__name__ == "__main__"' in path.read_text():
            found.add(".".join(path.relative_to(PROJECT).with_suffix("").parts))
    assert found == set(PROGRAMS)


AT_WORK = """
import os, signal, sys
from Dataset import make_sample

def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
make_sample.draw_scene = interrupt
sys.exit(make_sample.main(["--out", sys.argv[1]]))
"""


def test_ctrl_c_while_a_sample_is_drawn_is_one_line_and_leaves_nothing(tmp_path):
    end = ended(AT_WORK, str(tmp_path / "sample"))
    assert (end.returncode, end.stderr, end.stdout) == (130, LINE, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("a.csv: is empty\nb.csv: is empty"), 2, "error: a.csv: is empty\nerror: b.csv"),
        (SaidElsewhereError("a.csv: is empty"), 2, ""),
        (OSError(28, "No space left"), 1, "stopped: [Errno 28] No space left; the same command"),
    ],
)
def test_what_ends_a_program_is_said_in_lines(capsys, error, code, said):
    def work():
        raise error

    assert said_plainly(work) == code
    assert capsys.readouterr().err.startswith(said)
