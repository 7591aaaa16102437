"""`--trace`: digests of everything that a run has made, stage after stage; `--trace_compare FILE`.

Somebody whose number differs compares two traces: the first stage that is not the same to the last
bit, the first one beyond what other processors and libraries explain, and the options in which the
two runs differ are named. A stage has the exact digest of its arrays and, of each array, a few
numbers that small deviations change little. `python -m step.trace FILE FILE ...` puts traces beside
each other as a table.
"""

import argparse
import hashlib
import itertools
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from misc.cams import load_cam
from misc.cli.log import log_to_screen
from misc.cli.options import RECAM, Options
from misc.cli.run import said_plainly
from misc.cli.steps import load_steps
from misc.data.datasets import image_of, load_labels, multi_scale_pairs
from misc.errors import UserError
from misc.palette import read_label_png
from misc.runtime.devices import main_device, threads_per_process, training_threads
from misc.runtime.machine import machine
from misc.storage.files import atomic_path
from misc.storage.manifest import settings_difference
from misc.storage.scores import load_scores
from misc.storage.untrusted import read_bytes, reason
from misc.torchutils import worker_rng
from net.checkpoint import read_checkpoint
from step.refine import shown_path

log = logging.getLogger(__name__)

NAME = "trace.json"
_MADE_BY = "RIB trace"
_MAX_BYTES = 256 << 20
_LOOKED_AT = 100  # images of the list, the first ones
_RESIZED = 8  # of these, images of which the network's inputs are looked at
_SAMPLES = 8  # values of an array in its sketch
_DRAWS = 8  # random numbers

Items = Iterable[tuple[str, np.ndarray]]


@dataclass
class Stage:
    """Digest of what a stage of a run has made.

    exact: hex digest of all arrays. sketches: by array, its shape and numbers that stand for it.
    tolerance: how far these may be apart on other machines. settings: what its step depends on.
    """

    name: str
    tolerance: float
    settings: dict
    exact: str = ""
    sketches: dict[str, dict] = field(default_factory=dict)


def traced(args: Options) -> list[Stage]:
    """Digests of the stages whose files are there, in the order of the method."""
    stages = []
    for name, tolerance, step, items in _stages(args):
        stage = _digested(Stage(name, tolerance, _settings(args, step)), items)
        if stage.sketches:
            stages.append(stage)
    return stages


def _stages(args: Options) -> Iterator[tuple[str, float, str, Items]]:
    """Name, tolerance, step (none: no step's) and arrays of every stage."""
    ids = args.image_ids("infer")[:_LOOKED_AT]
    maps = RECAM[args.recam][0]
    yield "lists", 0, "", _lists(args)
    yield "image-level labels", 0, "", _labels(args, ids)
    yield "decoded photographs", 3, "", ((i, image_of(args.info, i)) for i in ids)
    yield "resized photographs", 0.06, "", _inputs(args, ids[:_RESIZED])  # 3 grey levels
    yield "random draws", 0, "", _draws(args)
    yield "classifier", 1e-3, "train_cam", _weights(args.cam_weights_name)
    yield "plain maps", 1e-3, "make_cam", _maps(args.plain_cam_out_dir, ids)
    if maps:
        last = args.RIB_iter if maps == "make_recam_with_RIB" else args.adv_iter
        for k in range(1, last + 1):
            paths = {i: shown_path(args, maps, i, k) for i in ids}
            yield f"maps after {k} of {last} iterations", 5e-3, maps, _maps_in(paths)
        yield f"maps of {maps}", 5e-3, maps, _maps(args.cam_out_dir, ids)
    yield "IR labels", 0.01, "cam_to_ir_label", _label_maps(args.ir_label_out_dir, ids)
    yield "IRN", 0.01, "train_irn", _weights(args.irn_weights_name)
    yield "pseudo masks", 0.02, "make_sem_seg_labels", _label_maps(args.sem_seg_out_dir, ids)
    yield "scores", 5e-3, "", _scores(args)


def _settings(args: Options, step: str) -> dict:
    return load_steps([step])[step].settings(args) if step else args.settings("dataset", "seed")


def _lists(args: Options) -> Items:
    for role in ("train", "infer", "eval"):
        if getattr(args, f"{role}_list").is_file():
            ids = args.image_ids(role)
            yield role, np.frombuffer("\n".join(ids).encode(), np.uint8)


def _labels(args: Options, ids: tuple[str, ...]) -> Items:
    if args.cls_labels.is_file():
        yield from zip(ids, np.asarray(load_labels(args.cls_labels, ids, args.info)), strict=True)


def _inputs(args: Options, ids: tuple[str, ...]) -> Items:
    for image_id in ids:
        pairs = multi_scale_pairs(image_of(args.info, image_id), args.cam_scales, args.max_long)
        for scale, pair in zip(args.cam_scales, pairs, strict=True):
            yield f"{image_id} x {scale}", pair.numpy()


def _draws(args: Options) -> Items:
    rng = worker_rng(args.seed, "trace")
    yield "seed", np.array([rng.random() for _ in range(_DRAWS)])


def _weights(path: Path) -> Items:
    if path.is_file():
        for name, tensor in sorted(read_checkpoint(path)["state_dict"].items()):
            yield name, tensor.numpy()


def _maps(folder: Path, ids: Iterable[str]) -> Items:
    return _maps_in({image_id: folder / f"{image_id}.npy" for image_id in ids})


def _maps_in(paths: dict[str, Path]) -> Items:
    for image_id, path in paths.items():
        if path.is_file():
            yield image_id, load_cam(path)["high_res"]


def _label_maps(folder: Path, ids: Iterable[str]) -> Items:
    for image_id in ids:
        path = folder / f"{image_id}.png"
        if path.is_file():
            yield image_id, read_label_png(path)


def _scores(args: Options) -> Items:
    for row, score in sorted(load_scores(args.result_dir).items()):
        mious = [np.nan if miou is None else miou for miou in score["miou"]]
        yield row, np.array(mious, np.float64)


def _digested(stage: Stage, items: Items) -> Stage:
    digest = hashlib.sha256()
    for name, array in items:
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
        stage.sketches[name] = {"shape": list(array.shape), **_sketch(stage.name, array)}
    stage.exact = digest.hexdigest()[:32]
    return stage


def _sketch(stage: str, array: np.ndarray) -> dict[str, float]:
    """Shares of the labels of a label map; mean, spread and some values of anything else."""
    if stage in ("IR labels", "pseudo masks"):
        labels, counts = np.unique(array, return_counts=True)
        shares = (counts / array.size).tolist()
        return {f"label {label}": share for label, share in zip(labels, shares, strict=True)}
    flat = array.ravel()
    if flat.size == 0:
        return {}
    places = np.linspace(0, flat.size - 1, min(_SAMPLES, flat.size)).astype(np.intp)
    numbers = {"mean": flat.mean(dtype=np.float64), "spread": flat.std(dtype=np.float64)}
    numbers |= {f"at {place}": flat[place] for place in places}
    return {name: float(f"{value:.7g}") for name, value in numbers.items()}


# --- files --------------------------------------------------------------------------------------


def environment(args: Options) -> dict[str, object]:
    """What a run computes with, and its options but for places."""
    places = ("_dir", "_list", "_name", "_root", "_weights", "cls_labels")
    options = json.loads(json.dumps(args.plain(), default=str))
    options = {k: v for k, v in options.items()
               if not k.endswith((*places, "_pass")) and k not in _SAYS_NOTHING}  # fmt: skip
    return {
        **machine(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        **options,
        "computes on": main_device(args.resources).type,
        "threads of a process": threads_per_process(args.resources),
        "threads of a training": training_threads(args.resources),
    }


_SAYS_NOTHING = {
    "trace", "trace_compare", "expect", "expect_record", "report", "report_html", "animate",
    "visualize", "overwrite", "check", "compare", "export_from", "num_processes", "num_workers",
    "num_threads", "device", "seg_init", "root", "labels", "image_cache", "checkpoint_minutes",
    "report_format", "export", "seg_row",
}  # fmt: skip


def save_trace(path: Path, args: Options, stages: list[Stage]) -> None:
    """Write a trace; UserError where another file is in the way."""
    if path.exists():
        load_trace(path)
    content = {
        "made_by": _MADE_BY,
        "environment": environment(args),
        "stages": [asdict(stage) for stage in stages],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def load_trace(path: Path) -> tuple[dict, list[Stage]]:
    """Environment and stages of a trace; UserError where it is none."""
    try:
        content = json.loads(read_bytes(path, _MAX_BYTES).decode("utf-8"))
        if content["made_by"] != _MADE_BY:
            raise ValueError("it has another maker")
        return dict(content["environment"]), [Stage(**stage) for stage in content["stages"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: is not a trace ({reason(error)}); give a file that --trace has written"
        ) from None


# --- comparison ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """How far a stage is from that of another trace.

    exact: the same to the last bit. distance: the largest one of the sketches; inf where arrays
    have another shape or are in one of the two only.
    """

    stage: Stage
    exact: bool
    distance: float
    where: str
    settings: str  # options of its step that differ

    @property
    def within(self) -> bool:
        """Whether other processors and libraries explain it."""
        return self.exact or self.distance <= self.stage.tolerance


def differences(there: list[Stage], here: list[Stage]) -> list[Difference]:
    """Of the stages that both traces have, in order."""
    known = {stage.name: stage for stage in there}
    found = []
    for stage in here:
        if other := known.get(stage.name):
            distance, where = _distance(other.sketches, stage.sketches)
            settings = settings_difference(other.settings, stage.settings)
            exact = other.exact == stage.exact
            found.append(Difference(stage, exact, distance, where, settings))
    return found


def _distance(there: dict[str, dict], here: dict[str, dict]) -> tuple[float, str]:
    """The largest difference of two sketches, and the array where it is."""
    largest, where = 0.0, ""
    for name in dict.fromkeys((*there, *here)):
        one, other = there.get(name), here.get(name)
        if one is None or other is None or one["shape"] != other["shape"]:
            return float("inf"), name
        for key in (key for key in {**one, **other} if key != "shape"):
            gap = abs(one.get(key, 0.0) - other.get(key, 0.0))
            if gap > largest:
                largest, where = gap, name
    return largest, where


def verdict(there: tuple[dict, list[Stage]], here: tuple[dict, list[Stage]]) -> tuple[list, bool]:
    """Lines that say where two traces part, and whether all is within the tolerances."""
    found = differences(there[1], here[1])
    width = max((len(d.stage.name) for d in found), default=0) + 2
    lines = [f"{d.stage.name:{width}}{_in_words(d)}" for d in found]
    first = next((d for d in found if not d.exact), None)
    beyond = next((d for d in found if not d.within), None)
    known = {d.stage.name for d in found}
    others = [s.name for s in itertools.chain(there[1], here[1]) if s.name not in known]
    if others:
        lines.append(f"in one of the two only: {', '.join(dict.fromkeys(others))}")
    lines.append(f"first stage that is not the same to the bit: {_named(first)}")
    lines.append(f"first stage beyond its tolerance: {_named(beyond)}")
    if text := settings_difference(there[0], here[0]):
        lines.append(f"what differs between the runs: {text}")
    elif first:
        lines.append("no option, library or processor differs: other inputs, or other code")
    return lines, beyond is None and bool(found)


def _in_words(found: Difference) -> str:
    if found.exact:
        return "the same to the bit"
    size = f"{found.distance:.2g}, {found.where}" if found.where else "less than is kept of it"
    return f"{'within tolerance' if found.within else 'DIFFERS'} ({size})"


def _named(found: Difference | None) -> str:
    if found is None:
        return "none"
    return f"{found.stage.name} ({found.settings})" if found.settings else found.stage.name


def run(args: Options) -> str:
    """Write the trace of a result folder, and compare it; what to say where the two part."""
    stages, path = traced(args), args.result_dir / NAME
    save_trace(path, args, stages)
    log.info("trace: %s, %d stages", path, len(stages))
    if not args.trace_compare:
        return ""
    lines, same = verdict(load_trace(args.trace_compare), (environment(args), stages))
    log.info("\ncompared with %s\n%s", args.trace_compare, "\n".join(lines))
    return "" if same else f"--trace_compare {args.trace_compare}: {lines_of_end(lines)}"


def lines_of_end(lines: list[str]) -> str:
    """The verdict in one line."""
    return next(line for line in lines if line.startswith("first stage beyond"))


def check(args: Options) -> None:
    """Raise UserError where the trace to compare with cannot be read, or the own not written."""
    if args.trace_compare:
        load_trace(args.trace_compare)
    if (path := args.result_dir / NAME).exists():
        load_trace(path)


# --- several traces -----------------------------------------------------------------------------


def digest_table(traces: Sequence[tuple[str, dict, list[Stage]]]) -> list[str]:
    """Markdown of traces (name, environment, stages): digests by stage, and how far apart.

    Distances are those to the first trace; 0 where not even a bit differs.
    """
    (_, first_machine, first), *others = traces
    beside = [{d.stage.name: d for d in differences(first, stages)} for _, _, stages in others]
    header = ["stage", "tolerance", *(name for name, _, _ in traces)]
    lines = [_row(header), _row(["---"] * len(header))]
    for stage in first:
        found = [_cell(of_trace.get(stage.name)) for of_trace in beside]
        lines.append(_row([stage.name, f"{stage.tolerance:g}", _digest(stage), *found]))
    for name, environment_of, _ in others:
        text = settings_difference(first_machine, environment_of, ("in the first", "here"))
        lines.append(f"{name}: {text or 'no option, library or processor differs'}")
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _digest(stage: Stage) -> str:
    return f"`{stage.exact[:8]}`"


def _cell(found: Difference | None) -> str:
    if found is None:
        return ""
    if found.exact:
        return f"{_digest(found.stage)} 0"
    distance = f"{found.distance:.1g}" if found.distance else "less than 1e-7"
    return f"{_digest(found.stage)} {distance}{'' if found.within else ', beyond'}"


def main(argv: Sequence[str] | None = None) -> int:
    """The table of several trace files; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m step.trace", description="Traces beside each other, as a table in Markdown."
    )
    parser.add_argument("file", type=Path, nargs="+", help="what --trace has written")
    args = parser.parse_args(argv)

    def show() -> None:
        log_to_screen()
        traces = [(path.stem, *load_trace(path)) for path in args.file]
        log.info("%s", "\n".join(digest_table(traces)))

    return said_plainly(show, ends_process=argv is None)


if __name__ == "__main__":
    sys.exit(main())
