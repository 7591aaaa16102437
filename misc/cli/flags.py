"""The flags of `run_sample.py`, in groups by step, and the tables that they choose from."""

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from misc.data.registry import dataset_names, default_root, describe

Add = Callable[..., argparse.Action]

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
_ALIASES = {
    "make_sem_seg_labels": ("--make_sem_seg_pass",),
    "make_recam_with_RIB": ("--make_recam_pass",),
    "make_ins_seg_labels": ("--make_ins_seg_pass",),
}
IMPORTED, ALL_MAPS = "imported", "all"
# What --recam chooses: its step, and an ending for the names of what is made from its maps.
RECAM = {"rib": ("make_recam_with_RIB", ""), "advcam": ("make_recam_with_AdvCAM", "_adv"),
         "none": (None, "_plain"), IMPORTED: ("import_maps", "_imported")}  # fmt: skip
# Files and folders of results that an option can place elsewhere.
RESULT_NAMES = {
    "cam_weights_name": "res50_cam.pth", "irn_weights_name": "res50_irn.pth",
    "seg_weights_name": "deeplab_v2.pth", "plain_cam_out_dir": "cam_plain", "cam_out_dir": "cam",
    "ir_label_out_dir": "ir_label", "sem_seg_out_dir": "sem_seg", "seg_out_dir": "seg",
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
    "coco14": {"rib": SegPreset(10, 1, 100_000, 2.5e-4, 481, _SEVEN, "balanced")},
}
# What an option can replace, each --seg_NAME.
REPLACEABLE = ("batch_size", "iterations", "learning_rate", "crop_size")


# --- values -------------------------------------------------------------------------------------


def number(kind: type, low: float, high: float = 1e9, *, open_low: bool = False) -> Callable:
    """Return a parser of finite numbers in [low, high], or (low, high] with `open_low`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (low < value if open_low else low <= value) or not value <= high:
            limit = f"above {low}" if open_low else f"at least {low}"
            raise argparse.ArgumentTypeError(
                f"{text} is out of range: it must be {limit} and at most {high:g}"
            )
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


def _check_kind(text: str) -> str:
    if text in ("full", "quick"):
        return text
    return "full" if boolean(text) else ""


def _exports(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if unknown := set(names) - {*EXPORTS, "all"}:
        raise argparse.ArgumentTypeError(f"{min(unknown)!r} is none of {', '.join(EXPORTS)}, all")
    return EXPORTS if "all" in names else names


def _scales(text: str) -> tuple[float, ...]:
    values = numbers(float, 0.05, 8.0)(text)
    if values[0] != 1.0:  # RIB's early stop looks at scale 1.0 before it computes the others
        raise argparse.ArgumentTypeError(f"{text!r} must start with 1.0")
    if len(set(values)) != len(values):
        raise argparse.ArgumentTypeError(f"{text!r} names a scale twice")
    return values


def _multiple_of_16(text: str) -> int:
    value = number(int, 64)(text)
    if value % 16:
        raise argparse.ArgumentTypeError(f"{text} is out of range: it must be a multiple of 16")
    return value


count = number(int, 1)
_count_or_zero = number(int, 0)
_fraction = number(float, 0.0, 1.0)
_positive = number(float, 0.0, open_low=True)
_rate = number(float, 0.0, 100.0, open_low=True)  # of learning; beyond it nothing stays finite
_processes = number(int, 1, 1024)  # of a machine; libraries crash with far more threads
_BOOL = {"type": boolean, "nargs": "?", "const": True, "default": False, "metavar": "BOOL"}
_DIR, _FILE = ({"type": Path, "metavar": metavar} for metavar in ("DIR", "FILE"))
_WEIGHTS = {"type": Path, "metavar": "FILE|NAME"}


# --- flags: defaults that follow from tables are added to their help (_Help) ----------------------


# fmt: off
def _environment(add: Add) -> None:
    add("--device", default="auto", metavar="NAME",
        help="auto (CUDA when there is one), cpu, cuda or cuda:N")
    add("--num_processes", type=_processes, metavar="N",
        help="processes that share the images of a step (default: one per GPU; on the CPU one "
        "per core, fewer where memory is short)")
    add("--num_workers", type=number(int, 0, 1024), metavar="N",
        help="processes that read images ahead, for each of the above (default: 1 on the CPU, "
        "up to 8 on a GPU; 0 reads in place)")
    add("--num_threads", type=_processes, metavar="N",
        help="CPU threads of each process (default: the cores, divided); on a CPU results are "
        "bitwise identical where this number is the same, with any number of processes")
    add("--deterministic", **_BOOL,
        help="on a GPU take only kernels with bitwise reproducible results (slower)")
    add("--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N",
        help="seed of every random draw")
    add("--limit", type=count, metavar="N",
        help="work on the first N images of each list only (RIB still draws its batches from "
        "the whole training list)")


def _dataset(add: Add) -> None:
    add("--dataset", choices=dataset_names(), default="voc12", help="dataset")
    for name in filter(default_root, dataset_names()):
        add(f"--{name}_root", type=Path, default=default_root(name), metavar="DIR",
            help="folder with JPEGImages/")
    for role, what in (("train", "training"), ("infer", "images that get maps and pseudo masks"),
                       ("eval", "images that are scored")):
        add(f"--{role}_list", **_FILE, help=f"{what}; made from the root where not given")
    add("--skip_mismatched", **_BOOL,
        help="leave images out of the lists made here whose mask has another size; the log names "
        "them (otherwise such an image is an error)")
    add("--cls_labels", **_FILE,
        help="image-level labels: .npy dict of id to multi-hot vector; made from the root where "
        "not given")


def _photographs(add: Add) -> None:
    add("--root", **_DIR,
        help="folder of the chosen --dataset; of photographs (JPEG, PNG, WebP, TIFF) in any "
        "folders below it")
    add("--labels", **_FILE,
        help="image-level labels: a table (.csv: image,class;class on a line, or a column of 0 and "
        "1 for each class), COCO's instances (.json), a folder of Pascal XML files, or the word "
        "folders: sub-folders name the classes (default: that)")
    add("--classes", **_FILE,
        help="names of the classes, one a line, in the order of the labels in masks (default: "
        "classes.txt of the root; otherwise those of the labels: columns in their order, names "
        "in cells and folders by the alphabet)")
    add("--masks", **_DIR,
        help="ground truth to score with: a PNG (grey or palette) for any of the photographs, "
        "with its name, in the same folders or in none")
    add("--val_list", **_FILE,
        help="photographs of the validation split, which no training sees, one a line (default: a "
        "tenth of every class that has ten)")
    add("--unlabelled", choices=("error", "skip"), default="error",
        help="photographs without a row in --labels: name them and end, or leave them out, into "
        "lists/unlabelled.txt, which --seg_list takes")
    add("--threshold_from", choices=("train", "scored"),
        help="has no effect: the threshold of a score is its best on the scored images")
    add("--photo_long", type=_count_or_zero, default=640, metavar="PX",
        help="larger photographs are shrunk to this longer side for all steps, and their masks "
        "enlarged at the end, into RESULT_DIR/masks; 0: never")


def _steps(add: Add) -> None:
    add("--check", type=_check_kind, nargs="?", const="full", metavar="full|quick",
        help="only look at everything that these steps will read, list all problems, and end, "
        "without writing anything; quick decodes no photographs")
    add("--recam", choices=(*RECAM, ALL_MAPS), default="rib",
        help="maps that the later steps start from: those of RIB, of AdvCAM (with its published "
        "thresholds), CAMs (IRN), or those of --import_maps, which chooses them by itself; each "
        "has folders of its own. The scripts run the first three one after the other with \"all\"")
    for name, text in STEPS.items():
        add(f"--{name}_pass", *_ALIASES.get(name, ()), **{**_BOOL, "default": None}, help=text,
            dest=f"{name}_pass")


def _classifier(add: Add) -> None:
    add("--cam_weights_name", **_FILE, help="classifier: written by 1, read by make_cam and 2")
    add("--imagenet_weights", **_WEIGHTS,
        help="backbone that training starts from: a file in torchvision's format, of any width, "
        "or a classifier checkpoint; or a name to download, such as resnet101 of torchvision "
        "(IMAGENET1K_V1) or timm:resnet50.a1_in1k (default: resnet50)")
    add("--cam_crop_size", type=number(int, 32), default=512, metavar="PX",
        help="crop of training images, in 1 and in RIB's batches")
    add("--cam_long", type=numbers(int, 32, 8192, count=2), default="320,640", metavar="LO,HI",
        help="longer side of these images, drawn between the two")
    add("--cam_batch_size", type=count, default=16, metavar="N", help="batch size")
    add("--cam_num_epoches", type=count, default=5, metavar="N", help="epochs")
    add("--cam_learning_rate", type=_rate, default=0.1, metavar="X",
        help="of the backbone; the classifier learns 10 times faster")
    add("--cam_scales", type=_scales, default="1.0,0.5,1.5,2.0", metavar="S,S,...",
        help="image scales whose maps are summed; those below 1.0 take no part in RIB's loss")
    add("--max_long", type=number(int, 32), metavar="PX",
        help="shrink what the classifier sees of larger images in make_cam and 2 to this longer "
        "side (for CPUs); maps are still saved at the image's own size")
    add("--precision", choices=("float32", "tf32", "bf16"),
        help="of the networks. tf32: a GPU rounds what enters a convolution to 10 bits; bf16: the "
        "backbone computes in bfloat16 where autocast finds that safe, weights and maps stay "
        "float32 (default: float32; on a GPU tf32, PyTorch's own default there)")


def _rib(add: Add) -> None:
    add("--RIB_iter", type=count, default=10, metavar="K", help="iterations K per image")
    add("--RIB_lr", type=number(float, 0.0, 1.0, open_low=True), metavar="X",
        help="learning rate; classifier 10 times")
    add("--RIB_batch_size", type=count, metavar="B", help="other images B per iteration")
    add("--score_th", type=_fraction, metavar="TAU",
        help="tau: pixels at or above this fraction of a map's peak are left out of the pooling")
    add("--stop_th", type=_positive, metavar="M",
        help="margin m: stop once the target logits sum to more")
    add("--explode_th", type=_fraction, metavar="X",
        help="early stop: a pixel above this fraction of the peak is covered")
    add("--explode_ratio", type=_fraction, metavar="X",
        help="early stop: covered fraction of the image")
    add("--disjoint_prob", type=_fraction, default=1.0, metavar="P",
        help="chance that a batch shares no class with the target; otherwise its images have all "
        "of the target's classes")
    add("--num_pooled_classes", type=_count_or_zero, metavar="N",
        help="leave discriminative regions out for the first N classes only (20 is what the "
        "original implementation does on COCO, 0 is global average pooling; default: all)")
    add("--RIB_final_activation", choices=("none", "sigmoid"), default="none",
        help="for comparison: sigmoid keeps the saturating activation, which RIB takes out, in its "
        "loss; --stop_th, which looks at logits, then hardly ever stops")


def _advcam(add: Add) -> None:
    add("--adv_iter", type=count, default=27, metavar="N",
        help="iterations; below scale 1.0 half as many")
    add("--AD_stepsize", type=_positive, default=0.08, metavar="X", help="size of a step")


def _scores(add: Add) -> None:
    add("--with_crf", **_BOOL, help="the whole sequence also scores the seeds after a dense CRF")
    add("--cam_eval_thres", type=numbers(float, 0.0, 1.0, count=2), metavar="LO,HI",
        help="background thresholds, from LO to HI by 0.01")


def _irn(add: Add) -> None:
    add("--conf_fg_thres", type=_fraction, default=0.35, metavar="X",
        help="background score of foreground labels")
    add("--conf_bg_thres", type=_fraction, metavar="X",
        help="background score of background labels")
    add("--irn_weights_name", **_FILE, help="IRN: written by 5, read by 6")
    add("--irn_crop_size", type=_multiple_of_16, default=512, metavar="PX",
        help="crop of training images")
    add("--irn_batch_size", type=count, default=32, metavar="N", help="batch size")
    add("--irn_num_epoches", type=count, default=3, metavar="N", help="epochs")
    add("--irn_learning_rate", type=_rate, default=0.1, metavar="X",
        help="of the boundary head; the displacement head learns 10 times faster")
    add("--irn_radius", type=number(int, 2, 32), default=10, metavar="R",
        help="pixel pairs closer than this learn from each other")


def _walk(add: Add) -> None:
    add("--beta", type=number(float, 0.0, 1000.0, open_low=True), default=10.0, metavar="X",
        help="power of the affinities")
    add("--exp_times", type=number(int, 0, 16), default=8, metavar="N",
        help="2^N steps of the random walk")
    add("--seed_power", type=number(float, 0.0, 100.0, open_low=True), metavar="X",
        help="power of the maps that start the walk")
    add("--sem_seg_bg_thres", type=_fraction, metavar="X", help="background score of the masks")
    add("--walk_norm", choices=("joint", "class"), default="joint",
        help="joint: maps after the random walk are divided by the maximum over all classes "
        "together, as in the original; class: each by its own")
    add("--irn_pad_size", type=_count_or_zero, metavar="PX",
        help="pad images to this size for IRN, 0: no padding")


def _instances(add: Add) -> None:
    add("--with_ins", **_BOOL, help="the whole sequence makes and scores instance labels too")
    add("--ins_seg_json", **_FILE,
        help="eval_ins_seg also writes them as COCO's JSON (category = class + 1)")


def _segmentation(add: Add) -> None:
    add("--with_seg", **_BOOL, help="the whole sequence runs on into 7 to 9")
    add("--seg_preset", choices=tuple(SEG_PRESETS), default="rib",
        help="settings of a published training, some of which the options below replace")
    add("--seg_init", **_WEIGHTS,
        help="backbone that 7 starts from: torchvision's format, of any width, or a file of "
        "deeplab-pytorch; or a name, as for --imagenet_weights (default: resnet101)")
    add("--seg_weights_name", **_FILE, help="segmentation network: written by 7, read by 8")
    add("--seg_label_dir", **_DIR,
        help="label PNGs to train on, of any method (default: --sem_seg_out_dir)")
    add("--seg_list", **_FILE,
        help="images that 8 predicts and 9 scores (default: the validation split)")
    add("--seg_batch_size", type=count, metavar="N", help="batch size, of all processes together")
    add("--seg_iterations", type=count, metavar="N", help="iterations")
    add("--seg_learning_rate", type=_rate, metavar="X",
        help="backbone; the classifiers' weights learn 10 times and their biases 20 times faster")
    add("--seg_crop_size", type=number(int, 16), metavar="PX", help="crop of training images")
    add("--seg_crf", choices=("none", "proper", "wrapped"), default="proper",
        help="dense CRF of 8, written beside the predictions without it; wrapped: on the colours "
        "that deeplab-pytorch's evaluation hands over")
    add("--seg_scores", **_BOOL, help="8 also saves the probabilities, float16 in npz")
    add("--seg_submission", **_FILE,
        help="pack the predictions of 8 for the VOC test server into this .tar.gz")


def _output(add: Add) -> None:
    add("--result_dir", **_DIR,
        help="everything goes here where not said otherwise (default: result/DATASET)")
    add("--plain_cam_out_dir", **_DIR, help="maps of make_cam")
    add("--cam_out_dir", **_DIR, help="maps of 2, read by 3, 4 and 6")
    add("--ir_label_out_dir", **_DIR, help="IRN's training labels")
    add("--sem_seg_out_dir", **_DIR, help="pseudo masks; coloured ones in its folder palette/")
    add("--seg_out_dir", **_DIR, help="predictions of 8; with the CRF in DIR_crf")
    add("--visualize", type=_count_or_zero, default=0, metavar="N",
        help="draw the maps and masks of the first N images side by side, and the curves of the "
        "scores, into RESULT_DIR/visualize")
    add("--report", **_BOOL,
        help="print the table of the scores that RESULT_DIR has, draw their curves, and end")
    add("--report_html", **_BOOL,
        help="write the HTML report RESULT_DIR/report.html, with the scores, curves, classes and "
        "images; also with --report alone")
    add("--expect", type=Path, nargs="?", const=EXPECTED, metavar="FILE",
        help="after a run, or with --report: say whether the scores lie in the ranges of this "
        "file, the paper's or those of the samples; exit code 1 where one does not (default of "
        "FILE: Demo/expected.json)")
    add("--overwrite", **_BOOL,
        help="redo outputs that were made with other settings (otherwise that is an error)")


def _exchange(add: Add) -> None:
    add("--export", type=_exports, default=(), metavar="FORMAT,...",
        help=f"write the masks as {', '.join(EXPORTS)}, or all: VOC's tree with palette PNGs, "
        "COCO's JSON, YOLO's polygons; soft has the maps of --cam_out_dir, onehot the labels as "
        "AFA and ToCo read them, irn maps and weights as IRN, RIB and deeplab-pytorch do")
    add("--export_from", **_DIR,
        help="label PNGs to export, of any method (default: --sem_seg_out_dir)")
    add("--import_maps", **_DIR,
        help="folder of maps of another method, from which the later steps start: .npy, .npz, .pt "
        "or .pth files (dicts with keys, dicts of class to map, arrays C x H x W), or a PNG for "
        "each class; they are saved in --cam_out_dir (default: RESULT_DIR/cam_imported)")
    add("--import_keys", choices=("auto", "class", "label"), default="auto",
        help="numbering of the classes there: class, from 0; label, from 1 with 0 for a "
        "background, which is the first channel of an array; auto: as the image-level labels say")


# fmt: on
GROUPS = {
    "environment": _environment,
    "dataset": _dataset,
    "your own photographs (--dataset folder)": _photographs,
    "which steps to run (numbers: the method's order)": _steps,
    "classifier and maps (1, make_cam)": _classifier,
    "RIB (2)": _rib,
    "AdvCAM (make_recam_with_AdvCAM)": _advcam,
    "scores (3, eval_sem_seg)": _scores,
    "inter-pixel relations (4, 5)": _irn,
    "random walk and pseudo masks (6)": _walk,
    "instance labels": _instances,
    "segmentation network (7 to 9)": _segmentation,
    "output": _output,
    "exchange with other programs": _exchange,
}


class _Help(argparse.HelpFormatter):
    """Adds the default of every option whose help does not tell it."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=100)
        infos = [describe(name, Path()) for name in dataset_names() if default_root(name)]
        self._defaults = {name: f"RESULT_DIR/{file}" for name, file in RESULT_NAMES.items()}
        for name in infos[0].defaults:
            values = {info.name: str(info.defaults[name]) for info in infos}
            same = len(set(values.values())) == 1
            each = ", ".join(f"{dataset} {value}" for dataset, value in values.items())
            self._defaults[name] = values[infos[0].name] if same else each

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
        prog="run_sample.py",
        usage="python run_sample.py [options]",
        allow_abbrev=False,
        formatter_class=_Help,
        description="RIB: pseudo masks for segmentation from image-level labels. Without any "
        "*_pass option the whole sequence runs; with some, exactly those steps.",
    )
    for title, options in GROUPS.items():
        options(parser.add_argument_group(title).add_argument)
    return parser
