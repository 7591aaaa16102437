"""Score the seed: mIoU of CAMs and of RIB maps over all background thresholds."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from misc.cams import load_cam
from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.data.datasets import mask_folders, mask_of
from misc.errors import about
from misc.metrics import Counts, ThresholdScores, false_foreground, require_few_labels, score_of
from misc.runtime import distributed
from misc.runtime.image_task import MAPS_WORTH_A_PROCESS, ImageTask, run_over_images
from misc.storage.manifest import ids_hash, read_manifest
from misc.storage.outputs import Output
from misc.storage.scores import save_score, scores_file

log = logging.getLogger(__name__)

LISTS = ("eval",)


def writes(args: Options) -> tuple[Output, ...]:
    return (scores_file(args.result_dir),)


def check_scoring(args: Options, preflight: Preflight, ids: tuple[str, ...]) -> None:
    preflight.file(scores_file(args.result_dir))
    preflight.images(ids)
    preflight.masks(ids)
    preflight.collect(lambda: require_few_labels(args.info.num_labels))


def check(args: Options, preflight: Preflight) -> None:
    check_scoring(args, preflight, args.scored_ids())
    for path in seed_folders(args, preflight.is_made).values():
        preflight.cams(args.scored_ids(), path)


def seed_folders(args: Options, is_made: Callable = lambda path: False) -> dict[str, Path]:
    """Folders of maps by method: that of --recam, beside RIB also the baseline CAMs."""
    plain = args.plain_cam_out_dir
    there = read_manifest(plain) is not None or is_made(plain)
    beside = args.recam == "rib" and there and plain != args.cam_out_dir
    chosen = {"rib": "RIB", "advcam": "AdvCAM", "none": "CAM"}.get(args.recam, args.recam)
    return {**({"CAM seed": plain} if beside else {}), f"{chosen} seed": args.cam_out_dir}


def thresholds(args: Options) -> np.ndarray:
    """Background thresholds, from the first to the last of --cam_eval_thres by 0.01."""
    first, last = args.cam_eval_thres
    return np.arange(round(first * 100), round(last * 100) + 1) / 100


class ScoreCAMs(ImageTask):
    """Adds the maps of one image to the confusion matrices of all thresholds."""

    images_worth_a_process = MAPS_WORTH_A_PROCESS
    on_gpu = False

    def __init__(self, args: Options, folder: Path, step: str = "eval_cam"):
        self.name, self.info, self.folder = f"{step} of {folder}", args.info, folder
        self.scores = ThresholdScores(thresholds(args), self.info.num_labels)

    def one(self, image_id: str) -> None:
        path = self.folder / f"{image_id}.npy"
        maps, truth = load_cam(path), mask_of(self.info, image_id)
        with about(path):
            self.scores.add(maps["high_res"], maps["keys"], truth)

    def finish(self) -> ThresholdScores:
        return self.scores


def score(args: Options, folder: Path) -> ThresholdScores:
    first, *others = run_over_images(ScoreCAMs(args, folder), args.scored_ids(), args.resources)
    for other in others:
        first.merge(other)
    return first


def run(args: Options) -> dict[str, ThresholdScores]:
    """Score the CAMs and the refined maps that are there; the scores by method."""
    results = {}
    for row, folder in seed_folders(args).items():
        start = time.perf_counter()
        results[row] = scores = score(args, folder)
        entry = {"folder": str(folder), "scales": args.cam_scales, "crf": False}
        entry["false_foreground"] = false_foreground(scores.counts).tolist()
        save_row(args, row, scores.counts, scores.thresholds, entry, start)
    return results


def ids_of(args: Options, role: str) -> tuple[str, ...]:
    return args.scored_ids() if role == "eval" else args.image_ids(role)


def scored_images(args: Options, role: str = "eval") -> dict[str, object]:
    info, ids = args.info, ids_of(args, role)
    split = info.eval_split if role == "eval" else info.seg_split
    official = info.is_official(split, ids) and args.infer_list.is_file()
    official = official and info.is_official(info.train_split, args.image_ids("infer"))
    chosen = {"dataset": info.name, "list": str(getattr(args, f"{role}_list"))}
    return {**chosen, "list_digest": ids_hash(ids), "images": len(ids), "official": official}


def save_row(
    args: Options, row: str, confusions: np.ndarray | Counts, at: Sequence[float | None],
    entry: dict, start: float, role: str = "eval",
) -> None:  # fmt: skip
    """Log the scores of a method and keep them in scores.json; every rank calls it.

    confusions: T x L x L at the thresholds `at`, None for masks without one. entry: kept too.
    """
    kept = score_of(confusions, at, args.info.label_names)
    kept |= {**scored_images(args, role), "options": args.changed(), **entry}
    kept["seconds"], best = round(time.perf_counter() - start, 3), kept["best"]
    cut_at = "" if at[best] is None else f" at threshold {at[best]:.2f}"
    wrong = 100 * np.nan_to_num(false_foreground(confusions)[best])
    log.info("%s (%s): mIoU %.2f %%%s; %.1f %% of predicted foreground is background; %.1f s",
             row, entry["folder"], 100 * kept["miou"][best], cut_at, wrong,
             kept["seconds"])  # fmt: skip
    ious = (f"{n} {100 * iou:.1f}" for n, iou in kept["iou"].items() if not np.isnan(iou))
    log.debug("IoU: %s", ", ".join(ious))
    log.debug("scored with the ground truth in %s", mask_folders(args.info, ids_of(args, role)))
    distributed.on_first_rank(lambda: save_score(args.result_dir, row, kept))
