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
from tests.conftest import PROJECT

CHECKPOINT = PROJECT / SAMPLES["voc"].checkpoint

# Steps of a second; the labels show objects, so that IRN has something to learn.
OPTIONS = (
    *("--device", "cpu", "--num_processes", "2", "--num_threads", "1", "--num_workers", "1"),
    *("--visualize", "2", "--max_long", "96"),
    *("--imagenet_weights", str(CHECKPOINT), "--cam_crop_size", "64", "--cam_long", "64,96"),
    *("--cam_batch_size", "4", "--cam_num_epoches", "3", "--cam_learning_rate", "0.001"),
    *("--RIB_iter", "3", "--RIB_batch_size", "2", "--conf_fg_thres", "0.3"),
    *("--conf_bg_thres", "0.05", "--irn_crop_size", "64", "--irn_radius", "4"),
    *("--irn_batch_size", "2", "--irn_num_epoches", "2", "--irn_pad_size", "0"),
    *("--exp_times", "2", "--adv_iter", "2", "--seg_init", str(CHECKPOINT)),
    *("--seg_crop_size", "65", "--seg_batch_size", "4", "--seg_iterations", "4"),
    *("--seg_learning_rate", "0.0001"),
)

# What a step writes, in the result folder; the pictures come after the last step.
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
_WITH_INPUT = ("import_maps", "export_masks")  # steps that want an option of their own
MOMENTS = ("start", *STEPS, "pictures", "end")
# Steps that hand their images to processes of their own.
SPLIT = (
    "make_cam", "make_recam_with_RIB", "make_recam_with_AdvCAM", "cam_to_ir_label",
    "make_sem_seg_labels", "make_ins_seg_labels", "make_seg",
)  # fmt: skip

_MARK = "FAULTS_RUN"  # in the environment of all processes of a run
_PATIENCE = 600.0  # seconds that a run may take
_SECONDS_TO_END = 30.0  # after a kill; a process that still starts has to load torch first
_POLL = 0.02
_UNFINISHED = re.compile(r"(^|/)\.[^/]+\.tmp(\.\w+)?$|\.partial\.pth$|(^|/)\.probe$")
_REPORTED = re.compile(r"^[\d:]+ log {2,}", re.MULTILINE)  # the last line of a run


def _folders(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}/" for name in names)


class FaultError(Exception):
    """What should not have happened."""


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path; log and scores tell times."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.log", "scores.json", LOCK)
    }


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """One entry for each file that is missing, left over or different."""
    entries = [f"missing: {name}" for name in expected.keys() - found.keys()]
    entries += [f"left over: {name}" for name in found.keys() - expected.keys()]
    both = expected.keys() & found.keys()
    entries += [f"different: {name}" for name in both if expected[name] != found[name]]
    return sorted(entries)


def unfinished_differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """The same for a run that was cut short: a file is missing, unfinished by name, or right."""
    finished = {name: d for name, d in found.items() if not _UNFINISHED.search(name)}
    entries = differences(expected, finished)
    return [entry for entry in entries if not entry.startswith("missing")]


class Run:
    """run_sample.py in a session of its own; whatever is left of it is killed at the end."""

    def __init__(self, options: list[str], screen: Path, ranks: int = 1):
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--max-restarts", "3")
        launcher = (*torchrun, "--nproc-per-node", str(ranks)) if ranks > 1 else ()
        self._screen, self._mark = screen, uuid.uuid4().hex
        with screen.open("w") as file:  # no pipe: nobody would read it meanwhile
            self.process = subprocess.Popen(
                [sys.executable, *launcher, "-m", "tests.often_saving", *options],
                cwd=PROJECT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, _MARK: self._mark},
                start_new_session=True,
            )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_) -> None:
        self.process.poll()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def screen(self) -> str:
        """What was printed so far."""
        return self._screen.read_text(errors="replace").replace("\r", "\n")

    def lines(self, *kinds: str) -> list[str]:
        """Lines of the screen that begin with "stopped: " or the like."""
        starts = tuple(f"{kind}: " for kind in kinds)
        return [line for line in self.screen().splitlines() if line.startswith(starts)]

    def moment(self) -> str:
        """The step that runs now: one of MOMENTS."""
        text = self.screen()
        if _REPORTED.search(text):
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
            if time.monotonic() > deadline:
                raise FaultError(f"nothing happens in {self.moment()}: {self.screen()[-300:]}")
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
        """Processes that compute or read for the main process, or the ranks of torchrun."""
        main = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = []
        with contextlib.suppress(OSError):
            for pid in map(int, main.read_text().split()):
                if "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text():
                    pids.append(pid)
        return pids

    def send(self, number: int, to_all: bool) -> None:
        """Send a signal to the main process or to its whole group."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if to_all else os.kill)(self.process.pid, number)

    def end(self, silent: bool = True) -> int:
        """Wait for the exit code; no process may be left, and no traceback if `silent`."""
        self._wait(lambda: False)
        self.gone()
        self.require(not silent or "Traceback" not in self.screen(), "prints a traceback")
        return self.process.returncode

    def gone(self) -> float:
        """Wait until no process is left; the seconds that this took."""
        start = time.monotonic()
        while self.processes():
            if time.monotonic() - start > _SECONDS_TO_END:
                names = [Path(f"/proc/{p}/cmdline").read_text()[-80:] for p in self.processes()]
                raise FaultError(f"processes are left: {names}")
            time.sleep(_POLL)
        return time.monotonic() - start

    def require(self, condition: object, text: str) -> None:
        """FaultError with the end of the screen unless a condition holds."""
        if not condition:
            raise FaultError(f"{text}; the screen ends with:\n{self.screen()[-1500:]}")


@dataclass
class Bench:
    """The sample, what an undisturbed run makes of it, and what went wrong so far."""

    folder: Path
    rng: random.Random
    kills: int
    images: int = 8
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
        """What a run goes through, before its end."""
        return ("start", *self.steps, *(("pictures",) if "eval_sem_seg" in self.steps else ()))

    @property
    def products(self) -> dict[str, tuple[str, ...]]:
        """What the steps write."""
        return {step: names for step, names in PRODUCTS.items() if step in self.steps}

    def made_by(self, step: str) -> list[str]:
        """Names of all files that a step writes."""
        products = self.products.get(step, ("visualize",) if step == "pictures" else ())
        return [name for name in self.reference if f"{name}/".startswith(_folders(products))]

    def prepare(self) -> None:
        """Draw the sample and run undisturbed."""
        make_sample(self.folder / "sample", self.images, 2)
        begun = {"start": time.monotonic()}
        with self.start(self.undisturbed) as run:
            for moment in (*self.moments[1:], "end"):
                run.reach(moment)
                begun[moment] = time.monotonic()
            run.require(run.end() == 0, "the undisturbed run fails")
        later = zip(self.moments, (*self.moments[1:], "end"), strict=True)
        self.seconds = {moment: begun[following] - begun[moment] for moment, following in later}
        self.reference = digests(self.undisturbed)

    def start(
        self, result: Path, *options: str | Path, ranks: int = 1, screen: str | None = None
    ) -> Run:
        """Start a run with this result folder; its screen is kept beside it, by this name."""
        roots = ("--voc12_root", self.folder / "sample", "--result_dir", result)
        chosen = any(str(option).endswith("_pass") for option in options)
        passes = [] if chosen else [f"--{step}_pass" for step in self.steps]
        words = list(map(str, (*OPTIONS, *self.options, *roots, *passes, *options)))
        return Run(words, self.folder / f"{screen or result.name}.screen", ranks)

    def finish(self, result: Path, *options: str | Path) -> None:
        """Run to the end: nothing missing, left over or different."""
        with self.start(result, *options) as run:
            run.require(run.end() == 0, "the run fails")
        self.compare(result)

    def compare(self, result: Path, by: Callable = differences, expected: dict | None = None):
        """FaultError where the results are not those of the undisturbed run, or others."""
        if entries := by(expected or self.reference, digests(result)):
            raise FaultError(f"{len(entries)} files are not right: {'; '.join(entries[:5])}")

    def copy(self, name: str) -> Path:
        """The undisturbed results under another name, to be disturbed."""
        result = self.folder / name
        shutil.copytree(self.undisturbed, result)
        return result

    def remove(self, result: Path, step: str, with_later: bool = False) -> None:
        """Remove what a step made, also with everything that is made from it."""
        steps = list(self.products)
        later = steps[steps.index(step) :]
        steps = later if with_later and step != "make_cam" else [step]  # RIB takes no plain maps
        for product in (result / name for step in steps for name in PRODUCTS[step]):
            if product.is_dir():
                shutil.rmtree(product, ignore_errors=True)
            product.unlink(missing_ok=True)

    def pause(self, moment: str) -> None:
        """Sleep a random share of the time that a step takes."""
        time.sleep(self.rng.uniform(0, self.seconds[moment]))

    @contextlib.contextmanager
    def trial(self, name: str) -> Iterator[None]:
        """Notes a FaultError of one of several trials and goes on."""
        try:
            yield
        except FaultError as fault:
            self.problems.append(f"{name}: {fault}")
            print(f"  {name}: {fault}", flush=True)
