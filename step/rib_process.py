"""How RIB's maps grow (paper, Figure 3), of the images that gain most by it and of its failures.

    python -m step.rib_process [--best 3] [--worst 3] [--shown 0,3,6,10] [options of run_sample.py]

Needs a finished run of make_cam, make_recam_with_RIB and eval_cam with the same options. Images are
sorted by the gain of their IoU from the plain map to RIB's, each at its best threshold. Maps of
single iterations that --visualize has kept are taken; others are made again.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from misc.cams import load_cam
from misc.cli.log import log_to_screen
from misc.cli.options import Options, parse
from misc.data.datasets import image_of, mask_of
from misc.errors import UserError
from misc.metrics import ThresholdScores
from misc.runtime.devices import check_device, main_device, set_up_process
from misc.runtime.programs import said_plainly
from misc.storage.files import remove_leftovers
from misc.storage.scores import load_scores
from net.inference import merged
from step.make_recam_with_RIB import MakeRIBCAM
from step.maps import shown_path
from step.visualize import coloured, heat_map, save_figure

log = logging.getLogger("rib_process")

_PANEL = 1.7  # inches
_MAX_SIDE = 500  # pixels of a panel's data


class Gain(NamedTuple):
    """IoU of an image, mean over the labels that it has or is given, in per cent."""

    image_id: str
    plain: float
    rib: float

    @property
    def gain(self) -> float:
        return self.rib - self.plain


def gains(args: Options) -> list[Gain]:
    """Of every scored image, the largest gain first. UserError where nothing was scored."""
    levels = {}
    for row in ("CAM seed", "RIB seed"):
        score = load_scores(args.result_dir).get(row)
        if score is None:
            raise UserError(f"{args.result_dir}: has no scores of the {row}; run --make_cam_pass "
                            "--make_recam_with_RIB_pass --eval_cam_pass first")  # fmt: skip
        levels[row] = score["thresholds"][score["best"]]
    folders = (args.plain_cam_out_dir, args.cam_out_dir)
    found = []
    for image_id in args.scored_ids():
        truth = mask_of(args.info, image_id)
        ious = [
            100 * _iou(args, folder / f"{image_id}.npy", truth, level)
            for folder, level in zip(folders, levels.values(), strict=True)
        ]
        found.append(Gain(image_id, *ious))
    return sorted(found, key=lambda gain: -gain.gain)


def _iou(args: Options, path: Path, truth: np.ndarray, level: float) -> float:
    scores, maps = ThresholdScores([level], args.info.num_labels), load_cam(path)
    scores.add(maps["high_res"], maps["keys"], truth)
    return float(np.nan_to_num(scores.mean_ious()[0]))


class Process:
    """Maps of images after given iterations: those that were kept, or made again."""

    def __init__(self, args: Options, image_ids: Sequence[str], iterations: Sequence[int]):
        self._args, self._refiner = args, MakeRIBCAM(args)
        # The sum of the first iteration is the plain map, which the paper calls k = 0.
        self._wanted = [min(max(1, k), args.RIB_iter) for k in iterations]
        self._kept = {i: [self._path(i, k) for k in self._wanted] for i in image_ids}
        lacking = [i for i, paths in self._kept.items() if not all(p.is_file() for p in paths)]
        labels = self._refiner.labels
        self._made = [image_id for image_id in lacking if labels[image_id].any()]
        if self._made:
            device = main_device(args.resources)
            set_up_process(args.resources)
            self._refiner.start(device, self._made)

    def _path(self, image_id: str, iteration: int) -> Path:
        return shown_path(self._args, MakeRIBCAM.name, image_id, iteration)

    def maps(self, image_id: str) -> list[dict[str, np.ndarray]]:
        """As `load_cam` gives them, after each of the iterations; call it in the order of the ids.

        An image that ended early has its last maps there.
        """
        if image_id not in self._made:
            return [load_cam(path) for path in self._kept[image_id] if path.is_file()]
        image = image_of(self._args.info, image_id)
        keys = torch.from_numpy(self._refiner.labels[image_id]).nonzero()[:, 0]
        after = {}
        with contextlib.closing(self._refiner.states(image_id)) as states:
            for k, state in enumerate(states, start=1):
                after[k] = merged(state, image, keys)
        last = max(after)
        return [after[min(k, last)] for k in self._wanted]


def figure_of(args: Options, chosen: Sequence[Gain], iterations: Sequence[int]) -> Figure:
    """A row for each image: itself, its maps after the iterations, the truth."""
    process = Process(args, [gain.image_id for gain in chosen], iterations)
    rows, columns = len(chosen), 2 + len(iterations)
    size = (_PANEL * columns, 0.95 * _PANEL * rows)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    score = load_scores(args.result_dir)["RIB seed"]
    level = score["thresholds"][score["best"]]
    for line, gain in zip(axes, chosen, strict=True):
        _draw(args, line, gain, process.maps(gain.image_id), level)
    titles = ("image", *(f"k = {min(k, args.RIB_iter)}" for k in iterations), "truth")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def _draw(args: Options, line: Sequence, gain: Gain, after: list[dict], level: float) -> None:
    image = image_of(args.info, gain.image_id)
    step = -(-max(image.shape[:2]) // _MAX_SIDE)
    image = image[::step, ::step]
    truth = mask_of(args.info, gain.image_id)[::step, ::step]
    pictures = [image, *(_heat(image, maps, step) for maps in after)]
    for axis in line:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, picture in zip(line, pictures, strict=False):
        axis.imshow(picture)
    for axis, maps in zip(line[1:], after, strict=False):
        strongest = _strongest(maps, step)
        if strongest is not None and strongest.min() < level < strongest.max():
            axis.contour(strongest, levels=[level], colors="white", linewidths=0.8)
    line[-1].imshow(coloured(image, truth))
    line[0].set_ylabel(f"{gain.plain:.0f} to {gain.rib:.0f} %\n({gain.gain:+.1f})", fontsize=8)


def _strongest(maps: dict, step: int) -> np.ndarray | None:
    """The largest map at every pixel; None of an image without classes."""
    return maps["high_res"][:, ::step, ::step].max(axis=0) if len(maps["keys"]) else None


def _heat(image: np.ndarray, maps: dict, step: int) -> np.ndarray:
    strongest = _strongest(maps, step)
    return image if strongest is None else heat_map(image, strongest)


def run(args: Options, best: int, worst: int, iterations: Sequence[int]) -> Iterator[Path]:
    """Draw the images that gain most and those that lose most; yields the files."""
    ordered = gains(args)
    folder = args.result_dir / "visualize"
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    for name, chosen in (("best", ordered[:best]), ("worst", ordered[::-1][:worst])):
        if chosen:
            path = folder / f"rib_process_{name}.png"
            save_figure(figure_of(args, chosen, iterations), path)
            for gain in chosen:
                log.info("%-6s %s: IoU %.2f -> %.2f (%+.2f)", name, *gain, gain.gain)
            yield path
    helped = sum(gain.gain > 0 for gain in ordered)
    log.info("RIB's maps are better than the plain ones on %d of %d images, mean gain %+.2f",
             helped, len(ordered), np.mean([gain.gain for gain in ordered]))  # fmt: skip


def _integers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m step.rib_process", allow_abbrev=False,
        description="How RIB's maps grow, of the images that gain most and least. All other "
        "options are those of run_sample.py, as in the run that made the maps.",
    )  # fmt: skip
    add = parser.add_argument
    add("--best", type=int, default=3, metavar="N", help="images (default: %(default)s)")
    add("--worst", type=int, default=3, metavar="N", help="images (default: %(default)s)")
    add("--shown", type=_integers, default=(0, 3, 6, 10), metavar="K,K,...",
        help="iterations; 0 is the plain map (default: 0,3,6,10)")  # fmt: skip
    own, words = parser.parse_known_args(argv)
    if min(own.best, own.worst, *own.shown) < 0 or own.best + own.worst == 0:
        parser.error("--best, --worst, --shown: give numbers from 0 on, and one image at least")
    args = parse(words)

    def draw() -> None:
        log_to_screen()
        args.info.require_root()
        check_device(args.device)
        for path in run(args, own.best, own.worst, own.shown):
            log.info("%s", path)

    return said_plainly(draw)


if __name__ == "__main__":
    sys.exit(main())
