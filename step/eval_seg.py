"""Score the predictions of the segmentation network, with and without CRF."""

from misc.cli.check import Preflight
from misc.cli.options import ROW_ENDING, Options
from misc.storage.scores import FULL
from step import eval_cam
from step.eval_sem_seg import ScoreMasks, score_masks
from step.make_seg import folders

LISTS, writes = ("seg", "eval"), eval_cam.writes


def check(args: Options, preflight: Preflight) -> None:
    eval_cam.check_scoring(args, preflight, args.image_ids("seg"))
    for folder in folders(args).values():
        preflight.label_maps(args.image_ids("seg"), folder, role="seg")


def row_of(args: Options) -> str:
    """The method in the table, by the labels of the training."""
    truth = {folder.resolve() for folder in args.info.mask_dirs}
    supervised = args.seg_label_dir.resolve() in truth
    return FULL if supervised else f"segmentation{ROW_ENDING[args.recam]}"


def run(args: Options) -> None:
    for kind, folder in folders(args).items():
        row = row_of(args) + (" + CRF" if kind == "crf" else "")
        entry = {"crf": kind == "crf", "preset": args.seg_preset}
        score_masks(args, ScoreMasks(args, folder, "eval_seg"), row, None, entry, "seg")
