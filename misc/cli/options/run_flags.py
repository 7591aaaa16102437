"""The options of a run: machine, data, steps, results, comparisons."""

import argparse
from pathlib import Path

from misc.cli.options.by_dataset import by_dataset
from misc.cli.options.sequence import STEPS
from misc.cli.options.values import (
    EXPORTS,
    boolean,
    check_kind,
    count,
    count_or_zero,
    exports,
    number,
    processes,
    workers,
)
from misc.data.registry import dataset_names, default_root

EXPECTED = Path(__file__).resolve().parent.parent.parent.parent / "Demo" / "expected.json"
NUMBERINGS = ("class", "label")  # of classes in maps of others: from 0, or as in masks
# The flags of IRN for two of the steps are shorter than the names of their modules.
PASS_ALIASES = {
    "make_sem_seg_labels": ("--make_sem_seg_pass",),
    "make_recam_with_RIB": ("--make_recam_pass",),
    "make_ins_seg_labels": ("--make_ins_seg_pass",),
}


# fmt: off
def environment_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--device", default="auto", metavar="NAME",
        help="auto (CUDA when there is one), cpu, cuda or cuda:N")
    add("--num_processes", type=processes, metavar="N",
        help="processes that share the images of a step (default: one per GPU; on the CPU one "
        "per core, fewer where memory is short)")
    add("--num_workers", type=workers, metavar="N",
        help="processes that read images ahead, for each of the above (default: 1 on the CPU, "
        "up to 8 on a GPU; 0 reads in place)")
    add("--num_threads", type=processes, metavar="N",
        help="CPU threads of each process (default: the cores, shared out); on a CPU results are "
        "the same to the bit where this number is the same, with any number of processes")
    add("--deterministic", type=boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="on a GPU take only kernels that give the same bits every time (slower)")
    add("--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N",
        help="seed of every random draw")
    add("--limit", type=count, metavar="N",
        help="work on the first N images of each list only (RIB still draws its batches from "
        "the whole training list)")


def dataset_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--dataset", choices=dataset_names(), default="voc12", help="(default: %(default)s)")
    for name in filter(default_root, dataset_names()):
        add(f"--{name}_root", type=Path, default=default_root(name), metavar="DIR",
            help="folder with JPEGImages/ (default: %(default)s)")
    train, scored = by_dataset(lambda i: i.train_split), by_dataset(lambda i: i.eval_split)
    for role, what in (("train", f"training {train}"),
                       ("infer", f"images that get maps and pseudo masks {train}"),
                       ("eval", f"images that are scored {scored}")):
        add(f"--{role}_list", type=Path, metavar="FILE", help=f"{what}; made from the root where "
            "not given")
    add("--skip_mismatched", type=boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="leave images out of the lists made here whose mask has another size; they are named "
        "in the log (otherwise such an image is an error)")
    add("--cls_labels", type=Path, metavar="FILE",
        help="image-level labels: .npy dict of id to multi-hot vector (default: made from the "
        "root)")


def folder_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--root", type=Path, metavar="DIR",
        help="folder of the chosen --dataset; of photographs (JPEG, PNG, WebP, TIFF) in any "
        "folders below it")
    add("--labels", type=Path, metavar="FILE",
        help="image-level labels: a table (.csv: image,class;class on a line, or a column of 0 and "
        "1 for each class), COCO's instances (.json), a folder of Pascal XML files, or the word "
        "folders: sub-folders name the classes (default: that)")
    add("--classes", type=Path, metavar="FILE",
        help="names of the classes, one a line, in the order of the labels in masks (default: "
        "classes.txt of the root; otherwise those of the labels: columns in their order, names "
        "in cells and folders by the alphabet)")
    add("--masks", type=Path, metavar="DIR",
        help="ground truth to score with: a PNG (grey or palette) for any of the photographs, "
        "with its name, in the same folders or in none")
    add("--val_list", type=Path, metavar="FILE",
        help="photographs of the validation split, which no training sees, one a line (default: a "
        "tenth of every class that has ten)")
    add("--unlabelled", choices=("error", "skip"), default="error",
        help="photographs without a row in --labels: name them and end, or leave them out, into "
        "lists/unlabelled.txt, which --seg_list takes (default: %(default)s)")
    add("--threshold_from", choices=("train", "scored"),
        help="has no effect any more: the threshold of a row is its best on the scored images")
    add("--photo_long", type=count_or_zero, default=640, metavar="PX",
        help="larger photographs are shrunk to this longer side for all steps, and their masks "
        "enlarged at the end, into RESULT_DIR/masks; 0: never (default: %(default)s)")


def step_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--check", type=check_kind, nargs="?", const="full",
                       metavar="full|quick", help="only look at everything that these steps will "
                       "read, list all problems, and end, without writing anything; quick decodes "
                       "no photographs")
    for name, text in STEPS.items():
        flags = (f"--{name}_pass", *PASS_ALIASES.get(name, ()))
        group.add_argument(*flags, type=boolean, nargs="?", const=True, default=None,
                           metavar="BOOL", help=text, dest=f"{name}_pass")


def output_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--result_dir", type=Path, metavar="DIR",
        help="everything below goes here where not said otherwise (default: result/DATASET)")
    add("--plain_cam_out_dir", type=Path, metavar="DIR",
        help="maps of make_cam (default: RESULT_DIR/cam_plain)")
    add("--cam_out_dir", type=Path, metavar="DIR",
        help="maps of 2, read by 3, 4 and 6 (default: RESULT_DIR/cam)")
    add("--ir_label_out_dir", type=Path, metavar="DIR", help="(default: RESULT_DIR/ir_label)")
    add("--sem_seg_out_dir", type=Path, metavar="DIR",
        help="pseudo masks; coloured ones in its folder palette/ (default: RESULT_DIR/sem_seg)")
    add("--seg_out_dir", type=Path, metavar="DIR",
        help="predictions of 8; with the CRF in DIR_crf (default: RESULT_DIR/seg)")
    add("--visualize", type=count_or_zero, default=0, metavar="N",
        help="draw the maps and masks of the first N images side by side, and the curves of the "
        "scores, into RESULT_DIR/visualize")
    add("--report", type=boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="print the table of the scores that RESULT_DIR has, draw their curves, and end")
    add("--overwrite", type=boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="redo outputs that were made with other settings (otherwise that is an error)")


def page_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--report_html", type=boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="write RESULT_DIR/report.html: one page with the scores, curves, classes and images, "
        "also with --report alone")


def exchange_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--export", type=exports, default=(), metavar="FORM,...",
        help=f"write the masks as {', '.join(EXPORTS)}, or all: VOC's tree with palette PNGs, "
        "COCO's JSON, YOLO's polygons; soft has the maps "
        "of --cam_out_dir, onehot the labels as AFA and ToCo read them, irn maps and weights as "
        "IRN, RIB and deeplab-pytorch do")
    add("--export_from", type=Path, metavar="DIR",
        help="label PNGs to export, of any method (default: --sem_seg_out_dir)")
    add("--import_maps", type=Path, metavar="DIR",
        help="folder of maps of another method, from which the later steps start: .npy, .npz, .pt "
        "or .pth files (dicts with keys, dicts of class to map, arrays C x H x W), or a PNG for "
        "each class; they are saved in --cam_out_dir (default: RESULT_DIR/cam_imported)")
    add("--import_keys", choices=("auto", *NUMBERINGS), default="auto",
        help="how classes are numbered there: class, from 0; label, from 1 with 0 for a "
        "background, which is the first channel of an array; auto: as the image-level labels say "
        "(default: %(default)s)")


def comparison_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--expect", type=Path, nargs="?", const=EXPECTED, metavar="FILE",
        help="behind a run, or with --report alone: say whether the scores lie in the ranges of "
        "this file, the paper's or those of the samples; exit code 1 where one does not (default "
        "of FILE: Demo/expected.json)")


# fmt: on
