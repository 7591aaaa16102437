"""Score the predictions of the segmentation network, with and without CRF, and their spread."""

import time

from misc.cli.options import Options
from misc.cli.preflight import Preflight
from misc.metrics import mean_iou
from misc.runtime.image_task import run_over_images
from misc.storage.outputs import Output
from misc.storage.scores import scores_file
from step.eval_cam import save_row
from step.eval_sem_seg import ScoreMasks
from step.make_seg import folders

LISTS = ("seg", "eval")


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return (scores_file(args.result_dir),)


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    ids = args.image_ids("seg")
    preflight.file(scores_file(args.result_dir))
    preflight.images(ids)
    preflight.masks(ids)
    for number in range(args.seg_runs):
        for folder in folders(args, number).values():
            preflight.label_maps(ids, folder, role="seg")


def run(args: Options) -> None:
    """Score the predictions of every run; each has a row of the table, the first all their mIoU."""
    for kind in folders(args, 0):
        score_runs(args, kind)


def score_runs(args: Options, kind: str) -> None:
    """Score the plain predictions of all runs, or those with the CRF."""
    start, ids, confusions = time.perf_counter(), args.image_ids("seg"), []
    places = [folders(args, number)[kind] for number in range(args.seg_runs)]
    for folder in places:
        task = ScoreMasks(args, folder, "eval_seg")
        confusions.append(sum(run_over_images(task, ids, args.resources)))
    row = args.seg_row + (" + CRF" if kind == "crf" else "")
    runs = [float(mean_iou(confusion)) for confusion in confusions]
    for number, (folder, confusion) in enumerate(zip(places, confusions, strict=True)):
        entry = {"folder": str(folder), "crf": kind == "crf", "preset": args.seg_preset}
        of_all = {} if number else {"runs": runs}
        name = f"{row}, run {number + 1}" if number else row
        save_row(args, name, confusion[None], [None], start, {**entry, **of_all}, "seg")
