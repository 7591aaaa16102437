"""Measures on a GPU what is still to be known of it, in at most 25 minutes.

    python -m tests.tools.gpu_session OUT [--voc12_root DIR --classifier FILE
        --imagenet_weights FILE]

The parts follow each other, the most valuable first, each in a process of its own and within a
limit of time; OUT/session.json and OUT/session.md have what each has found so far, OUT/PART.log
what it said. With a folder of VOC and networks of one width the last part runs all steps on its
photographs; the others draw theirs. --tiny only shows that everything works.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest
import torch

from misc.cams import load_cam
from misc.runtime.devices import machine
from misc.storage.scores import load_scores
from tests.conftest import TINY
from tests.tools.benchmark import device_named, measure, to_json
from tests.tools.compare_results import difference
from tests.tools.comparisons import COMPARISONS, timed
from tests.tools.pipeline import prepared, run_step

Found = Iterator[tuple[str, Any]]  # what a part finds, one after the other

BUDGET = 25 * 60.0  # seconds
SIZES = ((375, 500), (500, 375), (333, 500), (500, 334), (375, 499), (442, 500))  # usual in VOC
RIB_OF_VOC = {"size": SIZES[0], "batch": 20, "crop": 512, "iterations": 10, "width": 64}
TOLERANCES = {"float32": 1e-3, "tf32": 0.02, "bf16": 0.1}  # of maps (0..1), from those of a CPU
_TINY = (*TINY, "--cam_scales", "1.0,0.5", "--adv_iter", "2", "--seg_batch_size", "2",
         "--seg_crop_size", "33", "--seg_iterations", "2", "--num_threads", "1")  # fmt: skip
_TRAIN = ("--seg_iterations", "30", "--cam_num_epoches", "3", "--irn_num_epoches", "3")
_ALL = ("make_cam", "make_recam_with_RIB", "eval_cam", "cam_to_ir_label", "train_irn",
        "make_sem_seg_labels", "eval_sem_seg", "train_seg", "make_seg", "eval_seg")  # fmt: skip
_RIB, _ADVCAM = "make_recam_with_RIB", "make_recam_with_AdvCAM"


class Session(NamedTuple):
    """The device, the folders, and whether everything is tiny."""

    out: Path
    device: torch.device
    tiny: bool = False
    voc: Path | None = None
    classifier: Path | None = None
    weights: Path | None = None

    def some(self, *values: Any) -> tuple:
        """All of the values; only the first where everything is tiny."""
        return values[:1] if self.tiny else values

    def words(self) -> list[str]:
        """Options of run_sample for synthetic photographs, and a classifier by recipe."""
        full = (96, 64, SIZES, ("resnet50", "resnet101"))
        sizes = (6, 8, ((48, 64), (64, 48)), ("resnet18", "resnet18")) if self.tiny else full
        given = prepared(self.out / "drawn", *sizes)
        own = ("--cam_weights_name", given[given.index("--imagenet_weights") + 1])
        return [*(_TINY if self.tiny else ()), *given, *own, "--device", str(self.device)]


# --- the parts ------------------------------------------------------------------------------------


def card(session: Session) -> Found:
    """The machine, and TFLOP/s of a product of random matrices (of ones a GPU is faster)."""
    yield "machine", {**machine(), "CUDA": torch.version.cuda}
    side = 64 if session.tiny else 8192
    for name, dtype in (("tf32", torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.randn(side, side, device=session.device).to(dtype)
        torch.backends.cuda.matmul.allow_tf32 = True
        seconds = [timed(partial(torch.mm, matrix, matrix), session.device)[0] for _ in range(9)]
        yield f"TFLOP/s in {name}", 2 * side**3 / median(seconds) / 1e12


def rib(session: Session) -> Found:
    """RIB by one process and by several, with all that it reads and writes."""
    for count in session.some(1, 2, 3):
        for precision in session.some("tf32", "bf16"):
            folder = session.out / "rib" / f"{precision}_{count}"
            limit = 2 if session.tiny else 16 * count
            own = ("--precision", precision, "--num_processes", count, "--limit", limit)
            found = run_step(_RIB, *session.words(), *own, "--result_dir", folder)
            yield f"{precision}, --num_processes {count}", found


def references(session: Session) -> Found:
    """Parts of the project, and plain transcriptions of the original on the same input."""
    for name in session.some("pooling", "rib", "irn_step", "walk"):
        entry = COMPARISONS[name]
        published = RIB_OF_VOC if name == "rib" else {}
        sizes = entry.small if session.tiny else {**entry.sizes, **published}
        found = to_json(measure(name, entry._replace(sizes=sizes), 3, session.device))
        seconds = {f"{way}, seconds": median(found[way]) for way in ("reference", "ours")}
        others = {key: found[key] for key in ("ratio", "difference", "agrees")}
        yield found["title"], seconds | others


def tests(session: Session) -> Found:
    """The tests that compute on a GPU; their log is beside the results."""
    chosen = "tests/misc/test_indexing.py" if session.tiny else "tests"
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-m", "cuda", chosen])
    yield "exit code of pytest", int(code)


def steps(session: Session) -> Found:
    """Every step but RIB by one process, at the published settings."""
    words = [*session.words(), "--result_dir", session.out / "steps", "--num_processes", 1]
    words += () if session.tiny else _TRAIN
    names = ("make_cam", "cam_to_ir_label", "train_irn", "make_sem_seg_labels",
             "make_ins_seg_labels", "train_seg", "make_seg")  # fmt: skip
    rows = [(name, "--recam", "none", "--limit", 2 if session.tiny else 96) for name in names]
    rows += [(_ADVCAM, "--limit", 12)]
    rows += [("train_cam", "--cam_weights_name", session.out / "new.pth")]
    for name, *own in (rows[0], rows[-1]) if session.tiny else rows:
        yield name, run_step(name, *words, *own)


def agreement(session: Session) -> Found:
    """Largest differences of maps, which are in 0..1, from those that a CPU makes."""
    small = ("--max_long", 256, "--RIB_batch_size", 4, "--cam_crop_size", 128, "--num_processes", 1)
    words, cpu = [*session.words(), *small, "--limit", 2], session.out / "agreement" / "cpu"
    for step, pattern in session.some(("make_cam", "cam_plain/*.npy"), (_RIB, "cam/*.npy")):
        own = ("--device", "cpu", "--precision", "float32", "--result_dir", cpu)
        run_step(step, *words, *own)
        for precision, tolerance in session.some(*TOLERANCES.items()):
            folder = cpu.with_name(precision)
            run_step(step, *words, "--result_dir", folder, "--precision", precision)
            pairs = [(path, folder / path.relative_to(cpu)) for path in cpu.glob(pattern)]
            apart = max(difference(*map(load_cam, pair)) for pair in pairs)
            agrees = {"difference": apart, "tolerance": tolerance, "agrees": apart <= tolerance}
            yield f"{step} in {precision}", agrees


def photographs(session: Session) -> Found:
    """All steps on photographs of VOC at the published settings; 1500 iterations of DeepLab."""
    if not (session.voc and session.classifier and session.weights):
        yield "not done", "give --voc12_root, --classifier and --imagenet_weights"
        return
    folder = session.out / "photographs"
    words = ["--voc12_root", session.voc, "--imagenet_weights", session.weights, "--device",
             session.device, "--cam_weights_name", session.classifier, "--seg_init",
             session.weights, "--result_dir", folder]  # fmt: skip
    chosen = (("make_cam", "eval_cam"), (*_TINY, "--recam", "none", "--limit", 2))
    names, own = chosen if session.tiny else (_ALL, ("--seg_iterations", 1500))
    for name in names:
        yield name, run_step(name, *own, *words)
        yield "mIoU", {row: max(score["miou"]) for row, score in load_scores(folder).items()}


# Each with the seconds that it may take.
PARTS: dict[str, tuple[Callable[[Session], Found], float]] = {
    "card": (card, 60), "RIB": (rib, 300), "reference implementations": (references, 120),
    "tests": (tests, 180), "steps": (steps, 240), "agreement": (agreement, 60),
    "photographs": (photographs, 900),
}  # fmt: skip


# --- the session ----------------------------------------------------------------------------------


def keep(out: Path, part: str, found: dict[str, Any]) -> None:
    """Write what a part has found beside what others have, as JSON and as a page."""
    path = out / "session.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    content[part] = {**content.get(part, {}), **found}
    lines = ["# GPU session"]
    for name, values in content.items():
        lines += ["", f"## {name}", "", *(f"- {key}: {_shown(v)}" for key, v in values.items())]
    texts = {path: json.dumps(content, indent=1), out / "session.md": "\n".join(lines)}
    for file, text in texts.items():
        started = file.with_suffix(".started")
        started.write_text(f"{text}\n")
        started.replace(file)  # as a part may be ended at any time


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(of)}" for name, of in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_part(session: Session, part: str) -> None:
    """Do a part in this process, and keep what it finds."""
    for name, value in PARTS[part][0](session):
        keep(session.out, part, {name: value})


def supervise(out: Path, words: Sequence[str]) -> None:
    """Give each part a process, and end it where its time is over."""
    end = time.monotonic() + BUDGET
    for name, (_, limit) in PARTS.items():
        limit, log = max(0.0, min(limit, end - time.monotonic())), out / f"{name}.log"
        print(f"{name}: {limit:.0f} s at most", flush=True)
        command = [sys.executable, "-m", "tests.tools.gpu_session", *words, "--part", name]
        with open(log, "w") as screen:
            process = subprocess.Popen(command, stdout=screen, stderr=screen, process_group=0)
        try:
            if process.wait(limit):
                keep(out, name, {"failed": log.read_text()[-1000:]})
        except subprocess.TimeoutExpired:
            keep(out, name, {"ended": f"by its limit of {limit:.0f} s"})
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # all that it has started, too
            process.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and measure."""
    words = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="python -m tests.tools.gpu_session")
    add = parser.add_argument
    add("out", type=Path)
    add("--device", type=device_named, default="cuda")
    add("--tiny", action="store_true", help="with --device cpu tries it where there is no GPU")
    add("--voc12_root", type=Path, dest="voc")
    add("--classifier", type=Path)
    add("--imagenet_weights", type=Path, dest="weights")
    add("--part", choices=PARTS, nargs="+", help="these alone, in this process without a limit")
    args = parser.parse_args(words)
    if args.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: no such GPU here; --device cpu --tiny tries it")
    args.out.mkdir(parents=True, exist_ok=True)
    session = Session(**{name: getattr(args, name) for name in Session._fields})
    for part in args.part or ():
        run_part(session, part)
    if not args.part:
        supervise(args.out, words)


if __name__ == "__main__":
    main()
