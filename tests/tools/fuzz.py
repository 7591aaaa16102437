"""Feeds spoilt files to everything that reads files.

    python -m tests.tools.fuzz [--seconds 60] [--seed 0] [--reader NAME ...] [--save DIR]

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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from coco14.dataset import describe as describe_coco
from coco14.instances import read_instances
from coco14.masks import draw_mask
from misc.cams import load_cam
from misc.data.dataset_info import DatasetInfo, read_image_list
from misc.data.datasets import read_image
from misc.data.label_file import load_label_file
from misc.errors import UserError, about
from misc.storage.cam_files import load_dict
from misc.storage.manifest import check_folder, folder_hash
from misc.storage.outputs import Output
from misc.storage.torch_files import read_arrays
from net.checkpoint import load_backbone, load_boundary_net, load_classifier, read_checkpoint
from tests.tools import fuzz_inputs as inputs
from tests.tools.hostile import HOSTILE
from voc12.dataset import describe as describe_voc
from voc12.prepare import label_from_mask, label_from_xml

SECONDS = 10  # for one input
MEMORY = 1 << 30  # bytes for one input, above what the process has before
ADDRESS_SPACE = 2 << 30  # bytes above what the process has when it starts
VOC, COCO = describe_voc("voc"), describe_coco("coco")

# What no reader may do: by the first word of Python's name of the event, or by the whole name.
_FORBIDDEN = set(
    """subprocess socket ctypes shutil urllib pty marshal exec code.__new__
    pickle.find_class tempfile.mkstemp tempfile.mkdtemp os.system os.exec os.fork os.forkpty
    os.posix_spawn os.spawn os.kill os.putenv os.mkdir os.remove os.rename os.rmdir os.link
    os.symlink os.chmod os.truncate""".split()
)


def _read_checkpoints(path: Path) -> None:
    read_checkpoint(path)
    for load in (load_backbone, load_boundary_net, lambda p: load_classifier(p, 20)):
        with contextlib.suppress(UserError):
            load(path)


def _read_coco(path: Path) -> None:
    for image in read_instances(path, COCO):
        with about(path):  # as its caller does, which knows the mask's path
            draw_mask(image)


def _read_photograph(path: Path) -> None:
    with contextlib.suppress(UserError):
        VOC._header_size(path)
    read_image(path)


def _read_list(path: Path, info: DatasetInfo = VOC) -> None:
    if info is VOC:
        with contextlib.suppress(UserError):
            _read_list(path, COCO)
    for image_id in read_image_list(path, info):
        place = info.image_path(image_id).resolve().relative_to(Path.cwd())
        assert info.root in place.parents and info.is_id(image_id)


def _read_manifest(path: Path) -> None:
    folder_hash(path.parent)
    folder = Output("--out_dir", path.parent, suffix=".npy")
    check_folder(folder, {"step": "make_cam", "scales": [1.0, 0.5]})


class Reader(NamedTuple):
    """The reader of a file of this name, small valid ones, and how they are spoilt."""

    file_name: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    spoil: tuple[inputs.Mutator, ...]


_NPY = (inputs.spoil_npy, inputs.spoil_bytes)
_TEXT = (inputs.spoil_tokens, inputs.spoil_tokens, inputs.spoil_bytes)
_PNG = (inputs.spoil_png, inputs.spoil_bytes)
_ZIP = (inputs.spoil_archive,) * 3 + (inputs.spoil_bytes,)
CONTROL = "control"  # what no reader may be: by it the tests see that this module notices
READERS = {
    "npy": Reader("a.npy", lambda p: load_dict(p, "fix it"), inputs.npy_seeds, _NPY),
    "cam": Reader("a.npy", load_cam, inputs.npy_seeds, _NPY),
    "labels": Reader("a.npy", lambda p: load_label_file(p, VOC), inputs.npy_seeds, _NPY),
    "maps": Reader("a.npy", read_arrays, inputs.npy_seeds, _NPY),
    "map archives": Reader("a.npz", read_arrays, inputs.npz_seeds, _ZIP),
    "label archives": Reader("a.npz", lambda p: load_label_file(p, VOC), inputs.npz_seeds, _ZIP),
    "checkpoint": Reader("a.pth", _read_checkpoints, inputs.checkpoint_seeds, _ZIP),
    "xml": Reader("a.xml", lambda p: label_from_xml(p, VOC), lambda: inputs.XML, _TEXT),
    "coco": Reader("a.json", _read_coco, inputs.coco_seeds, _TEXT),
    "image": Reader("a.jpg", _read_photograph, inputs.image_seeds, _PNG),
    "mask": Reader("a.png", lambda p: label_from_mask(p, VOC),
                   lambda: [inputs.picture("PNG", "L")], _PNG),
    "list": Reader("a.txt", _read_list, lambda: inputs.LISTS, _TEXT),
    "manifest": Reader("manifest.json", _read_manifest, lambda: inputs.MANIFESTS, _TEXT),
    "label tables": Reader("a.csv", lambda p: load_label_file(p, VOC),
                           lambda: inputs.TABLES, _TEXT),
    CONTROL: Reader("a.pkl", lambda p: pickle.loads(p.read_bytes()), list, ()),
}  # fmt: skip
NAMES = [name for name in READERS if name != CONTROL]


class Outcome(NamedTuple):
    """The outcome of an input."""

    problem: str  # "" where it was accepted or refused as it should be
    accepted: bool
    events: list[str]  # what was done that no reader may do
    memory: int  # bytes, at most, above what the process had before
    seconds: float


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
        elif event == "import":  # the codec that a file names; what imageio looks for each time
            forbidden = not str(args[0]).startswith(("encodings.", "pillow_heif"))
        if forbidden:
            self.events.append(f"{event} {str(args)[:200]}")
        self.on = True


def serve(connection: Connection, folder: Path, names: list[str]) -> None:
    """Body of the process that reads: (reader, file) -> Outcome, until the connection is closed."""
    os.chdir(folder)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    for reader in (READERS[name] for name in names):  # so that nothing is left to be imported
        for seed in [*reader.seeds(), b"", b"x"]:
            (folder / reader.file_name).write_bytes(seed)
            with contextlib.suppress(Exception):
                reader.read(folder / reader.file_name)
    for module in pkgutil.iter_modules(encodings.__path__, "encodings."):
        with contextlib.suppress(ImportError):  # those of other systems
            importlib.import_module(module.name)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + ADDRESS_SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch(folder)
    connection.send(None)
    with contextlib.suppress(EOFError):
        while True:
            name, content = connection.recv()
            connection.send(_outcome(READERS[name], folder, content, watch))


def _outcome(reader: Reader, folder: Path, content: bytes, watch: Watch) -> Outcome:
    path, problem, accepted = folder / reader.file_name, "", False
    path.write_bytes(content)
    watch.events = []
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before, start = _memory("VmRSS"), time.perf_counter()
    watch.on = True
    try:
        reader.read(path)
        accepted = True
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
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) << 10


def _fault(error: UserError, path: Path) -> str:
    """Return what is wrong with a refusal, or ""."""
    text, cause = str(error), error
    while cause := cause.__cause__ or cause.__context__:
        if isinstance(cause, MemoryError) or "allocate" in str(cause):
            return f"out of memory: {text[:200]}"
    if str(path.parent) not in text or not text.isprintable() or len(text) > 1000:
        return f"a message that is none: {text[:200]!r}"
    return ""


class Child(contextlib.AbstractContextManager):
    """A process that reads; a new one is started when it dies or takes too long."""

    def __init__(self, names: list[str]):
        self.names, self.process = names, None

    def __exit__(self, *_: object) -> None:
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
        """Return what becomes of an input of a reader."""
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
        self.__exit__()
        return Outcome(problem, False, [], 0, float(SECONDS))


def fuzz(
    child: Child, names: list[str], seconds: float, seed: int, save: Path
) -> tuple[dict[str, list[Outcome]], list[str]]:
    """Try spoilt files on each of the readers for its part of the time; what did worse, by line."""
    outcomes, saved = {name: [] for name in names}, []
    for name, of_reader in outcomes.items():
        reader, seeds = READERS[name], READERS[name].seeds()
        hostile = [build() for reader_name, build in HOSTILE.values() if reader_name == name]
        hostile = [data for data in hostile if len(data) < inputs.MAX_INPUT // 16] or seeds
        end = time.monotonic() + seconds / len(names)
        while time.monotonic() < end:
            rng = random.Random(f"{seed} {name} {len(of_reader)}")
            content = rng.choice(rng.choice([seeds, seeds, hostile]))
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                content = rng.choice(reader.spoil)(rng, content)
            of_reader.append(child.read(name, content))
            for problem in filter(None, [of_reader[-1].problem, *of_reader[-1].events]):
                save.mkdir(parents=True, exist_ok=True)
                path = save / f"{name}-{seed}-{len(of_reader)}-{reader.file_name}"
                path.write_bytes(content)
                saved.append(f"{path}: {problem}")
    return outcomes, saved


def main() -> int:
    """Command line of this module; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--save", type=Path, default=Path("fuzz_failures"), metavar="DIR")
    args = parser.parse_args()
    with Child(args.reader) as child:
        outcomes, saved = fuzz(child, args.reader, args.seconds, args.seed, args.save)
    print("reader          inputs accepted refused crashes executed  MiB slowest ms")
    for name, all_ in outcomes.items():
        accepted, crashes = sum(o.accepted for o in all_), sum(bool(o.problem) for o in all_)
        executed, memory = sum(bool(o.events) for o in all_), max(o.memory for o in all_) >> 20
        print(f"{name:14} {len(all_):7} {accepted:8} {len(all_) - accepted - crashes:7} {crashes:7}"
              f" {executed:8} {memory:4} {1000 * max(o.seconds for o in all_):10.0f}")  # fmt: skip
    print(*saved, sep="\n")
    return int(bool(saved))


if __name__ == "__main__":
    sys.exit(main())
