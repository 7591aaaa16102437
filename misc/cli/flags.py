"""The flags of `run_sample.py`, in groups by step, and the tables that they choose from."""

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from misc.data.dataset_info import dataset_module, dataset_names

# Step modules in the order of the method, with what --help says of them.
STEPS = {
    "train_cam": "1  train the image classifier",
    "make_cam": "   CAMs of the classifier (baseline)",
    "make_recam_with_RIB": "2  RIB: fine-tune per image, sum the maps of all iterations",
    "make_recam_with_AdvCAM": "   AdvCAM: manipulate every image towards its classes",
    "import_maps": "   maps of another method, from --import_maps",
    "eval_cam": "3  score CAMs and refined maps over all background thresholds",
    "eval_seed_crf": "   score these seeds after a dense CRF",
    "cam_to_ir_label": "4  training labels of the inter-pixel relation network (IRN)",
    "train_irn": "5  train IRN",
    "make_sem_seg_labels": "6  random walk: pseudo masks",
    "eval_sem_seg": "   score the pseudo masks",
    "make_ins_seg_labels": "   instance labels",
    "eval_ins_seg": "   score the instance labels",
    "train_seg": "7  train the segmentation network (DeepLab-v2) on the pseudo masks",
    "make_seg": "8  predict the images of --seg_list",
    "eval_seg": "9  score these predictions",
    "export_masks": "   write masks, maps and labels in the formats of other programs (--export)",
}
# The flags of IRN for some of the steps are shorter than the names of their modules.
_ALIASES = {"make_sem_seg_labels_pass": ["--make_sem_seg_pass"],
            "make_recam_with_RIB_pass": ["--make_recam_pass"],
            "make_ins_seg_labels_pass": ["--make_ins_seg_pass"]}  # fmt: skip
IMPORTED, ALL_MAPS = "imported", "all"
# What --recam chooses: its step, and an ending for the names of what is made from its maps.
RECAM = {"rib": ("make_recam_with_RIB", ""), "advcam": ("make_recam_with_AdvCAM", "_adv"),
         "none": (None, "_plain"), IMPORTED: ("import_maps", "_imported")}  # fmt: skip
# Files and folders of results that an option can place elsewhere.
RESULT_NAMES = {
    "cam_weights_name": "res50_cam.pth", "irn_weights_name": "res50_irn.pth",
    "seg_weights_name": "deeplab_v2.pth", "plain_cam_out_dir": "cam_plain", "cam_out_dir": "cam",
    "ir_label_out_dir": "ir_label", "sem_seg_out_dir": "sem_seg", "seg_out_dir": "seg",
    "ins_seg_out_dir": "ins_seg", "export_dir": "export",
}  # fmt: skip
EXPORTS = ("voc", "coco", "yolo", "soft", "onehot", "irn")
EXPECTED = Path(__file__).resolve().parents[2] / "Demo" / "expected.json"


@dataclass(frozen=True)
class SegPreset:
    """Settings of a published training of the segmentation network; README has their sources."""

    batch_size: int  # on all processes together
    accumulate: int  # parts that a batch is cut into, whose losses are averaged
    iterations: int
    learning_rate: float  # of the backbone
    crop_size: int
    scales: tuple[float, ...]  # one is drawn
    loss: str  # balanced: background and foreground weigh the same; ce: all pixels do
    momentum: float = 0.9
    weight_decay: float = 5e-4
    scale_by: str = "size"  # inputs at 0.75 and 0.5 by the ratio of sizes; factor: by the factor


_FIVE = (0.5, 0.75, 1.0, 1.25, 1.5)
_SEVEN = (*_FIVE, 1.75, 2.0)
SEG_PRESETS = {
    "rib": SegPreset(10, 1, 30_000, 2.5e-4, 321, _SEVEN, "balanced"),
    "recam": SegPreset(10, 2, 20_000, 2.5e-4, 321, _FIVE, "ce"),
    "clims": SegPreset(20, 2, 30_000, 2.5e-4, 321, _SEVEN, "balanced"),
    "deeplab-pytorch": SegPreset(10, 2, 20_000, 2.5e-4, 321, _FIVE, "ce"),
    "lpcam": SegPreset(20, 2, 100_000, 2e-4, 321, _FIVE, "ce"),
}
SEG_PRESETS_BY_DATASET = {
    ("coco14", "rib"): SegPreset(10, 1, 100_000, 2.5e-4, 481, _SEVEN, "balanced")
}
# What an option can replace, each --seg_NAME.
REPLACEABLE = ("batch_size", "iterations", "learning_rate", "crop_size")


def number(kind: type, low: float, high: float = 1e9, *, open_low: bool = False) -> Callable:
    """Return a parser of finite numbers in [low, high], or (low, high] with `open_low`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (low < value if open_low else low <= value) or not value <= high:
            limit = f"{'above' if open_low else 'at least'} {low} and at most {high:g}"
            raise argparse.ArgumentTypeError(f"{text} is out of range: it must be {limit}")
        return value

    return parse


def numbers(kind: type, low: float, high: float, count: int | None = None) -> Callable:
    """Return a parser of numbers separated by commas, e.g. "1.0,0.5,1.5,2.0"."""
    parse_one = number(kind, low, high)

    def parse(text: str) -> tuple:
        values = tuple(parse_one(word) for word in text.replace(",", " ").split())
        if not values:
            raise argparse.ArgumentTypeError("is empty: give numbers separated by commas")
        if count not in (None, len(values)):
            raise argparse.ArgumentTypeError(f"{text!r} must be {count} numbers with a comma")
        return values

    return parse


def boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return values[text.lower()]


def _exports(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if unknown := set(names) - {*EXPORTS, "all"}:
        raise argparse.ArgumentTypeError(f"{min(unknown)!r} is none of {', '.join(EXPORTS)}, all")
    return EXPORTS if "all" in names else names


count = number(int, 1)
_count_or_zero = number(int, 0)
_fraction = number(float, 0.0, 1.0)
_positive = number(float, 0.0, open_low=True)
_rate = number(float, 0.0, 100.0, open_low=True)  # of learning; beyond it nothing stays finite
_processes = number(int, 1, 1024)  # of a machine; libraries crash with far more threads
_BOOL = {"type": boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
_DIR, _FILE = ({"type": Path, "metavar": metavar} for metavar in ("DIR", "FILE"))
_WEIGHTS = {"type": Path, "metavar": "FILE|NAME"}

# Flags by group: name, kind, default and help. A kind is a parser of the value, a tuple of
# choices, or what else argparse takes.
# fmt: off
GROUPS = {
    "main options": {
        "result_dir": (_DIR, None, "folder of all results (default: result/DATASET)"),
        "cam_weights_name": (_FILE, None, "classifier; where one is given, 1 is left out"),
        "recam": ((*RECAM, ALL_MAPS), "rib",
            "maps that the later steps start from: RIB, AdvCAM, CAMs (IRN), or --import_maps; each "
            "has its own folders (all: the first three, in the scripts alone)"),
        "with_seg": (_BOOL, False, "also train and score the segmentation network (steps 7 to 9)"),
        "check": ({"choices": ("full", "quick", "processes"), "nargs": "?", "const": "full"}, None,
            "list all problems of the input, compute nothing; quick decodes no photographs; "
            "processes says how many a script starts"),
        "limit": (count, None, "first N images of each list (RIB's batches: of the whole list)"),
        "report_html": (_BOOL, False, "write RESULT_DIR/report.html: scores, curves, images"),
    },
    "dataset": {
        "train_list": (_FILE, None, "training images; made from the root where not given"),
        "infer_list": (_FILE, None, "images that get maps and pseudo masks; made likewise"),
        "eval_list": (_FILE, None, "images that are scored; made likewise"),
        "skip_mismatched": (_BOOL, False,
            "leave images out of lists made here whose mask has another size (otherwise an error)"),
        "cls_labels": (_FILE, None, "image-level labels: .npy dict of multi-hot vectors; made too"),
    },
    "your own photographs (--dataset folder)": {
        "root": (_DIR, None,
            "folder of the --dataset; of photographs (JPEG, PNG, WebP, TIFF) in any folders below"),
        "labels": (_FILE, None,
            "image-level labels: a table (.csv: image,labels), COCO's .json, a folder of XML "
            "files (Pascal), or the word folders: sub-folders name the classes (default: that)"),
        "classes": (_FILE, None,
            "names of the classes, one a line, in the order of the labels in masks (default: "
            "classes.txt of the root, the table's columns, or the alphabet)"),
        "masks": (_DIR, None, "ground truth: a PNG (grey or palette) of a photograph's name"),
        "val_list": (_FILE, None,
            "photographs of the validation split (default: a tenth of every class that has ten)"),
        "unlabelled": (("error", "skip"), "error",
            "photographs without a row in --labels: an error, or left out (lists/unlabelled.txt)"),
        "threshold_from": (("train", "scored"), None, argparse.SUPPRESS),  # has no effect any more
        "photo_long": (_count_or_zero, 640,
            "longer side that photographs are shrunk to (masks/ has the full size); 0: never"),
    },
    "which steps to run (numbers: the method's order)": {
        **{f"{name}_pass": (_BOOL, None, text) for name, text in STEPS.items()},
    },
    "classifier and maps (1, make_cam)": {
        "imagenet_weights": (_WEIGHTS, None,
            "initialization of the backbone: a file (torchvision's format, or a classifier), or a "
            "name: resnet101 (of torchvision), timm:resnet50.a1_in1k (default: resnet50)"),
        "cam_crop_size": (number(int, 32), 512, "crop size of training images, in 1 and in RIB"),
        "cam_long": (numbers(int, 32, 8192, count=2), "320,640", "range of their longer side"),
        "cam_batch_size": (count, 16, "batch size"),
        "cam_num_epoches": (count, 5, "epochs"),
        "cam_learning_rate": (_rate, 0.1, "learning rate of the backbone; classifier 10 times"),
        "cam_weight_decay": (number(float, 0.0, 1.0), 1e-4, "weight decay, in 1 and in RIB"),
        "cam_scales": (numbers(float, 0.05, 8.0), "1.0,0.5,1.5,2.0",
            "image scales whose maps are summed; those below 1.0 take no part in RIB's loss"),
        "max_long": (number(int, 32), None,
            "longer side that images are shrunk to in make_cam and 2 (for CPUs); maps keep theirs"),
        "precision": (("float32", "tf32", "bf16"), None,
            "of convolutions; bf16: of the backbones of maps and of DeepLab, others are in tf32; "
            "matrix products are in float32 (default: float32; on a GPU tf32)"),
    },
    "RIB (2)": {
        "RIB_iter": (count, 10, "iterations K per image"),
        "RIB_lr": (number(float, 0.0, 1.0, open_low=True), None, "learning rate; classifier x10"),
        "RIB_batch_size": (count, None, "batch size B: other images per iteration"),
        "score_th": (_fraction, None,
            "tau: pixels above this fraction of a map's peak are left out of the pooling"),
        "stop_th": (_positive, None, "margin m: stop once the target logits sum to more"),
        "explode_ratio": (_fraction, None, "early stop: fraction above 0.3 of the map's peak"),
        "disjoint_prob": (_fraction, 1.0,
            "probability that a batch shares no class with the image; else it has all of them"),
        "num_pooled_classes": (_count_or_zero, None,
            "classes that leave discriminative regions out (0: average pooling; default: all)"),
        "RIB_final_activation": (("none", "sigmoid"), "none",
            "for comparison: sigmoid keeps the activation that RIB takes out in its loss"),
    },
    "AdvCAM (make_recam_with_AdvCAM)": {
        "adv_iter": (count, 27, "iterations; below scale 1.0 half as many")},
    "scores (3, eval_sem_seg)": {
        "with_crf": (_BOOL, False, "the whole sequence also scores the seeds after a dense CRF"),
        "cam_eval_thres": (numbers(float, 0.0, 1.0, count=2), None,
            "background thresholds, from LO to HI by 0.01"),
    },
    "inter-pixel relations (4, 5)": {
        "conf_fg_thres": (_fraction, 0.35, "background score of foreground labels"),
        "conf_bg_thres": (_fraction, None, "background score of background labels"),
        "irn_weights_name": (_FILE, None, "IRN: written by 5, read by 6"),
        "irn_crop_size": (number(int, 64), 512, "crop size of training images"),
        "irn_batch_size": (count, 32, "batch size"),
        "irn_num_epoches": (count, 3, "epochs"),
        "irn_learning_rate": (_rate, 0.1, "learning rate of the boundary head; displacement x10"),
        "irn_weight_decay": (number(float, 0.0, 1.0), 1e-4, "weight decay of both heads"),
        "irn_radius": (number(int, 2, 32), 10, "largest distance of a pair of pixels"),
    },
    "random walk and pseudo masks (6)": {
        "beta": (number(float, 0.0, 1000.0, open_low=True), 10.0, "exponent of the affinities"),
        "exp_times": (number(int, 0, 16), 8, "2^N steps of the random walk"),
        "seed_power": (number(float, 0.0, 100.0, open_low=True), None, "exponent of the seed maps"),
        "sem_seg_bg_thres": (_fraction, None, "background score of the masks"),
        "walk_norm": (("joint", "class"), "joint",
            "maps are divided by their maximum over all classes (the original) or of each class"),
        "irn_pad_size": (_count_or_zero, None, "pad images to this size for IRN, 0: no padding"),
    },
    "instance labels": {
        "with_ins": (_BOOL, False, "the whole sequence makes and scores instance labels too"),
        "ins_seg_bg_thres": (_fraction, 0.25, "background score of instance labels"),
        "ins_seg_json": (_FILE, None, "instance labels as COCO's JSON too (category = class + 1)"),
    },
    "segmentation network (7 to 9)": {
        "seg_preset": (tuple(SEG_PRESETS), "rib",
            "settings of a published training; the options below replace some of them"),
        "seg_init": (_WEIGHTS, None,
            "initialization of 7: a file of torchvision or deeplab-pytorch, or a name, as for "
            "--imagenet_weights (default: resnet101)"),
        "seg_weights_name": (_FILE, None, "segmentation network: written by 7, read by 8"),
        "seg_label_dir": (_DIR, None, "label PNGs of any method (default: --sem_seg_out_dir)"),
        "seg_list": (_FILE, None, "images of 8 and 9 (default: the validation split)"),
        "seg_batch_size": (count, None, "batch size, of all processes together"),
        "seg_iterations": (count, None, "iterations"),
        "seg_learning_rate": (_rate, None, "learning rate of the backbone; classifiers x10, x20"),
        "seg_crop_size": (number(int, 16), None, "crop size of training images"),
        "seg_crf": (("none", "proper", "wrapped"), "proper",
            "dense CRF of 8, in DIR_crf; wrapped: on the colours of deeplab-pytorch's evaluation"),
        "seg_submission": (_FILE, None, "a .tar.gz of 8's predictions for the VOC test server"),
    },
    "environment": {
        "device": (str, "auto", "auto (CUDA when there is one), cpu, cuda or cuda:N"),
        "num_processes": (_processes, None,
            "processes that share images (default: one per GPU, or per core as memory allows)"),
        "num_workers": (number(int, 0, 1024), None,
            "data-loading workers of each (default: 1 on the CPU, up to 32 on a GPU; 0: none)"),
        "num_threads": (_processes, None,
            "CPU threads of each process, on which results depend (default: the cores, divided)"),
        "deterministic": (_BOOL, False, "on a GPU, bitwise reproducible kernels alone (slower)"),
        "seed": (number(int, 0, 2**31 - 1), 0, "random seed"),
    },
    "output": {
        "plain_cam_out_dir": (_DIR, None, "maps of make_cam"),
        "cam_out_dir": (_DIR, None, "maps of 2, read by 3, 4 and 6"),
        "ir_label_out_dir": (_DIR, None, "IRN's training labels"),
        "sem_seg_out_dir": (_DIR, None, "pseudo masks; coloured ones in its folder palette/"),
        "ins_seg_out_dir": (_DIR, None, "instance labels"),
        "seg_out_dir": (_DIR, None, "predictions of 8; with the CRF in DIR_crf"),
        "visualize": (_count_or_zero, 0,
            "draw N images' maps and masks, and the scores' curves, into RESULT_DIR/visualize"),
        "report": (_BOOL, False, "print the table of RESULT_DIR's scores, draw curves, and end"),
        "expect": ({**_FILE, "nargs": "?", "const": EXPECTED}, None,
            "compare the scores with the ranges of this file, or Demo/expected.json; exit "
            "code 1 where one lies outside"),
        "overwrite": (_BOOL, False, "redo outputs of other settings (otherwise an error)"),
    },
    "exchange with other programs": {
        "export": (_exports, (),
            "masks as voc (palette PNGs), coco (JSON), yolo (polygons); maps of --cam_out_dir as "
            "soft, or with weights as irn; labels as onehot, which AFA and ToCo read; or all"),
        "export_from": (_DIR, None, "label PNGs of any method (default: --sem_seg_out_dir)"),
        "import_maps": (_DIR, None,
            "maps of another method, to start from: .npy, .npz, .pt, .pth or a PNG for each class"),
        "import_keys": (("auto", "class", "label"), "auto",
            "classes there are numbered from 0 (class) or 1 (label); auto refuses what is either"),
    },
}
# fmt: on


class _Help(argparse.HelpFormatter):
    """Adds the default of every option whose help does not tell it."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=100)
        modules = map(dataset_module, dataset_names())
        infos = [module.describe(Path()) for module in modules if module.DEFAULT_ROOT]
        self._defaults = {name: f"RESULT_DIR/{file}" for name, file in RESULT_NAMES.items()}
        for name in infos[0].defaults:
            self._defaults[name] = ", ".join(f"{i.name} {i.defaults[name]}" for i in infos)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, usual = action.help, self._defaults.get(action.dest, action.default)
        unknown = usual in (None, (), argparse.SUPPRESS) or usual is False or "default" in text
        return text if unknown else f"{text} (default: {usual})"


class _Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line."""

    def error(self, message: str) -> None:
        several = re.search(r"unrecognized arguments: -?[\d.]+", message)
        message += "; several numbers of one option have commas between them" if several else ""
        print(f"error: {message}; python run_sample.py --help lists all options", file=sys.stderr)
        sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all options, grouped by step."""
    parser = _Parser(
        prog="run_sample.py", usage="python run_sample.py [options]", allow_abbrev=False,
        formatter_class=_Help,
        description="RIB: pseudo masks for segmentation from image-level labels. Without any "
                    "*_pass option the whole sequence runs; with some, exactly those steps.",
    )  # fmt: skip
    for title, options in GROUPS.items():
        add = parser.add_argument_group(title).add_argument
        if title == "main options":
            add("--dataset", choices=dataset_names(), default="voc12", help="dataset")
            roots = {name: dataset_module(name).DEFAULT_ROOT for name in dataset_names()}
            for name in filter(roots.get, roots):
                add(f"--{name}_root", **_DIR, default=roots[name], help=f"folder of {name}")
        for name, (kind, default, text) in options.items():
            known = {"choices": kind} if isinstance(kind, tuple) else {"type": kind}
            known = kind if isinstance(kind, dict) else known
            flags = (f"--{name}", *_ALIASES.get(name, ()))
            add(*flags, **known, default=default, help=text, dest=name)
    return parser
