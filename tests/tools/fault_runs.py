"""Runs of run_sample.py on a small sample that are watched and disturbed; see `faults`."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from Dataset.make_sample import make_sample
from Dataset.train_sample_classifier import SAMPLES
from misc.cli.options import STEPS
from misc.storage.files import LOCK
from tests.conftest import PROJECT, TINY

CHECKPOINT = str(PROJECT / SAMPLES["voc"].checkpoint)

# Steps of a second; the labels show objects, so that IRN has something to learn.
OPTIONS = (
    *TINY,
    *("--num_processes", "2", "--num_threads", "1", "--num_workers", "1", "--visualize", "2"),
    *("--imagenet_weights", CHECKPOINT, "--seg_init", CHECKPOINT, "--cam_num_epoches", "3"),
    *("--cam_learning_rate", "0.001", "--RIB_iter", "3", "--conf_fg_thres", "0.3"),
    *("--conf_bg_thres", "0.05", "--irn_num_epoches", "2", "--adv_iter", "2"),
    *("--seg_crop_size", "65", "--seg_batch_size", "4", "--seg_iterations", "4"),
    *("--seg_learning_rate", "0.0001"),
)

# The outputs of each step, in the result folder; the pictures come after the last step.
PRODUCTS = {
    "train_cam": ("res50_cam.pth",),
    "make_cam": ("cam_plain",),
    "make_recam_with_RIB": ("cam", "visualize/iterations/make_recam_with_RIB"),
    "make_recam_with_AdvCAM": ("cam_adv", "visualize/iterations/make_recam_with_AdvCAM"),
    "cam_to_ir_label": ("ir_label",),
    "train_irn": ("res50_irn.pth",),
    "make_sem_seg_labels": ("sem_seg",),
    "make_ins_seg_labels": ("ins_seg",),
    "train_seg": ("deeplab_v2.pth",),
    "make_seg": ("seg", "seg_crf"),
}
SPLIT = tuple(step for step in PRODUCTS if not step.startswith("train"))  # over processes
_WITH_INPUT = ("import_maps", "export_masks")  # steps that need an option of their own
MOMENTS = ("start", *STEPS, "pictures", "end")

_MARK = "FAULTS_RUN"  # in the environment of all processes of a run
_PATIENCE = 600.0  # seconds that a run may take
_SECONDS_TO_END = 30.0  # after a kill; a process that still starts has to load torch first
_POLL = 0.02
# Names of unfinished files, and the hashes of photographs, which are kept as steps read them.
_UNFINISHED = re.compile(r"(^|/)\.[^/]+\.tmp(\.\w+)?$|\.partial\.pth$|(^|/)contents\.json$")
_LAST_LINE = re.compile(r"^[\d:]+ log {2,}", re.MULTILINE)  # of a run


class FaultError(Exception):
    """A run did what it must not do."""


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path; log and scores tell times."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.log", "scores.json", LOCK)
    }


def differences(expected: dict[str, str], found: dict[str, str], cut_short: bool) -> list[str]:
    """One entry for each file that is missing, left over or different.

    cut_short: files may be missing, or have a name that says that they are unfinished.
    """
    if cut_short:
        found = {name: checksum for name, checksum in found.items() if not _UNFINISHED.search(name)}
    missing = [] if cut_short else expected.keys() - found.keys()
    entries = [f"missing: {name}" for name in missing]
    entries += [f"left over: {name}" for name in found.keys() - expected.keys()]
    both = expected.keys() & found.keys()
    entries += [f"different: {name}" for name in both if expected[name] != found[name]]
    return sorted(entries)


class Run:
    """run_sample.py in a session of its own; its processes are killed at the end of the block."""

    def __init__(self, options: list[str], screen: Path):
        self._screen, self._mark = screen, uuid.uuid4().hex
        command = [sys.executable, "-m", "tests.often_saving", *options]
        own = {"cwd": PROJECT, "env": {**os.environ, _MARK: self._mark}, "start_new_session": True}
        with screen.open("w") as file:  # no pipe: nobody would read it meanwhile
            self.process = subprocess.Popen(command, stdout=file, stderr=file, **own)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_) -> None:
        self.process.poll()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def screen(self) -> str:
        """The output so far."""
        return self._screen.read_text(errors="replace").replace("\r", "\n")

    def lines(self, *kinds: str) -> list[str]:
        """Lines of the screen that begin with "stopped: " or the like."""
        starts = tuple(f"{kind}: " for kind in kinds)
        return [line for line in self.screen().splitlines() if line.startswith(starts)]

    def moment(self) -> str:
        """The step that runs now: one of MOMENTS."""
        text = self.screen()
        if _LAST_LINE.search(text):
            return "end"
        if " making the pictures" in text:
            return "pictures"
        steps = re.findall(r"^[\d:]+ \[\d+/\d+\] (\w+):", text, re.MULTILINE)
        return steps[-1] if steps else "start"

    def reach(self, moment: str) -> bool:
        """Wait for a moment; False where the run ended before it."""
        number = MOMENTS.index(moment)
        return self._wait(lambda: MOMENTS.index(self.moment()) >= number)

    def _wait(self, condition: Callable[[], object]) -> bool:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if self.process.poll() is not None:
                return False
            self.require(time.monotonic() < deadline, f"nothing happens in {self.moment()}")
            time.sleep(_POLL)
        return True

    def processes(self) -> list[int]:
        """All processes of the run that are alive, by their environment."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if folder.name.isdigit() and self._mark in (folder / "environ").read_text():
                    found.append(int(folder.name))
        return found

    def children(self) -> list[int]:
        """Processes that compute or read for the main process."""
        main = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(OSError):
            pids = [int(pid) for pid in main.read_text().split()]
            commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in pids}
            return [pid for pid in pids if "resource_tracker" not in commands[pid]]
        return []

    def send(self, number: int, to_all: bool) -> None:
        """Send a signal to the main process or to its whole group."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if to_all else os.kill)(self.process.pid, number)

    def end(self) -> int:
        """Wait for the exit code; no process may be left, and no traceback is printed."""
        self._wait(lambda: False)
        self.gone()
        self.require("Traceback" not in self.screen(), "prints a traceback")
        return self.process.returncode

    def gone(self) -> None:
        """Wait until no process is left."""
        start = time.monotonic()
        while left := self.processes():
            self.require(time.monotonic() - start < _SECONDS_TO_END, f"processes are left: {left}")
            time.sleep(_POLL)

    def require(self, condition: object, text: str) -> None:
        """Raise FaultError with the end of the screen unless a condition holds."""
        if not condition:
            raise FaultError(f"{text}; the screen ends with:\n{self.screen()[-1500:]}")


@dataclass
class Bench:
    """The sample, the files of an undisturbed run, and the problems so far."""

    folder: Path
    rng: random.Random
    kills: int
    steps: tuple[str, ...] = tuple(step for step in STEPS if step not in _WITH_INPUT)
    options: tuple[str, ...] = ()
    reference: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # of every moment
    problems: list[str] = field(default_factory=list)

    @property
    def undisturbed(self) -> Path:
        """Results of the undisturbed run."""
        return self.folder / "undisturbed"

    @property
    def moments(self) -> tuple[str, ...]:
        """The moments of a run, before its end."""
        return ("start", *self.steps, *(("pictures",) if "eval_sem_seg" in self.steps else ()))

    @property
    def products(self) -> dict[str, tuple[str, ...]]:
        """The outputs of the steps."""
        return {step: names for step, names in PRODUCTS.items() if step in self.steps}

    def prepare(self) -> None:
        """Draw the sample and run undisturbed, in one process."""
        make_sample(self.folder / "sample", num_train=8, num_val=2)
        begun = [time.monotonic()]
        with self.start(self.undisturbed, "--num_processes", "1") as run:
            for moment in (*self.moments[1:], "end"):
                run.reach(moment)
                begun.append(time.monotonic())
            run.require(run.end() == 0, "the undisturbed run fails")
        lasted = [end - start for start, end in zip(begun, begun[1:], strict=False)]
        self.seconds = dict(zip(self.moments, lasted, strict=True))
        self.reference = checksums(self.undisturbed)

    def start(self, result: Path, *options: str | Path) -> Run:
        """Start a run with this result folder; its screen is kept beside it."""
        roots = ("--voc12_root", self.folder / "sample", "--result_dir", result)
        chosen = any(str(option).endswith("_pass") for option in options)
        passes = [] if chosen else [f"--{step}_pass" for step in self.steps]
        words = [*OPTIONS, *self.options, *roots, *passes, *options]
        return Run(list(map(str, words)), self.folder / f"{result.name}.screen")

    def finish(self, result: Path, *options: str | Path) -> None:
        """Run to the end: nothing missing, left over or different."""
        with self.start(result, *options) as run:
            run.require(run.end() == 0, "the run fails")
        self.compare(result)

    def compare(self, result: Path, cut_short: bool = False) -> None:
        """Raise FaultError where the results are not those of the undisturbed run."""
        if entries := differences(self.reference, checksums(result), cut_short):
            raise FaultError(f"{len(entries)} files are not right: {'; '.join(entries[:5])}")

    def remove(self, result: Path, step: str) -> None:
        """Remove the output of a step."""
        for product in (result / name for name in PRODUCTS[step]):
            if product.is_dir():
                shutil.rmtree(product, ignore_errors=True)
            product.unlink(missing_ok=True)

    def pause(self, moment: str, most: float = 1.0) -> None:
        """Sleep a random part of the time that a step takes."""
        time.sleep(self.rng.uniform(0, most * self.seconds[moment]))

    @contextlib.contextmanager
    def trial(self, name: str) -> Iterator[None]:
        """Record the FaultError of a trial; the next one follows."""
        try:
            yield
        except FaultError as fault:
            self.problems.append(f"{name}: {fault}")
            print(f"  {name}: {fault}", flush=True)
