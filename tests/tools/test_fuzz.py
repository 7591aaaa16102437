"""Hostile files are refused at little cost, and so is what fuzz.py makes in some seconds."""

import os
import pickle
import signal
import time

import pytest
import torch

from misc.data.dataset_info import read_image_list
from misc.errors import UserError
from net.checkpoint import load_backbone, load_boundary_net, load_classifier
from tests.tools import fuzz
from tests.tools.hostile import HOSTILE, Reduced, torch_file
from voc12.dataset import describe

MEMORY = 128 << 20  # bytes; the files are smaller than 2 MB
# Chunks of a PNG that hold no pixels are passed over, however large they would unpack to.
PASSED_OVER = ("text of 100 MB as image", "text of 100 MB as mask")


@pytest.fixture(scope="module")
def child():
    """The process that reads."""
    with pytest.MonkeyPatch.context() as patch, fuzz.Child(list(fuzz.READERS)) as child:
        patch.setattr(fuzz, "SECONDS", 60)  # other processes may slow this one down
        yield child


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(child, name):
    reader, build = HOSTILE[name]
    content = build()
    assert len(content) < 2e6
    outcome = child.read(reader, content)
    assert outcome.problem == "" and outcome.events == []
    assert outcome.accepted == (name in PASSED_OVER)
    assert outcome.memory < MEMORY


@pytest.mark.parametrize("name", fuzz.NAMES)
def test_valid_files_are_accepted(child, name):
    outcomes = [child.read(name, content) for content in fuzz.READERS[name].seeds()]
    assert not any(outcome.problem or outcome.events for outcome in outcomes)
    # Some readers share their files, or read the list of one dataset alone.
    shared = name in ("npy", "cam", "labels", "list", "map archives")
    assert (any if shared else all)(outcome.accepted for outcome in outcomes)


def test_spoilt_files_are_refused_or_read(child, tmp_path):
    outcomes, saved = fuzz.fuzz(child, fuzz.NAMES, seconds=5, seed=0, save=tmp_path / "failures")
    assert saved == [] and all(outcomes.values())


def test_networks_are_compared_before_they_are_built(tmp_path):
    """The networks that these files ask for would have terabytes."""
    names, path = ("conv1.weight", "layer1.0.conv1.weight", "classifier.weight"), tmp_path / "a.pth"
    path.write_bytes(torch_file({name: torch.zeros(60_000, 0) for name in names}))
    for load in (load_backbone, load_boundary_net, lambda p: load_classifier(p, 60_000)):
        with pytest.raises(UserError, match="a.pth is of another network"):
            load(path)


def test_long_lists_are_refused(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as stream:
        stream.truncate(65 << 20)
    with pytest.raises(UserError, match="a.txt: image list cannot be read .larger than 64 MiB"):
        read_image_list(path, describe(tmp_path))


@pytest.mark.parametrize(
    "call, seen",
    [(Reduced(os.system, "true"), "os.system"), (Reduced(eval, "1"), "pickle.find_class"),
     (Reduced(open, "/dev/null"), "open"), (Reduced(__import__, "this"), "import")],
)  # fmt: skip
def test_what_a_reader_must_not_do_is_noticed(child, call, seen):
    outcome = child.read(fuzz.CONTROL, pickle.dumps(call))
    assert any(event.startswith(seen) for event in outcome.events)


def test_memory_crashes_and_endless_reading_are_noticed(child, monkeypatch):
    calls = {
        "MiB of memory": Reduced(bytes.__mul__, b"a", fuzz.MEMORY + (1 << 21)),
        "MemoryError": Reduced(bytearray, fuzz.ADDRESS_SPACE),
        "ended by code -11": Reduced(signal.raise_signal, int(signal.SIGSEGV)),
    }
    for words, call in calls.items():
        assert words in child.read(fuzz.CONTROL, pickle.dumps(call)).problem
    assert child.read(fuzz.CONTROL, pickle.dumps(1)).accepted  # by a new process
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    outcome = child.read(fuzz.CONTROL, pickle.dumps(Reduced(time.sleep, 60)))
    assert outcome.problem == "no end after 0.5 seconds"
