"""Ablations: the same run at several values of an option, scored with intervals over the images.

    python -m step.sweep --over RIB_iter=1,3,5,10,20 [options of run_sample.py]
    python -m step.sweep --preset tau [options of run_sample.py]

Outputs that the values of a point change are in a folder of its own below RESULT_DIR/sweep/, all
others in RESULT_DIR. The same command resumes.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import argparse
import itertools
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from misc.cli.flags import count, numbers
from misc.cli.log import log_to_screen
from misc.cli.options import RECAM, Options, build_parser, parse
from misc.cli.run import run as run_pipeline
from misc.errors import UserError
from misc.runtime import distributed
from misc.runtime.devices import check_device, uses_cuda
from misc.runtime.programs import said_plainly
from misc.storage.outputs import require_own
from step import all_steps
from step.eval_cam import thresholds
from step.sweep_scores import Point, counts_of, summarize

log = logging.getLogger("sweep")

# What the paper asks (Sec. 3 and 4), by symbol or idea; x: multiples of the current value.
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
# Steps of a point in their order, each of which depends on those before; and what scores them.
_SEED = ("train_cam", "make_cam", "maps")
_STEPS = {"seed": _SEED, "masks": (*_SEED, "cam_to_ir_label", "train_irn", "make_sem_seg_labels")}
_SCORED_BY = {"seed": ("eval_cam",), "masks": ("eval_cam", "eval_sem_seg")}
# Maps depend on these too, on what a file holds: all that is made is a point's own.
_UNRECORDED = ("cam_weights_name", "imagenet_weights", "train_list", "cls_labels")
_NOT_SWEPT = ("dataset", "recam", "seed")  # the same for all points; seeds have an option

Words = dict[str, str]  # of a command line, by option
Run = tuple[Words, list[Options]]  # a point of a sweep, and its options with each of the seeds


def axis(text: str, base: Options) -> tuple[str, tuple[str, ...]]:
    """Option and values from a text such as "RIB_iter=1,3,5"."""
    name, equals, values = text.partition("=")
    name = name.removeprefix("--")
    words = [word.strip() for word in values.split(";" if ";" in values else ",")]
    if not equals or not all(words):
        raise UserError(f"--over {text}: is not OPTION=VALUE,VALUE,...")
    if name not in {action.dest for action in build_parser()._actions}:
        raise UserError(f"--over {text}: {name} is not an option of run_sample.py")
    if name in _NOT_SWEPT or name not in recorded_of(base, "masks").union(_UNRECORDED):
        advice = "--seeds gives seeds" if name == "seed" else "no step of a sweep depends on it"
        raise UserError(f"--over {text}: {name} cannot be swept over; {advice}")
    meant = [_current_value(name, word, base) for word in words]
    parsed = [getattr(build_parser().parse_args([f"--{name}={word}"]), name) for word in meant]
    found = dict(zip(parsed, meant, strict=True))
    rounded = all(word.endswith("x") for word in words)  # multiples of a small number
    if len(set(words)) < len(words) or (len(found) < len(words) and not rounded):
        raise UserError(f"--over {text}: a value is there twice; give different values")
    return name, tuple(found.values())


def _current_value(name: str, word: str, base: Options) -> str:
    if name == "num_pooled_classes" and word == "all":
        return str(base.info.num_classes)
    factor = re.fullmatch(r"(\d{1,6}\.?\d{0,9}|\.\d{1,9})x", word)
    value = getattr(base, name)
    if not factor or type(value) not in (int, float) or float(factor[1]) == 0:
        return word
    if type(value) is int:
        return str(max(min(1, value), round(float(factor[1]) * value)))
    return f"{float(factor[1]) * value:g}"


def steps_of(base: Options, score: str) -> dict[str, ModuleType]:
    """The steps of a point, by name. score: a key of _STEPS."""
    names = [RECAM[base.recam][0] if name == "maps" else name for name in _STEPS[score]]
    return {name: step for name, step in all_steps().items() if name in names}


def recorded_of(base: Options, score: str) -> set[str]:
    names = {name for step in steps_of(base, score).values() for name in step.settings(base)}
    return names.union(["RIB_final_activation"] if base.recam == "rib" else [])  # not its default


def options_of(words: Sequence[str], base: Options, chosen: Words, score: str) -> Options:
    """The options of a point: `words` and the `chosen` ones; unchanged outputs are `base`'s."""
    steps = steps_of(base, score)
    if "cam_weights_name" in (*base.said, *chosen):  # as in a run, one that is given is not trained
        steps.pop("train_cam")
    flags = [word for name, value in chosen.items() for word in (f"--{name}", value)]
    flags += [f"--{name}_pass" for name in (*steps, *_SCORED_BY[score])]
    values = parse([*words, *flags])
    changed = [name for name in chosen if getattr(values, name) != getattr(base, name)]
    if not changed:
        return values
    flags += ["--result_dir", str(_folder(base, chosen, values))]
    if not recorded_of(base, score).issuperset(chosen):
        return parse([*words, *flags])
    own = set()
    for step in steps.values():
        own |= {*step.settings(base), *step.settings(values)}.intersection(changed)
        for output in step.writes(base):
            path = output.path
            if path == getattr(base, output.flag.removeprefix("--")):  # not a place within another
                of_own = {name: word for name, word in chosen.items() if name in own}
                path = _folder(base, of_own, values) / path.name if own else path
                flags += [output.flag, str(path)]
    return parse([*words, *flags]).with_list_dir(base.list_dir)


def _folder(base: Options, chosen: Words, values: Options) -> Path:
    """Such as "RIB_iter=5,score_th=0.4"; one number has one name, however it was written."""
    parts = []
    for name in chosen:
        value = getattr(values, name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append(f"{name}={re.sub(r'[^A-Za-z0-9.,+_-]', '_', text)}")
    return base.result_dir / "sweep" / ",".join(parts)


def runs_of(words: Sequence[str], base: Options, axes: dict, seeds: tuple, score: str) -> list[Run]:
    """The points of a grid, with each of the seeds (none: the current one)."""
    places, runs = {}, []
    for name in axes:
        if name not in recorded_of(base, score).union(_UNRECORDED):
            raise UserError(f"--over {name}: the maps do not depend on it; give --score masks")
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        seeded = [{**chosen, "seed": str(seed)} for seed in seeds] or [chosen]
        options = [options_of(words, base, one, score) for one in seeded]
        runs.append((chosen, options))
        for folder in (args.result_dir for args in options):
            if places.setdefault(folder, chosen) is not chosen:
                raise UserError(f"--over {', '.join(axes)}: two points have the folder {folder}; "
                                "rename a file")  # fmt: skip
    return runs


def run_sweep(base: Options, folder: Path, runs: list[Run], score: str, resamples: int) -> None:
    points, plain = [], {}
    at = np.array([base.sem_seg_bg_thres]) if score == "masks" else thresholds(base)
    one_plain = len({options[0].plain_cam_out_dir for _, options in runs}) == 1
    for number, (chosen, options) in enumerate(runs, start=1):
        for args in options:
            log_to_screen()
            log.info("point %d of %d: %s", number, len(runs), args.result_dir)
            run_pipeline(args, all_steps())
        if base.check:
            continue
        values = {name: getattr(options[0], name) for name in chosen}
        usual = all(getattr(base, name) == value for name, value in values.items())
        own = options[0].plain_cam_out_dir
        if score == "seed" and own not in plain:
            named = {"CAM": "", **({} if one_plain else values)}
            plain[own] = Point(named, counts_of(options, "plain"), at, False, str(own))
        counts, folder_of = counts_of(options, score), str(options[0].result_dir)
        points.append(Point(values, counts, at, usual, folder_of, plain.get(own)))
    if points:
        log_to_screen()
        distributed.on_first_rank(lambda: summarize(folder, points, resamples, base.seed))


def planned(own: argparse.Namespace, words: Sequence[str], base: Options) -> dict[Path, list[Run]]:
    """The points of each sweep, by the folder of its summary: of each preset, and of --over."""
    if passes := [name for name in base.given if name.endswith("_pass")]:
        raise UserError(f"--{passes[0]}: leave it out; a sweep decides this (--score)")
    if base.recam == "none" and own.score == "seed":
        raise UserError("--recam none: CAMs are the same at all points; give another")
    found, seeds = {}, tuple(dict.fromkeys(own.seeds))
    grids = [[PRESETS[name]] for name in dict.fromkeys(own.preset)]
    for texts in [*grids, own.over] if own.over else grids:
        axes = dict(axis(text, base) for text in texts)
        if len(axes) < len(texts):
            raise UserError(f"--over {texts[-1]}: this option is there twice")
        seeded = [f"seeds={','.join(map(str, seeds))}"] if seeds else []
        folder = base.result_dir / "sweep" / "+".join([*axes, *seeded])
        if folder in found:
            raise UserError(f"--over {', '.join(axes)}: is a preset here too; give one of the two")
        for name in ("sweep.csv", "sweep.png"):
            require_own(folder / name)
        found[folder] = runs_of(words, base, axes, seeds, own.score)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m step.sweep", allow_abbrev=False,
        description="The same run at several values of an option. All other options are those of "
        "run_sample.py, and are the same at all points.",
    )  # fmt: skip
    # fmt: off
    add = parser.add_argument
    add("--over", action="append", default=[], metavar="OPTION=VALUE,VALUE,...",
        help="an option and its values; several make a grid. Values with commas are separated by "
        "semicolons; 0.5x is half the current value")
    add("--preset", nargs="+", choices=tuple(PRESETS), default=[],
        help="; ".join(f"{name}: {text}" for name, text in PRESETS.items()))
    add("--seeds", type=numbers(int, 0, 2**31 - 1), default=(), metavar="N,N,...",
        help="run each point with these seeds and report their mean (default: --seed)")
    add("--score", choices=tuple(_STEPS), default="seed",
        help="the maps of --recam, or the pseudo masks (default: %(default)s)")
    add("--resamples", type=count, default=2000, help="of the bootstrap (default: %(default)s)")
    # fmt: on
    own, words = parser.parse_known_args(argv)
    if not own.over and not own.preset:
        parser.error("give --over or --preset")

    def sweep_all() -> None:
        base = parse(words)
        sweeps = planned(own, words, base)  # all of them before the first run
        check_device(base.device)
        with distributed.joined(uses_cuda(base.resources)):
            for folder, runs in sweeps.items():
                run_sweep(base, folder, runs, own.score, own.resamples)

    return said_plainly(sweep_all)


if __name__ == "__main__":
    sys.exit(main())
