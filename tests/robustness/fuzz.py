"""Feeds spoilt files to everything that reads files.

    python -m tests.robustness.fuzz [--seconds 60] [--seed 0] [--reader NAME ...] [--save DIR]

Every input has to be accepted or refused by a UserError of one line that names the file, in 10
seconds and 1 GiB of memory, without running code, importing, or opening anything but the file.
What does worse is saved, and the exit code is 1.
"""

import argparse
import contextlib
import encodings
import importlib
import multiprocessing
import os
import pickle
import pkgutil
import random
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from coco14.dataset import describe as describe_coco
from coco14.instances import read_instances
from coco14.masks import draw_mask
from misc.cams import load_cam
from misc.data.dataset_info import read_image_list
from misc.data.datasets import read_image
from misc.data.label_file import load_label_file
from misc.errors import UserError, about
from misc.storage.cam_files import load_dict
from misc.storage.manifest import check_folder, folder_hash
from misc.storage.outputs import Output
from net.checkpoint import load_backbone, load_boundary_net, load_classifier, read_checkpoint
from tests.robustness import fuzz_inputs as inputs
from tests.robustness.hostile import HOSTILE
from voc12.dataset import describe as describe_voc
from voc12.prepare import label_from_mask, label_from_xml

SECONDS = 10  # for one input
MEMORY = 1 << 30  # bytes for one input, above what the process has before
ADDRESS_SPACE = 2 << 30  # bytes above what the process has when it starts

VOC, COCO = describe_voc("voc"), describe_coco("coco")

# What no reader may do: by the first word of Python's name of the event, or by the whole name.
_FORBIDDEN = {"subprocess", "socket", "ctypes", "shutil", "urllib", "pty", "marshal", "winreg"}
_FORBIDDEN |= {"exec", "code.__new__", "pickle.find_class", "os.system", "os.exec", "os.fork"}
_FORBIDDEN |= {"os.forkpty", "os.posix_spawn", "os.spawn", "os.kill", "os.putenv", "os.mkdir"}
_FORBIDDEN |= {"os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.chmod"}
_FORBIDDEN |= {"os.truncate", "tempfile.mkstemp", "tempfile.mkdtemp"}


def _read_checkpoints(path: Path) -> None:
    read_checkpoint(path)
    for load in (load_backbone, load_boundary_net, lambda p: load_classifier(p, 20)):
        with contextlib.suppress(UserError):
            load(path)


def _read_coco(path: Path) -> None:
    images, class_index = read_instances(path, COCO)
    for image in images:
        with about(path):  # as its caller does, which knows the mask's path
            draw_mask(image, class_index)


def _read_photograph(path: Path) -> None:
    with contextlib.suppress(UserError):
        VOC._header_size(path)
    read_image(path)


def _read_list(path: Path) -> None:
    for info in (VOC, COCO):
        with contextlib.suppress(UserError):
            ids = read_image_list(path, info)
            assert all(i.isascii() and len(str(info.label_key(i))) <= 12 for i in ids)
            for image_id in ids:
                assert (
                    info.root in info.image_path(image_id).resolve().relative_to(Path.cwd()).parents
                )
    read_image_list(path, VOC)


def _read_manifest(path: Path) -> None:
    folder_hash(path.parent)
    check_folder(
        Output("--out_dir", path.parent, suffix=".npy"), {"step": "make_cam", "scales": [1.0, 0.5]}
    )


def _labels_hold(labels: dict[int, np.ndarray]) -> bool:
    return all(
        type(key) is int and row.dtype == np.float32 and row.shape == (VOC.num_classes,)
        and np.isin(row, (0, 1)).all()
        for key, row in labels.items()
    )  # fmt: skip


def _cam_holds(maps: dict[str, np.ndarray]) -> bool:
    values = [maps[name] for name in ("cam", "high_res")]
    finite = all(np.isfinite(v).all() and (np.abs(v - 0.5) <= 0.502).all() for v in values)
    return finite and len(set(maps["keys"].tolist())) == len(maps["keys"]) == len(values[0])


def _list_holds(ids: tuple[str, ...]) -> bool:
    return len(set(ids)) == len(ids) > 0 and all(VOC.is_id(i) for i in ids)


def _image_holds(image: np.ndarray) -> bool:
    return image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0


class Reader(NamedTuple):
    """What reads a file of this name, small valid ones, and how they are spoilt."""

    file_name: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    spoil: tuple[inputs.Mutator, ...]
    holds: Callable[[Any], bool] = lambda result: True  # what is true of all that is accepted


_TEXT = (inputs.spoil_tokens, inputs.spoil_tokens, inputs.spoil_bytes)
_PNG = (inputs.spoil_png, inputs.spoil_bytes)
READERS = {
    "npy": Reader("a.npy", lambda p: load_dict(p, "fix it"), inputs.npy_seeds,
                  (inputs.spoil_npy, inputs.spoil_bytes)),
    "cam": Reader("a.npy", load_cam, inputs.npy_seeds, (inputs.spoil_npy, inputs.spoil_bytes)),
    "labels": Reader("a.npy", lambda p: load_label_file(p, VOC), inputs.npy_seeds,
                     (inputs.spoil_npy, inputs.spoil_bytes)),
    "checkpoint": Reader("a.pth", _read_checkpoints, inputs.checkpoint_seeds,
                         (inputs.spoil_archive,) * 3 + (inputs.spoil_bytes,)),
    "xml": Reader("a.xml", lambda p: label_from_xml(p, VOC), inputs.xml_seeds, _TEXT),
    "coco": Reader("a.json", _read_coco, inputs.coco_seeds, _TEXT),
    "image": Reader("a.jpg", _read_photograph, inputs.image_seeds, _PNG),
    "mask": Reader("a.png", lambda p: label_from_mask(p, VOC), inputs.mask_seeds, _PNG),
    "list": Reader("a.txt", _read_list, inputs.list_seeds, _TEXT),
    "manifest": Reader("manifest.json", _read_manifest, inputs.manifest_seeds, _TEXT),
    # Whole files with values that make no sense.
    "label values": Reader("a.npy", lambda p: load_label_file(p, VOC), inputs.npy_seeds,
                           (inputs.label_values,), _labels_hold),
    "label tables": Reader("a.csv", lambda p: load_label_file(p, VOC), inputs.csv_seeds,
                           (inputs.csv_values, inputs.spoil_tokens), _labels_hold),
    "label archives": Reader("a.npz", lambda p: load_label_file(p, VOC), inputs.npz_seeds,
                             (inputs.npz_values, inputs.spoil_bytes), _labels_hold),
    "cam values": Reader("a.npy", load_cam, inputs.npy_seeds, (inputs.cam_values,), _cam_holds),
    "list values": Reader("a.txt", lambda p: read_image_list(p, VOC), inputs.list_seeds,
                          (inputs.list_values,), _list_holds),
    "image values": Reader("a.jpg", read_image, inputs.image_seeds, (inputs.image_values,),
                           _image_holds),
}  # fmt: skip


# What no reader may be: by it the tests see that the rest of this module notices what it should.
CONTROL = "control"
READERS[CONTROL] = Reader("a.pkl", lambda p: pickle.loads(p.read_bytes()), list, ())


class Outcome(NamedTuple):
    """What became of an input."""

    problem: str  # "" where it was accepted or refused as it should be
    accepted: bool
    events: list[str]  # what was done that no reader may do
    memory: int  # bytes, at most, above what the process had before
    seconds: float


@dataclass
class Tally:
    """Sums over the inputs of a reader."""

    inputs: int = 0
    accepted: int = 0
    crashes: int = 0
    executed: int = 0
    memory: int = 0
    seconds: float = 0.0
    saved: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count an input."""
        self.inputs += 1
        self.accepted += outcome.accepted
        self.crashes += bool(outcome.problem)
        self.executed += bool(outcome.events)
        self.memory = max(self.memory, outcome.memory)
        self.seconds = max(self.seconds, outcome.seconds)


# --- in the process that reads ------------------------------------------------------------------


class Watch:
    """Notes forbidden events of Python's audit hook while it is switched on."""

    def __init__(self, folder: Path):
        self.on, self.events, self.folder = False, [], str(folder)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if not self.on:
            return
        self.on = False  # what follows may raise events itself
        forbidden = event in _FORBIDDEN or event.partition(".")[0] in _FORBIDDEN
        if event == "open":
            forbidden = not str(os.fsdecode(args[0])).startswith(self.folder)
        elif event == "import":  # a codec that a file names is looked for among Python's own
            forbidden = not str(args[0]).startswith("encodings.")
        if forbidden:
            self.events.append(f"{event} {str(args)[:200]}")
        self.on = True


def serve(connection: Connection, folder: Path, names: list[str]) -> None:
    """Body of the process that reads: (reader, file) -> Outcome, until the connection is closed."""
    readers = {name: READERS[name] for name in names}
    os.chdir(folder)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    for reader in readers.values():  # so that nothing is left to be imported
        for seed in [*reader.seeds(), b"", b"x"]:
            (folder / reader.file_name).write_bytes(seed)
            with contextlib.suppress(Exception):
                reader.read(folder / reader.file_name)
    for module in pkgutil.iter_modules(encodings.__path__, "encodings."):
        with contextlib.suppress(ImportError):  # those of other systems
            importlib.import_module(module.name)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE, size + ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch(folder)
    connection.send(None)
    with contextlib.suppress(EOFError):
        while True:
            name, content = connection.recv()
            connection.send(_outcome(readers[name], folder, content, watch))


def _outcome(reader: Reader, folder: Path, content: bytes, watch: Watch) -> Outcome:
    path = folder / reader.file_name
    path.write_bytes(content)
    problem, accepted = "", False
    watch.events = []
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before, start = _memory("VmRSS"), time.perf_counter()
    watch.on = True
    try:
        result = reader.read(path)
        accepted = True
        watch.on = False
        problem = "" if reader.holds(result) else "accepted values that make no sense"
    except UserError as error:
        problem = _fault(error, path)
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"[:300]
    watch.on = False
    memory, seconds = _memory("VmHWM") - before, time.perf_counter() - start
    if memory > MEMORY:
        problem = problem or f"{memory >> 20} MiB of memory"
    path.unlink(missing_ok=True)
    return Outcome(problem, accepted, watch.events, memory, seconds)


def _memory(name: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


def _fault(error: UserError, path: Path) -> str:
    """What is wrong with a refusal, or ""."""
    text = str(error)
    cause: BaseException | None = error
    while cause := cause.__cause__ or cause.__context__:
        if isinstance(cause, MemoryError) or "allocate" in str(cause):
            return f"out of memory: {text[:200]}"
    if str(path.parent) not in text or not text.isprintable() or len(text) > 1000:
        return f"a message that is none: {text[:200]!r}"
    return ""


# --- in the process that spoils -----------------------------------------------------------------


class Child:
    """A process that reads; a new one is started when it dies or takes too long."""

    def __init__(self, names: list[str]):
        self.names, self.process = names, None

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.join()
            self.folder.cleanup()
        self.process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory(prefix="fuzz")
        self.connection, other = context.Pipe()
        arguments = (other, Path(self.folder.name).resolve(), self.names)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        other.close()
        self.connection.recv()

    def read(self, name: str, content: bytes) -> Outcome:
        """What becomes of an input of a reader."""
        if not self.process:
            self._start()
        try:
            self.connection.send((name, content))
            if self.connection.poll(SECONDS):
                return self.connection.recv()
            problem = f"no end after {SECONDS} seconds"
        except (EOFError, ConnectionError):
            self.process.join()
            problem = f"ended by code {self.process.exitcode}"
        self._stop()
        return Outcome(problem, False, [], 0, float(SECONDS))


def spoilt(reader: Reader, seeds: list[bytes], rng: random.Random) -> bytes:
    """A valid file, spoilt once or a few times."""
    content = rng.choice(seeds)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        content = rng.choice(reader.spoil)(rng, content)
    return content


def _seeds(name: str) -> list[bytes]:
    """Valid files and, one of three, hostile ones."""
    valid = READERS[name].seeds()
    hostile = [h.build() for h in HOSTILE.values() if h.reader == name]
    hostile = [content for content in hostile if len(content) < inputs.MAX_INPUT // 16]
    return valid * (1 + 2 * len(hostile) // len(valid)) + hostile


def fuzz(names: list[str], seconds: float, seed: int, save: Path) -> dict[str, Tally]:
    """Try spoilt files on each of the readers for its share of the time."""
    tallies = {name: Tally() for name in names}
    with Child(names) as child:
        for name, tally in tallies.items():
            reader, seeds = READERS[name], _seeds(name)
            end = time.monotonic() + seconds / len(names)
            while time.monotonic() < end:
                content = spoilt(reader, seeds, random.Random(f"{seed} {name} {tally.inputs}"))
                outcome = child.read(name, content)
                tally.add(outcome)
                for problem in filter(None, [outcome.problem, *outcome.events]):
                    save.mkdir(parents=True, exist_ok=True)
                    path = save / f"{name}-{seed}-{tally.inputs}{Path(reader.file_name).suffix}"
                    path.write_bytes(content)
                    tally.saved.append(f"{path}: {problem}")
    return tallies


def main() -> int:
    """Command line of this module; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", nargs="+", choices=[*READERS][:-1], default=[*READERS][:-1])
    parser.add_argument("--save", type=Path, default=Path("fuzz_failures"), metavar="DIR")
    args = parser.parse_args()
    tallies = fuzz(args.reader, args.seconds, args.seed, args.save)
    print("reader          inputs accepted refused crashes executed  MiB slowest ms")
    for name, t in tallies.items():
        refused = t.inputs - t.accepted - t.crashes
        print(f"{name:14} {t.inputs:7} {t.accepted:8} {refused:7} {t.crashes:7} {t.executed:8}"
              f" {t.memory >> 20:4} {1000 * t.seconds:10.0f}")  # fmt: skip
    for line in (line for t in tallies.values() for line in t.saved):
        print(line)
    return int(any(t.crashes or t.executed for t in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
