"""Growth of RIB's maps (paper, Figure 3) on the images that gain most by it and on its failures.

    python -m step.rib_process [--best 3] [--worst 3] [--shown 0,3,6,10] [options of run_sample.py]

Needs a finished run of make_cam, make_recam_with_RIB and eval_cam with the same options.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from misc.cli.flags import number, numbers
from misc.cli.log import log_to_screen
from misc.cli.options import Options, parse
from misc.data.datasets import image_of
from misc.errors import UserError
from misc.metrics import mean_iou
from misc.runtime.devices import check_device, main_device, set_up_process
from misc.runtime.programs import said_plainly
from misc.storage.files import remove_leftovers
from misc.storage.scores import load_scores
from net.inference import merged
from step.eval_cam import thresholds
from step.make_recam_with_RIB import MakeRIBCAM
from step.sweep_scores import counts_of
from step.visualize import grid, label_panels, map_panel, save_figure

log = logging.getLogger("rib_process")

SEEDS = ("CAM seed", "RIB seed")


class Gain(NamedTuple):
    """IoU of an image with its CAMs and with RIB's maps, in per cent."""

    image_id: str
    cam: float
    rib: float
    gain: float


def best_thresholds(args: Options) -> list[float]:
    scores = load_scores(args.result_dir)
    for row in SEEDS:
        if row not in scores:
            raise UserError(f"{args.result_dir}: has no scores of the {row}; run --make_cam_pass "
                            "--make_recam_with_RIB_pass --eval_cam_pass first")  # fmt: skip
    return [scores[row]["thresholds"][scores[row]["best"]] for row in SEEDS]


def gains(args: Options) -> list[Gain]:
    ious = []
    for kind, best in zip(("plain", "seed"), best_thresholds(args), strict=True):
        (counts,) = counts_of([args], kind)
        nearest = np.abs(thresholds(args) - best).argmin()
        ious.append((100 * np.nan_to_num(mean_iou(counts)[:, nearest])).tolist())
    found = (Gain(*one, one[2] - one[1]) for one in zip(args.scored_ids(), *ious, strict=True))
    return sorted(found, key=lambda gain: -gain.gain)


def maps_after(args: Options, ids: Sequence[str], iterations: Sequence[int]) -> Iterator[list]:
    """Yield the maps of each image after each of the iterations, or its last, as `load_cam`."""
    method = MakeRIBCAM(args)
    set_up_process(args.resources)
    method.start(main_device(args.resources), list(ids))
    for image_id in ids:
        image = image_of(args.info, image_id)
        keys = torch.from_numpy(method.labels[image_id]).nonzero()[:, 0]
        with contextlib.closing(method.states(image_id)) as states:
            after = [merged(state, image, keys) for state in states]
        # The sum of the first iteration is the CAM, which the paper calls k = 0.
        yield [after[min(max(1, k), len(after)) - 1] for k in iterations]


def figure_of(args: Options, chosen: Sequence[Gain], iterations: Sequence[int]) -> Figure:
    """A row for each image: itself, its maps after the iterations, the ground truth."""
    rows, level = [], best_thresholds(args)[1]
    all_maps = maps_after(args, [gain.image_id for gain in chosen], iterations)
    for gain, of_image in zip(chosen, all_maps, strict=True):
        image, truth = label_panels(args, gain.image_id, {})
        row = [image._replace(title=f"{gain.cam:.0f} to {gain.rib:.0f} % ({gain.gain:+.1f})")]
        for k, maps in zip(iterations, of_image, strict=True):
            name = f"k = {min(k, args.RIB_iter)}"
            panel = image._replace(title=name)  # of an image without classes
            if len(maps["keys"]):
                panel = map_panel(name, image.picture, maps["high_res"].max(axis=0), level)
            row.append(panel)
        rows.append([*row, truth])
    return grid(rows, width=1.7)


def run(args: Options, best: int, worst: int, iterations: Sequence[int]) -> None:
    ordered, folder = gains(args), args.result_dir / "visualize"
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    for name, chosen in (("best", ordered[:best]), ("worst", ordered[::-1][:worst])):
        if chosen:
            path = folder / f"rib_process_{name}.png"
            save_figure(figure_of(args, chosen, iterations), path)
            for gain in chosen:
                log.info("%-6s %s: IoU %.2f -> %.2f (%+.2f)", name, *gain)
            log.info("%s", path)
    helped = sum(gain.gain > 0 for gain in ordered)
    log.info("RIB's maps are better than the CAMs on %d of %d images, mean gain %+.2f",
             helped, len(ordered), np.mean([gain.gain for gain in ordered]))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m step.rib_process", allow_abbrev=False,
        description="Draw the growth of RIB's maps on the images that gain most and least. All "
        "other options are those of run_sample.py, as in the run that made the maps.",
    )  # fmt: skip
    add, n_images = parser.add_argument, {"type": number(int, 0), "default": 3, "metavar": "N"}
    add("--best", help="images that gain most (default: 3)", **n_images)
    add("--worst", help="images that gain least (default: 3)", **n_images)
    add("--shown", type=numbers(int, 0, 10**6), default=(0, 3, 6, 10), metavar="K,K,...",
        help="iterations; 0 is the CAM (default: 0,3,6,10)")  # fmt: skip
    own, words = parser.parse_known_args(argv)
    args = parse(words)

    def draw() -> None:
        log_to_screen()
        args.info.require_root()
        check_device(args.device)
        run(args, own.best, own.worst, own.shown)

    return said_plainly(draw)


if __name__ == "__main__":
    sys.exit(main())
