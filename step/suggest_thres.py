"""Suggest a background threshold of maps from the maps alone, where there is no ground truth."""

import logging
from pathlib import Path

import numpy as np

from misc.cams import load_cam, strongest_class
from misc.cli.options import Options
from misc.cli.preflight import Preflight
from misc.runtime.image_task import MAPS_WORTH_A_PROCESS, ImageTask, run_over_images
from misc.storage.outputs import Output
from misc.storage.scores import load_scores
from step.eval_cam import seed_folders

log = logging.getLogger(__name__)

LISTS = ("infer",)

_BINS = 256


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return ()


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    for path in seed_folders(args, preflight.is_made).values():
        preflight.cams(args.image_ids("infer"), path)


class CountScores(ImageTask):
    """Counts the strongest score of every pixel, over the images that have any class."""

    images_worth_a_process = MAPS_WORTH_A_PROCESS
    on_gpu = False

    def __init__(self, cam_dir: Path):
        self.name = f"suggest_thres of {cam_dir}"
        self.cam_dir, self.counts = cam_dir, np.zeros(_BINS, dtype=np.int64)

    def one(self, image_id: str) -> None:
        maps = load_cam(self.cam_dir / f"{image_id}.npy")
        if len(maps["keys"]):
            _, score = strongest_class(maps["high_res"])
            self.counts += np.histogram(score, _BINS, (0, 1))[0]

    def finish(self) -> np.ndarray:
        return self.counts


def suggested(counts: np.ndarray) -> float:
    """The score that parts object from background best (Otsu, 1979), 0..1.

    counts: number of pixels by their strongest score, in bins of equal width from 0 to 1. Of all
    thresholds it is the one with the largest variance between the two sides.
    """
    from skimage.filters import threshold_otsu

    centres = (np.arange(len(counts)) + 0.5) / len(counts)
    return float(threshold_otsu(hist=(counts, centres)))


def run(args: Options) -> dict[str, float]:
    """The suggestion for every folder of maps, by row of the table."""
    found, scores = {}, load_scores(args.result_dir)
    for row, cam_dir in seed_folders(args).items():
        counts = sum(run_over_images(CountScores(cam_dir), args.image_ids("infer"), args.resources))
        if not np.any(counts):
            log.warning("%s (%s): no image has a class, so nothing to suggest", row, cam_dir)
            continue
        found[row] = suggested(counts)
        log.info("%s (%s): background threshold %.2f suggested by the maps%s", row, cam_dir,
                 found[row], _distance(scores.get(row), found[row]))  # fmt: skip
    return found


def _distance(score: dict | None, threshold: float) -> str:
    """How far the suggestion is from the best threshold, where that is known."""
    mious = [] if score is None else [m for m in score["miou"] if m is not None]
    if len(mious) < 2 or len(mious) < len(score["miou"]):
        return ""
    at, best = float(np.interp(threshold, score["thresholds"], mious)), max(mious)
    return (f": mIoU {100 * at:.2f} % there, {100 * (best - at):.2f} below that of the best "
            "threshold")  # fmt: skip
