"""Score the seed: mIoU of CAMs and of RIB maps over all background thresholds."""

import logging
from pathlib import Path

import numpy as np

from misc.cams import load_cam
from misc.cli.options import Options
from misc.cli.preflight import Preflight
from misc.errors import about
from misc.metrics import ThresholdScores, iou
from misc.palette import read_label_png
from misc.runtime.image_task import ImageTask, run_over_images
from misc.storage.manifest import read_manifest

log = logging.getLogger(__name__)


def writes(args: Options) -> dict[str, Path]:
    """Folders and files that the step writes, by the option that names them."""
    return {}


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    ids = args.scored_ids()
    preflight.cams(ids, args.cam_out_dir, "make_recam_with_RIB")
    if "make_cam" in preflight.planned or scores_plain_maps(args):
        preflight.cams(ids, args.plain_cam_out_dir, "make_cam")
    preflight.images(ids)
    preflight.masks(ids)


def scores_plain_maps(args: Options) -> bool:
    """Whether there is a second folder to score: the plain maps are optional."""
    there = read_manifest(args.plain_cam_out_dir) is not None
    return there and args.plain_cam_out_dir != args.cam_out_dir


def thresholds(args: Options) -> np.ndarray:
    """Background thresholds, from the first to the last of --cam_eval_thres by 0.01."""
    first, last = args.cam_eval_thres
    return np.arange(round(first * 100), round(last * 100) + 1) / 100


class ScoreCAMs(ImageTask):
    """Adds the maps of one image to the confusion matrices of all thresholds."""

    images_worth_a_process = 200

    def __init__(self, args: Options, cam_dir: Path):
        self.name = f"eval_cam of {cam_dir}"
        self.info, self.cam_dir, self.thresholds = args.info, cam_dir, thresholds(args)
        self.scores = ThresholdScores(self.thresholds, self.info.num_labels)

    def one(self, image_id: str) -> None:
        path = self.cam_dir / f"{image_id}.npy"
        maps = load_cam(path)
        truth = read_label_png(self.info.mask_path(image_id))
        with about(path):
            self.scores.add(maps["high_res"], maps["keys"], truth)

    def finish(self) -> ThresholdScores:
        return self.scores


def score(args: Options, cam_dir: Path) -> ThresholdScores:
    """Scores of a folder of maps on the evaluation list, whatever number of processes."""
    first, *others = run_over_images(ScoreCAMs(args, cam_dir), args.scored_ids(), args.resources)
    for other in others:
        first.merge(other)
    return first


def run(args: Options) -> dict[str, ThresholdScores]:
    """Scores of the plain maps (where there are some) and of the RIB maps, by row of the table."""
    folders = {"RIB seed": args.cam_out_dir}
    if scores_plain_maps(args):
        folders = {"CAM seed": args.plain_cam_out_dir, **folders}
    results = {row: score(args, cam_dir) for row, cam_dir in folders.items()}
    for row, scores in results.items():
        best = scores.best()
        log.info(
            "%s (%s): mIoU %.2f %% at threshold %.2f; %.1f %% of predicted foreground is "
            "background",
            row,
            folders[row],
            100 * scores.mean_ious()[best],
            scores.thresholds[best],
            100 * scores.false_foreground()[best],
        )
        log_class_ious(iou(scores.confusions[best]), args)
    return results


def log_class_ious(ious: np.ndarray, args: Options) -> None:
    """One line with the IoU of every class that occurs, in per cent."""
    names = ("background", *args.info.class_names)
    parts = [f"{n} {100 * v:.1f}" for n, v in zip(names, ious, strict=True) if not np.isnan(v)]
    log.info("IoU: %s", ", ".join(parts))
