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
from misc.metrics import false_positive_negative, pseudo_mask_confusion, require_few_labels
from misc.runtime.image_task import MAPS_WORTH_A_PROCESS, ImageTask, run_over_images
from misc.storage.manifest import folder_hash, read_manifest
from misc.storage.outputs import Output
from misc.storage.scores import scores_file
from step.eval_cam import save_row
from step.make_sem_seg_labels import settings

log = logging.getLogger(__name__)

LISTS = ("eval",)


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return (scores_file(args.result_dir),)


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    preflight.file(scores_file(args.result_dir))
    ids = args.scored_ids()
    preflight.images(ids)
    preflight.masks(ids)
    preflight.label_maps(ids, args.sem_seg_out_dir)
    preflight.collect(lambda: require_few_labels(args.info.num_labels))


class ScoreMasks(ImageTask):
    """Adds the label map of one image to the confusion matrix."""

    images_worth_a_process = MAPS_WORTH_A_PROCESS
    on_gpu = False

    def __init__(self, args: Options, mask_dir: Path, step: str):
        self.name = f"{step} of {mask_dir}"
        self.info, self.mask_dir = args.info, mask_dir
        self.confusion = np.zeros((self.info.num_labels, self.info.num_labels), dtype=np.int64)

    def one(self, image_id: str) -> None:
        path = self.mask_dir / f"{image_id}.png"
        truth, mask = mask_of(self.info, image_id), read_label_png(path)
        with about(path):
            self.confusion += pseudo_mask_confusion(truth, mask, self.info.num_labels)

    def finish(self) -> np.ndarray:
        return self.confusion


def row_of(args: Options) -> tuple[str, float | None]:
    """The row of the table that the masks of --sem_seg_out_dir have, and their threshold.

    Masks that were not made from the maps of --cam_out_dir have a row of their own; those of
    another program have no threshold.
    """
    noted = read_manifest(args.sem_seg_out_dir) or {}
    if noted.get("step") != settings(args)["step"]:
        return f"masks of {args.sem_seg_out_dir}", None
    threshold = noted.get("sem_seg_bg_thres")
    threshold = threshold if isinstance(threshold, (int, float)) else None
    beside = args.sem_seg_out_dir.resolve().parent == args.result_dir.resolve()
    if beside or (noted.get("inputs") or {}).get("maps") == folder_hash(args.cam_out_dir):
        return f"pseudo masks{ROW_ENDING[args.recam]}", threshold
    return f"masks of {args.sem_seg_out_dir}", threshold


def run(args: Options) -> np.ndarray:
    """Confusion matrix L x L of the pseudo masks on the evaluation list (row truth)."""
    start = time.perf_counter()
    task = ScoreMasks(args, args.sem_seg_out_dir, "eval_sem_seg")
    confusion = sum(run_over_images(task, args.scored_ids(), args.resources))
    entry = {"folder": str(args.sem_seg_out_dir), "crf": False}
    row, threshold = row_of(args)
    save_row(args, row, confusion[None], [threshold], start, entry)
    positive, negative = false_positive_negative(confusion)
    log.info(
        "false positives and negatives in per cent: background %.1f, %.1f, classes %.1f, %.1f",
        100 * positive[0],
        100 * negative[0],
        100 * np.nanmean(positive[1:]),
        100 * np.nanmean(negative[1:]),
    )
    return confusion
