"""misc/runtime/threads.py: the setting is there before torch is, and never replaces the user's."""

import os
import subprocess
import sys

import pytest

from misc.runtime.threads import SPINS, wait_briefly
from tests.conftest import PROJECT

# Prints the setting at the moment when torch is looked for.
WATCHED = """
import os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
            sys.exit(0)

sys.meta_path.insert(0, Watch())
sys.argv = ["run_sample.py", "--check"]
runpy.run_path("run_sample.py", run_name={!r})
"""


def seen(name="__main__", **environment):
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    end = subprocess.run(
        [sys.executable, "-c", WATCHED.format(name)],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**clean, **environment},
    )
    return end.stdout.split()


def test_the_command_sets_it_before_torch_is_loaded():
    assert seen() == [SPINS, "None"]


def test_what_the_user_has_set_stays():
    assert seen(GOMP_SPINCOUNT="7") == ["7", "None"]
    assert seen(OMP_WAIT_POLICY="ACTIVE") == ["None", "ACTIVE"]


def test_importing_the_module_changes_nothing_and_loads_no_torch():
    assert seen("run_sample") == []


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_either_setting_counts(monkeypatch, name):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv(name, "1")
    wait_briefly()
    assert os.environ[name] == "1" and os.environ.get("GOMP_SPINCOUNT", "1") == "1"
