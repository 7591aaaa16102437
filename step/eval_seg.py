"""Score the predictions of the segmentation network, with and without CRF, and their spread."""

import logging
import time
from pathlib import Path

import numpy as np

from misc.cli.options import Options
from misc.cli.preflight import Preflight
from misc.metrics import mean_iou
from misc.runtime.image_task import run_over_images
from step.eval_cam import save_row
from step.eval_sem_seg import ScoreMasks
from step.make_seg import folders

log = logging.getLogger(__name__)

LISTS = ("seg", "eval")


def writes(args: Options) -> dict[str, Path]:
    """Folders and files that the step writes, by the option that names them."""
    return {}


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    ids = args.image_ids("seg")
    preflight.images(ids)
    preflight.masks(ids)
    for number in range(args.seg_runs):
        for folder in folders(args, number).values():
            preflight.label_maps(ids, folder, role="seg")


def run(args: Options) -> None:
    """Score the predictions of every run; the row of the table is that of the first."""
    mious: dict[str, list[float]] = {}
    for number in range(args.seg_runs):
        for kind, folder in folders(args, number).items():
            start, ids = time.perf_counter(), args.image_ids("seg")
            task = ScoreMasks(args, folder, "eval_seg")
            confusion = sum(run_over_images(task, ids, args.resources))
            mious.setdefault(kind, []).append(float(mean_iou(confusion)))
            entry = {"folder": str(folder), "crf": kind == "crf", "preset": args.seg_preset}
            entry["runs"] = mious[kind]
            row = row_of(args, kind) + (f", run {number + 1}" if number else "")
            save_row(args, row, confusion[None], [0.0], start, entry, "seg")
    for kind, values in mious.items():
        if len(values) > 1:
            mean, spread = 100 * np.mean(values), 100 * np.std(values, ddof=1)
            row = row_of(args, kind)
            log.info("%s: mIoU %.2f +- %.2f %% in %d runs", row, mean, spread, len(values))


def row_of(args: Options, kind: str) -> str:
    """Name of the row of plain predictions, or of those with the CRF."""
    return args.seg_row + (" + CRF" if kind == "crf" else "")
