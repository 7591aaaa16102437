"""Ablations: the same run at several values of an option, scored with intervals over the images.

    python -m step.sweep --over RIB_iter=1,3,5,10,20 [options of run_sample.py]
    python -m step.sweep --preset tau [options of run_sample.py]

Every point is a result folder of its own below RESULT_DIR/sweep/, where the outputs go that its
values change; what they do not change (plain maps, the classifier, lists) is in RESULT_DIR itself,
made once and shared, and so is all of the point with the current values: that is the ordinary run.
The same command resumes, and finished points are not made again. It is no step of the method:
`run_sample.py` leaves it out.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import argparse
import itertools
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from misc.cli.flags import count, numbers
from misc.cli.log import log_to_screen
from misc.cli.options import RECAM, Options, build_parser, parse
from misc.cli.run import run as run_pipeline
from misc.errors import UserError
from misc.runtime import distributed
from misc.runtime.devices import check_device, uses_cuda
from misc.runtime.programs import said_plainly
from step import all_steps
from step.sweep_scores import Point, check, counts_of_maps, counts_of_masks, summarize

log = logging.getLogger("sweep")

# What the paper asks (Sec. 3 and 4), by the name of its symbol or idea. Numbers with an x are
# multiples of the current value, since samples and data sets differ in what is usual.
PRESETS = {
    "K": "RIB_iter=1,3,5,10,20",
    "tau": "score_th=0.2,0.3,0.4,0.5,0.6",
    "m": "stop_th=0.25x,0.5x,1x,2x,4x",
    "B": "RIB_batch_size=0.25x,0.5x,1x,1.5x",
    "pooling": "num_pooled_classes=all,0",  # GNDRP, and global average pooling
    "activation": "RIB_final_activation=none,sigmoid",
    "disjoint": "disjoint_prob=1,0.5,0",
    "lr": "RIB_lr=0.25x,0.5x,1x,2x,4x",
}
# What each step starts from, beside the dataset.
_UPSTREAM = {
    "train_cam": (),
    "make_cam": ("train_cam",),
    "maps": ("train_cam",),
    "cam_to_ir_label": ("maps",),
    "train_irn": ("cam_to_ir_label",),
    "make_sem_seg_labels": ("maps", "train_irn"),
}
_STEPS_OF = {"seed": ("train_cam", "make_cam", "maps"), "masks": tuple(_UPSTREAM)}
_SCORED_BY = {"seed": ("eval_cam",), "masks": ("eval_cam", "eval_sem_seg")}
# Maps depend on these too: on what a file holds, or for some of the values.
_UNRECORDED = ("cam_weights_name", "imagenet_weights", "train_list", "cls_labels")
_CONDITIONAL = ("RIB_final_activation",)
_NOT_SWEPT = ("dataset", "recam", "seed")  # the same for all points; seeds have an option


@dataclass(frozen=True)
class Axis:
    """An option and the values that a sweep gives it, as words of a command line."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """A grid over some options, run at each of some seeds (none: the current one)."""

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Folder of the summary, below RESULT_DIR/sweep/."""
        seeds = (f"seeds={','.join(map(str, self.seeds))}",) if self.seeds else ()
        return "+".join((*(axis.name for axis in self.axes), *seeds))

    def combinations(self) -> Iterator[dict[str, str]]:
        """Words by option, for every point."""
        names = [axis.name for axis in self.axes]
        for words in itertools.product(*(axis.words for axis in self.axes)):
            yield dict(zip(names, words, strict=True))


def axis(text: str, base: Options) -> Axis:
    """Option and values from a text such as "RIB_iter=1,3,5"; UserError where it is none.

    Values with commas in them are separated by semicolons. `0.5x` is half the current value, `all`
    the number of classes.
    """
    name, equals, values = text.partition("=")
    name = name.removeprefix("--")
    words = [word.strip() for word in values.split(";" if ";" in values else ",")]
    if not equals or not all(words):
        raise UserError(f"--over {text}: is not OPTION=VALUE,VALUE,...")
    known = {action.dest for action in build_parser()._actions}
    if name not in known:
        raise UserError(f"--over {text}: {name} is not an option of run_sample.py")
    if name in _NOT_SWEPT or name not in _swept(base):
        advice = "--seeds gives seeds" if name == "seed" else "no step of a sweep depends on it"
        raise UserError(f"--over {text}: {name} cannot be swept over; {advice}")
    found: dict[object, tuple[str, str]] = {}
    for word in words:
        meant = _current_value(name, word, base)
        value = getattr(build_parser().parse_args([f"--{name}={meant}"]), name)
        first, _ = found.get(value, ("", ""))
        rounded = first.endswith("x") and word.endswith("x")  # multiples of a small number
        if first and (first == word or not rounded):
            raise UserError(f"--over {text}: {word} is there twice; give different values")
        found.setdefault(value, (word, meant))
    return Axis(name, tuple(meant for _, meant in found.values()))


def _current_value(name: str, word: str, base: Options) -> str:
    """The word itself, or what stands for it: `all` and multiples such as `0.5x`."""
    if name == "num_pooled_classes" and word == "all":
        return str(base.info.num_classes)
    factor = re.fullmatch(r"(\d{1,6}\.?\d{0,9}|\.\d{1,9})x", word)
    value = getattr(base, name)
    if not factor or type(value) not in (int, float) or float(factor[1]) == 0:
        return word
    if type(value) is int:
        return str(max(min(1, value), round(float(factor[1]) * value)))
    return f"{float(factor[1]) * value:g}"


def _swept(base: Options, score: str = "masks") -> set[str]:
    """Names of the options that the maps or masks of a sweep depend on; see _STEPS_OF."""
    names = [RECAM[base.recam][0] if name == "maps" else name for name in _STEPS_OF[score]]
    known = all_steps()
    recorded = {option for name in names if name for option in known[name].settings(base)}
    return recorded.union(_UNRECORDED, _CONDITIONAL if base.recam == "rib" else ())


class Planner:
    """Options of the points of a sweep, and which of their folders they share.

    words: the options of run_sample.py that are the same for all. score: a key of _STEPS_OF.
    """

    def __init__(self, words: Sequence[str], score: str):
        self._words, self.base, self._score = list(words), parse(list(words)), score
        refused = [n for n in self.base.given if n.endswith("_pass")]
        if refused:
            raise UserError(f"--{refused[0]}: leave it out; a sweep decides this (--score)")
        if self.base.recam == "none" and score == "seed":
            raise UserError("--recam none: plain maps are the same at all points; give another")

    def plans(self, sweep: Sweep) -> list[tuple[dict[str, str], list[Options]]]:
        """Of every point its words by option, and the options of its runs, one for each seed."""
        for axis in sweep.axes:
            if axis.name not in _swept(self.base, self._score):
                raise UserError(
                    f"--over {axis.name}: the maps do not depend on it; give --score masks"
                )
        found, places = [], {}
        for chosen in sweep.combinations():
            seeds = [{**chosen, "seed": str(seed)} for seed in sweep.seeds] or [chosen]
            found.append((chosen, [self.options(each) for each in seeds]))
            for args in found[-1][1]:
                if places.setdefault(args.result_dir, chosen) is not chosen:
                    raise UserError(
                        f"--over {sweep.name}: two points have the folder {args.result_dir}; "
                        "rename a file"
                    )
        return found

    def _steps(self, chosen: dict[str, str]) -> list[str]:
        """Keys of _UPSTREAM; as in an ordinary run, a classifier that is given is not trained."""
        given = "cam_weights_name" in (*self.base.said, *chosen)
        return [name for name in _STEPS_OF[self._score] if name != "train_cam" or not given]

    def _module(self, name: str) -> str:
        return RECAM[self.base.recam][0] if name == "maps" else name

    def options(self, chosen: dict[str, str]) -> Options:
        """The options of a point. chosen: words by swept option."""
        flags = [word for name, value in chosen.items() for word in (f"--{name}", value)]
        names = [self._module(name) for name in self._steps(chosen)]
        flags += [f"--{name}_pass" for name in (*names, *_SCORED_BY[self._score]) if name]
        values = parse([*self._words, *flags])
        if any(getattr(values, name) != getattr(self.base, name) for name in chosen):
            point = self.base.result_dir / "sweep" / _folder_name(chosen, values)
            flags += ["--result_dir", str(point), *self._shared(chosen, values)]
        point_args = parse([*self._words, *flags])
        if self._unrecorded(chosen):
            return point_args
        return point_args.with_list_dir(self.base.list_dir)

    def _unrecorded(self, chosen: dict[str, str]) -> bool:
        """Whether a swept option is in no step's settings, so that nothing says what it changes."""
        names, known = filter(None, map(self._module, self._steps(chosen))), all_steps()
        recorded = {option for name in names for option in known[name].settings(self.base)}
        return not set(chosen).difference(_CONDITIONAL) <= recorded

    def _shared(self, chosen: dict[str, str], values: Options) -> list[str]:
        """Flags that send a step's output to the folder of the values that change it."""
        if self._unrecorded(chosen):
            return []
        flags, changed_by = [], {}
        for name in self._steps(chosen):
            module = self._module(name)
            if not module:
                continue
            step = all_steps()[module]
            recorded = {*step.settings(self.base), *step.settings(values)}
            upstream = [changed_by.get(other, set()) for other in _UPSTREAM[name]]
            changed = {n for n in chosen if getattr(values, n) != getattr(self.base, n)}
            changed_by[name] = (changed & recorded).union(*upstream)
            own = {n: word for n, word in chosen.items() if n in changed_by[name]}
            for output in step.writes(self.base):
                path = output.path
                if path != getattr(self.base, output.flag.removeprefix("--")):
                    continue  # it is in the place of another one, or of the result folder
                if own:
                    path = self.base.result_dir / "sweep" / _folder_name(own, values) / path.name
                flags += [output.flag, str(path)]
        return flags


def _folder_name(chosen: dict[str, str], values: Options) -> str:
    """Such as "RIB_iter=5,score_th=0.4"; one number has one name, however it was written."""
    parts = []
    for name in chosen:
        value = getattr(values, name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append(f"{name}={re.sub(r'[^A-Za-z0-9.,+_-]', '_', text)}")
    return ",".join(parts)


def run_sweep(
    planner: Planner, sweep: Sweep, plans: list, score: str, resamples: int
) -> list[dict]:
    """Run all points of a sweep and write its summary; the rows of the table.

    plans: of `Planner.plans`.
    """
    folder = planner.base.result_dir / "sweep" / sweep.name
    points = []
    for number, (chosen, runs) in enumerate(plans, start=1):
        for args in runs:
            log_to_screen()
            log.info("point %d of %d: %s", number, len(plans), args.result_dir)
            run_pipeline(args, all_steps())
        if not runs[0].check:
            points.append(_point(chosen, runs, planner.base, score))
    if not points:
        return []
    log_to_screen()
    baselines = _baselines(plans, score)
    return distributed.on_first_rank(
        lambda: summarize(folder, baselines, points, resamples, planner.base.seed)
    )


def _point(chosen: dict[str, str], runs: list[Options], base: Options, score: str) -> Point:
    counted = counts_of_maps if score == "seed" else counts_of_masks
    values = {name: getattr(runs[0], name) for name in chosen}
    usual = all(getattr(base, name) == value for name, value in values.items())
    folders = [args.cam_out_dir if score == "seed" else args.sem_seg_out_dir for args in runs]
    counts = [counted(args, folder) for args, folder in zip(runs, folders, strict=True)]
    return Point(values, counts, usual, str(runs[0].result_dir))


def _baselines(plans: list[tuple[dict[str, str], list[Options]]], score: str) -> list[Point]:
    """The plain maps beside refined ones: of all points, or of each that has its own."""
    if score != "seed":
        return []
    folders = {runs[0].plain_cam_out_dir for _, runs in plans}
    found = []
    for chosen, runs in plans[: 1 if len(folders) == 1 else None]:
        values = {"plain CAM": "", **(chosen if len(folders) > 1 else {})}
        counts = [counts_of_maps(args, args.plain_cam_out_dir) for args in runs]
        found.append(Point(values, counts, False, str(runs[0].plain_cam_out_dir)))
    return found


def _parsed(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m step.sweep", allow_abbrev=False,
        description="The same run at several values of an option. All other options are those of "
        "run_sample.py, and are the same at all points.",
    )  # fmt: skip
    add = parser.add_argument
    add("--over", action="append", default=[], metavar="OPTION=VALUE,VALUE,...",
        help="an option of run_sample.py and its values; several make a grid. Values that have "
        "commas are separated by semicolons; 0.5x is half the current value")  # fmt: skip
    add("--preset", nargs="+", choices=tuple(PRESETS), default=[],
        help="the paper's questions, a sweep each: "
        + "; ".join(f"{name}: {text}" for name, text in PRESETS.items()))  # fmt: skip
    add("--seeds", type=numbers(int, 0, 2**31 - 1), default=(), metavar="N,N,...",
        help="run each point with these seeds and report their mean (default: --seed)")  # fmt: skip
    add("--score", choices=tuple(_STEPS_OF), default="seed",
        help="what is scored: the maps of --recam, or the pseudo masks, for which every point "
        "trains IRN where an option changes it (default: %(default)s)")  # fmt: skip
    add("--resamples", type=count, default=2000, metavar="N",
        help="of the bootstrap (default: %(default)s)")  # fmt: skip
    args, words = parser.parse_known_args(argv)
    if not args.over and not args.preset:
        parser.error("give --over or --preset")
    return args, words


def _sweeps(args: argparse.Namespace, base: Options) -> list[Sweep]:
    """The sweeps of a command line: one for each preset, and the grid of --over."""
    grids = [[PRESETS[name]] for name in dict.fromkeys(args.preset)]
    grids += [args.over] if args.over else []
    found = []
    for texts in grids:
        axes = tuple(axis(text, base) for text in texts)
        if len({a.name for a in axes}) < len(axes):
            raise UserError(f"--over {texts[-1]}: this option is there twice")
        found.append(Sweep(axes, tuple(dict.fromkeys(args.seeds))))
    names = [sweep.name for sweep in found]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--over {repeated[0]}: is a preset here too; give one of the two")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args, words = _parsed(argv)

    def sweep_all() -> None:
        planner = Planner(words, args.score)
        sweeps = _sweeps(args, planner.base)
        plans = [planner.plans(sweep) for sweep in sweeps]  # all of them before the first run
        for sweep in sweeps:
            check(planner.base.result_dir / "sweep" / sweep.name)
        check_device(planner.base.device)
        with distributed.joined(uses_cuda(planner.base.resources)):
            for sweep, planned in zip(sweeps, plans, strict=True):
                run_sweep(planner, sweep, planned, args.score, args.resamples)

    return said_plainly(sweep_all, ends_process=argv is None)


if __name__ == "__main__":
    sys.exit(main())
