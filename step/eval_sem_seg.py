"""Score the pseudo masks: mIoU, IoU of the classes, false positives and negatives."""

import logging
import time
from pathlib import Path

import numpy as np

from misc.cli.check import Preflight
from misc.cli.options import ROW_ENDING, Options
from misc.data.datasets import mask_of
from misc.errors import about
from misc.labels import read_label_png
from misc.metrics import false_positive_negative, pseudo_mask_confusion
from misc.runtime.image_task import MAPS_WORTH_A_PROCESS, ImageTask, run_over_images
from misc.storage.manifest import folder_hash, read_manifest
from step import eval_cam
from step.make_sem_seg_labels import MakePseudoMask

log = logging.getLogger(__name__)

LISTS, writes = eval_cam.LISTS, eval_cam.writes


def check(args: Options, preflight: Preflight) -> None:
    eval_cam.check_scoring(args, preflight, args.scored_ids())
    preflight.label_maps(args.scored_ids(), args.sem_seg_out_dir)


class ScoreMasks(ImageTask):
    """Adds the label map of one image to the confusion matrix."""

    images_worth_a_process = MAPS_WORTH_A_PROCESS
    on_gpu = False

    def __init__(self, args: Options, folder: Path, step: str):
        self.name, self.info, self.folder = f"{step} of {folder}", args.info, folder
        self.confusion = np.zeros((self.info.num_labels, self.info.num_labels), dtype=np.int64)

    def labels(self, image_id: str) -> np.ndarray:
        return read_label_png(self.folder / f"{image_id}.png")

    def one(self, image_id: str) -> None:
        truth, labels = mask_of(self.info, image_id), self.labels(image_id)
        with about(self.folder / f"{image_id}.png"):
            self.confusion += pseudo_mask_confusion(truth, labels, self.info.num_labels)

    def finish(self) -> np.ndarray:
        return self.confusion


def score_masks(
    args: Options, task: ScoreMasks, row: str, threshold: float | None, entry: dict,
    role: str = "eval",
) -> np.ndarray:  # fmt: skip
    """Score label maps and keep their score; the confusion matrix L x L (row: ground truth)."""
    start = time.perf_counter()
    confusion = sum(run_over_images(task, eval_cam.ids_of(args, role), args.resources))
    entry = {"folder": str(task.folder), **entry}
    eval_cam.save_row(args, row, confusion[None], [threshold], entry, start, role)
    return confusion


def row_of(args: Options) -> tuple[str, float | None]:
    """Method and threshold of the masks; those not made from --cam_out_dir are one of their own."""
    made, own_row = read_manifest(args.sem_seg_out_dir) or {}, f"masks of {args.sem_seg_out_dir}"
    if made.get("step") != MakePseudoMask.name:
        return own_row, None
    threshold = made.get("sem_seg_bg_thres")
    threshold = threshold if isinstance(threshold, (int, float)) else None
    beside = args.sem_seg_out_dir.resolve().parent == args.result_dir.resolve()
    if beside or (made.get("inputs") or {}).get("maps") == folder_hash(args.cam_out_dir):
        return f"pseudo masks{ROW_ENDING[args.recam]}", threshold
    return own_row, threshold


def run(args: Options) -> np.ndarray:
    """Confusion matrix L x L of the pseudo masks on the evaluation list (row: ground truth)."""
    task = ScoreMasks(args, args.sem_seg_out_dir, "eval_sem_seg")
    confusion = score_masks(args, task, *row_of(args), {"crf": False})
    positive, negative = (100 * part for part in false_positive_negative(confusion))
    log.debug(
        "false positives and negatives in per cent: background %.1f, %.1f, classes %.1f, %.1f",
        *(positive[0], negative[0], np.nanmean(positive[1:]), np.nanmean(negative[1:])),
    )
    return confusion
