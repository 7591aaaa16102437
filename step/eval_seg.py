"""Score the predictions of the segmentation network, with and without CRF."""

import time

from misc.cli.check import Preflight
from misc.cli.options import ROW_ENDING, Options
from misc.cli.report import BOUND
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
    for folder in folders(args).values():
        preflight.label_maps(ids, folder, role="seg")


def row_of(args: Options) -> str:
    """The row of the table, by what the network was trained on."""
    truth = {folder.resolve() for folder in args.info.mask_dirs}
    if args.seg_label_dir.resolve() in truth:
        return BOUND
    return f"segmentation{ROW_ENDING[args.recam]}"


def run(args: Options) -> None:
    """Score the predictions, and those with the CRF."""
    ids = args.image_ids("seg")
    for kind, folder in folders(args).items():
        start, task = time.perf_counter(), ScoreMasks(args, folder, "eval_seg")
        confusion = sum(run_over_images(task, ids, args.resources))
        row = row_of(args) + (" + CRF" if kind == "crf" else "")
        entry = {"folder": str(folder), "crf": kind == "crf", "preset": args.seg_preset}
        save_row(args, row, confusion[None], [None], start, entry, "seg")
