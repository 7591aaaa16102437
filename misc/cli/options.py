"""Every option of `run_sample.py`, in one place: name, type, range, default, meaning."""

import argparse
import functools
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType

from misc.data.dataset_info import DatasetInfo, read_image_list
from misc.data.registry import dataset_names, default_root, describe, own_options
from misc.errors import UserError
from misc.runtime.resources import Resources

# Step modules in the order of the method, with what --help says of them.
STEPS = {
    "train_cam": "1  train the image classifier",
    "make_cam": "   plain class activation maps of the classifier (baseline)",
    "make_recam_with_RIB": "2  RIB: fine-tune per image, sum the maps of all iterations",
    "make_recam_with_AdvCAM": "   AdvCAM maps: every image climbs towards its classes",
    "import_maps": "   maps of another method, from --import_maps",
    "eval_cam": "3  score plain and refined maps over all background thresholds",
    "suggest_thres": "   suggest a background threshold from the maps alone",
    "eval_seed_crf": "   score these seeds after a dense CRF",
    "cam_to_ir_label": "4  confident labels for the inter-pixel relation network (IRN)",
    "train_irn": "5  train IRN",
    "suggest_walk_thres": "   choose the background threshold of the random walk",
    "make_sem_seg_labels": "6  random walk: pseudo masks",
    "eval_sem_seg": "   score the pseudo masks",
    "make_ins_seg_labels": "   instance labels",
    "eval_ins_seg": "   score the instance labels",
    "train_seg": "7  train the segmentation network (DeepLab-v2) on the pseudo masks",
    "make_seg": "8  predict the images of --seg_list",
    "eval_seg": "9  score these predictions",
    "export_masks": "   write masks, maps and labels in the forms of other programs (--export)",
}
_LOOKED_AT = 1000  # images held out on which a classifier is looked at
# These run where they are asked for, by name or all together by --with_seg.
SEG_STEPS = ("train_seg", "make_seg", "eval_seg")
CRF_STEPS = ("eval_seed_crf",)
INS_STEPS = ("make_ins_seg_labels", "eval_ins_seg")
SCORING = ("eval_cam", "eval_seed_crf", "eval_sem_seg", "eval_ins_seg", "eval_seg")
SUGGESTING = ("suggest_thres", "suggest_walk_thres")
EXPORT_STEPS = ("export_masks",)
IMPORTED = "imported"  # what --recam says of maps of other methods
OPTIONAL = (
    "make_recam_with_AdvCAM", "import_maps", *SUGGESTING, *CRF_STEPS, *INS_STEPS, *SEG_STEPS,
    *EXPORT_STEPS,
)  # fmt: skip
SEQUENCE = tuple(name for name in STEPS if name not in OPTIONAL)

# What --recam chooses: its step, and an ending for the names of what is made from its maps.
RECAM = {"rib": ("make_recam_with_RIB", ""), "advcam": ("make_recam_with_AdvCAM", "_adv"),
         "none": (None, "_plain"), IMPORTED: ("import_maps", "_imported")}  # fmt: skip
ALL_MAPS = "all"
AUTO = "auto"  # a threshold that is chosen
# Ending of the rows of the table that are made from these maps; RIB's have none.
ROW_ENDING = {"rib": "", "advcam": ", AdvCAM", "none": ", CAM", IMPORTED: ", imported"}

# Published settings of the segmentation network, by name and dataset; README has their sources.
_RIB = {
    "batch_size": 10,
    "accumulate": 1,
    "iterations": 30_000,
    "learning_rate": 2.5e-4,
    "crop_size": 321,
    "scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    "loss": "balanced",
}
_PLAIN = {
    **_RIB,
    "accumulate": 2,
    "iterations": 20_000,
    "scales": (0.5, 0.75, 1.0, 1.25, 1.5),
    "loss": "ce",
}
SEG_PRESETS = {
    "rib": _RIB,
    "recam": _PLAIN,
    "clims": {**_RIB, "batch_size": 20, "accumulate": 2},
    "deeplab-pytorch": _PLAIN,
    "lpcam": {**_PLAIN, "batch_size": 20, "iterations": 100_000, "learning_rate": 2e-4},
}
SEG_PRESETS_BY_DATASET = {
    "coco14": {"rib": {**_RIB, "iterations": 100_000, "crop_size": 481}},
}  # fmt: skip
PRECISIONS = ("float32", "tf32", "bf16", "float64")
EXPECTED = Path(__file__).resolve().parent.parent.parent / "Demo" / "expected.json"
EXPORTS = ("voc", "mmseg", "coco", "yolo", "soft", "onehot")
NUMBERINGS = ("class", "label")  # of classes in maps of others: from 0, or as in masks
# The flags of IRN for two of the steps are shorter than the names of their modules.
PASS_ALIASES = {
    "make_sem_seg_labels": ("--make_sem_seg_pass",),
    "make_recam_with_RIB": ("--make_recam_pass",),
    "make_ins_seg_labels": ("--make_ins_seg_pass",),
}


class Options(argparse.Namespace):
    """Parsed options, read-only once `freeze` was called: what is logged is what is used."""

    def freeze(self) -> "Options":
        """Forbid further changes; returns itself."""
        self.__dict__["_frozen"] = True
        return self

    def __setattr__(self, name: str, value: object) -> None:
        if self.__dict__.get("_frozen"):
            raise AttributeError(f"options are read-only after parsing; {name} cannot be set")
        super().__setattr__(name, value)

    def plain(self) -> dict[str, object]:
        """Option values by name, for the log."""
        return {
            k: v
            for k, v in sorted(vars(self).items())
            if k not in ("_frozen", "info", "given", "said")
        }

    def changed(self) -> dict[str, object]:
        """The options that were given with another value than their default."""
        return {name: value for name, value in self.plain().items() if name in self.given}

    def changed_plainly(self) -> dict[str, object]:
        """`changed` as JSON has it."""
        return json.loads(json.dumps(self.changed(), default=str))

    def image_ids(self, role: str, limited: bool = True) -> tuple[str, ...]:
        """Ids of the "train", "infer" or "eval" list, cut to --limit unless told not to."""
        path = getattr(self, f"{role}_list")
        ids = _read_list_once(path, self.info)
        return ids[: self.limit] if limited else ids

    def made_lists(self) -> list[Path]:
        """The lists and labels that were not given, and are made in `list_dir`."""
        used = (self.train_list, self.infer_list, self.eval_list, self.seg_list, self.cls_labels)
        return [path for path in used if path.parent == self.list_dir]

    def with_list_dir(self, folder: Path) -> "Options":
        """The same options with another folder for the lists and labels that are made."""
        made = self.made_lists()
        values = {name: value for name, value in vars(self).items() if name != "_frozen"}
        moved = {name: folder / value.name for name, value in values.items() if value in made}
        return Options(**{**values, **moved, "list_dir": folder}).freeze()

    def seg_differences(self) -> dict[str, object]:
        """What differs from --seg_preset."""
        published = self.published_seg()
        own = {name: getattr(self, f"seg_{name}") for name in published}
        return {name: value for name, value in own.items() if value != published[name]}

    def published_seg(self) -> dict[str, object]:
        """The settings of --seg_preset, for this dataset."""
        return {**SEG_PRESETS, **SEG_PRESETS_BY_DATASET.get(self.dataset, {})}[self.seg_preset]

    def scored_ids(self) -> tuple[str, ...]:
        """Images to score: the evaluation list; under --limit, those of it that get maps."""
        if not self.info.mask_dirs:
            raise UserError("--masks: is not given, so there is nothing to score with; give it")
        ids = self.image_ids("eval", limited=False)
        if self.limit is None:
            return ids
        with_maps = set(self.image_ids("infer"))
        chosen = tuple(image_id for image_id in ids if image_id in with_maps)
        if not chosen:
            raise UserError(
                f"--limit {self.limit}: none of these images is in the evaluation "
                f"list {self.eval_list}; give a larger limit"
            )
        return chosen

    def held_out_ids(self) -> tuple[str, ...]:
        """Images that are in no training, on which the classifier is looked at; () without any."""
        path = self.list_dir / f"{self.info.seg_split}.txt"
        if not self.info.tune_split or not path.is_file():
            return ()
        trained = set(self.image_ids("train"))
        return tuple(i for i in _read_list_once(path, self.info) if i not in trained)[:_LOOKED_AT]

    def tuning_ids(self) -> tuple[str, ...]:
        """Images with ground truth on which thresholds are chosen; none: on the scored ones.

        None of them is scored.
        """
        path = self.list_dir / f"{self.info.tune_split}.txt"
        if not self.info.tune_split or self.threshold_from == "scored" or not path.is_file():
            return ()
        lines = path.read_text(encoding="utf-8").splitlines()
        ids = (columns[0] for line in lines if (columns := self.info.columns_of(line)))
        wanted = set(self.image_ids("infer")) - set(self.scored_ids())
        return tuple(image_id for image_id in ids if image_id in wanted)

    @property
    def resources(self) -> Resources:
        """What the run may use of the machine."""
        return Resources(**{f.name: getattr(self, f.name) for f in fields(Resources)})

    def training(self, prefix: str) -> dict[str, object]:
        """Values of a `Training`: --PREFIX_num_epoches, --PREFIX_batch_size and the common ones."""
        return {
            "name": f"train_{prefix}",
            "epochs": getattr(self, f"{prefix}_num_epoches"),
            "batch_size": getattr(self, f"{prefix}_batch_size"),
            "seed": self.seed,
            "checkpoint_minutes": self.checkpoint_minutes,
            "overwrite": self.overwrite,
        }

    def settings(self, *names: str) -> dict[str, object]:
        """The named options as plain data for a folder's manifest.

        With "dataset" come those by which it reads its images, where it has any.
        """
        plain = {name: _plain(getattr(self, name)) for name in names}
        return plain | (self.info.read_as() if "dataset" in names else {})


@functools.lru_cache
def _read_list_once(path: Path, info: DatasetInfo) -> tuple[str, ...]:
    return read_image_list(path, info)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


class _Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line."""

    def error(self, message: str) -> None:
        numbers = re.search(r"unrecognized arguments: -?[\d.]+", message)
        message += "; several numbers of one option have commas between them" if numbers else ""
        print(f"error: {message}; python run_sample.py --help lists all options", file=sys.stderr)
        sys.exit(2)


def _number(kind: type, low: float, high: float = 1e9, *, open_low: bool = False):
    """Parser of a finite number in [low, high], or (low, high] with `open_low`."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (low < value if open_low else low <= value) or not value <= high:
            limit = f"above {low}" if open_low else f"at least {low}"
            limit += f" and at most {high:g}"
            raise argparse.ArgumentTypeError(f"{text} is out of range: it must be {limit}")
        return value

    return parse


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return values[text.lower()]


def _fraction_or_auto(text: str) -> float | str:
    return AUTO if text == AUTO else _fraction(text)


def _check_kind(text: str) -> str:
    if text in ("full", "quick"):
        return text
    return "full" if _boolean(text) else ""


def _exports(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if unknown := set(names) - {*EXPORTS, "all"}:
        raise argparse.ArgumentTypeError(f"{min(unknown)!r} is none of {', '.join(EXPORTS)}, all")
    return EXPORTS if "all" in names else names


def _numbers(kind: type, low: float, high: float, count: int | None = None):
    """Parser of numbers separated by commas, e.g. "1.0,0.5,1.5,2.0"."""
    parse_one = _number(kind, low, high)

    def parse(text: str) -> tuple:
        values = tuple(parse_one(word) for word in text.replace(",", " ").split())
        if not values:
            raise argparse.ArgumentTypeError("is empty: give numbers separated by commas")
        if count not in (None, len(values)):
            raise argparse.ArgumentTypeError(f"{text!r} must be {count} numbers with a comma")
        return values

    return parse


def _scales(text: str) -> tuple[float, ...]:
    values = _numbers(float, 0.05, 8.0)(text)
    if values[0] != 1.0:
        # RIB's early stop looks at scale 1.0 before it computes the others.
        raise argparse.ArgumentTypeError(f"{text!r} must start with 1.0")
    if len(set(values)) != len(values):
        raise argparse.ArgumentTypeError(f"{text!r} names a scale twice")
    return values


def _multiple_of_16(text: str) -> int:
    value = _number(int, 64)(text)
    if value % 16:
        raise argparse.ArgumentTypeError(f"{text} is out of range: it must be a multiple of 16")
    return value


_count = _number(int, 1)
_count_or_zero = _number(int, 0)
_fraction = _number(float, 0.0, 1.0)
_positive = _number(float, 0.0, open_low=True)
_not_negative = _number(float, 0.0)
_rate = _number(float, 0.0, 100.0, open_low=True)  # of learning; beyond it nothing stays finite
_decay = _number(float, 0.0, 1.0)
_processes = _number(int, 1, 1024)  # of a machine; libraries crash with far more threads
_workers = _number(int, 0, 1024)


def _both(name: str) -> str:
    """Default of an option that differs by dataset, for its help text."""
    return _by_dataset(lambda info: info.defaults[name])


def _by_dataset(value: Callable[[DatasetInfo], object]) -> str:
    infos = (describe(name, Path()) for name in dataset_names() if default_root(name))
    values = {info.name: value(info) for info in infos}
    if len(set(map(str, values.values()))) == 1:  # the same for all
        return f"(default: {next(iter(values.values()))})"
    return f"(default: {', '.join(f'{name} {default}' for name, default in values.items())})"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all options, grouped by step."""
    parser = _Parser(
        prog="run_sample.py",
        usage="python run_sample.py [options]",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=100),
        description="RIB: pseudo masks for segmentation from image-level labels. Without any "
        "*_pass option the whole sequence runs; with some, exactly those steps.",
    )
    _environment_options(parser.add_argument_group("environment"))
    _dataset_options(parser.add_argument_group("dataset"))
    _folder_options(parser.add_argument_group("your own photographs (--dataset folder)"))
    _step_options(parser.add_argument_group("which steps to run (numbers: the method's order)"))
    _classifier_options(parser.add_argument_group("classifier and maps (1, make_cam)"))
    _rib_options(parser.add_argument_group("RIB (2)"))
    _advcam_options(parser.add_argument_group("AdvCAM (make_recam_with_AdvCAM)"))
    _score_options(parser.add_argument_group("scores (3, eval_sem_seg)"))
    _irn_options(parser.add_argument_group("inter-pixel relations (4, 5)"))
    _walk_options(parser.add_argument_group("random walk and pseudo masks (6)"))
    _instance_options(parser.add_argument_group("instance labels"))
    segmentation = parser.add_argument_group("segmentation network (7 to 9)")
    _segmentation_options(segmentation)
    _segmentation_result_options(segmentation)
    _output_options(parser.add_argument_group("output"))
    _page_options(parser.add_argument_group("page and animations"))
    _exchange_options(parser.add_argument_group("exchange with other programs"))
    _comparison_options(parser.add_argument_group("comparison with other runs"))
    _toy_options(parser.add_argument_group("toy experiment (of the paper; no step of the method)"))
    return parser


# fmt: off
def _environment_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--device", default="auto", metavar="NAME",
        help="auto (CUDA when there is one), cpu, cuda or cuda:N")
    add("--num_processes", type=_processes, metavar="N",
        help="processes that share the images of a step (default: one per GPU; on the CPU one "
        "per core, fewer where memory is short)")
    add("--num_workers", type=_workers, metavar="N",
        help="processes that read images ahead, for each of the above (default: 1 on the CPU, "
        "up to 8 on a GPU; 0 reads in place)")
    add("--num_threads", type=_processes, metavar="N",
        help="CPU threads of each process (default: the cores, shared out); on a CPU results are "
        "the same to the bit where this number is the same, with any number of processes")
    add("--num_side_processes", type=_workers, metavar="N",
        help="processes beside each that computes: they make the IR labels of maps that are "
        "finished, and the CRF of 8, meanwhile (default: the idle cores beside a GPU, else 0)")
    add("--deterministic", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="on a GPU take only kernels that give the same bits every time (slower)")
    add("--checkpoint_minutes", type=_not_negative, default=5.0, metavar="X",
        help="time between two saved states of a training, from which it is continued; 0 saves "
        "after every step (default: %(default)s)")
    add("--image_cache", type=_not_negative, metavar="GIB",
        help="memory for decoded images of RIB's batches and of 7, shared by all who read, 3 bytes "
        "a pixel: VOC fills about 6, COCO 76 (default: an eighth of what is free; 0 keeps none)")
    add("--seed", type=_number(int, 0, 2**31 - 1), default=0, metavar="N",
        help="seed of every random draw")
    add("--limit", type=_count, metavar="N",
        help="work on the first N images of each list only (RIB still draws its batches from "
        "the whole training list)")


def _dataset_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--dataset", choices=dataset_names(), default="voc12", help="(default: %(default)s)")
    for name in filter(default_root, dataset_names()):
        add(f"--{name}_root", type=Path, default=default_root(name), metavar="DIR",
            help="folder with JPEGImages/ (default: %(default)s)")
    train, scored = _by_dataset(lambda i: i.train_split), _by_dataset(lambda i: i.eval_split)
    for role, what in (("train", f"training {train}"),
                       ("infer", f"images that get maps and pseudo masks {train}"),
                       ("eval", f"images that are scored {scored}")):
        add(f"--{role}_list", type=Path, metavar="FILE", help=f"{what}; made from the root where "
            "not given")
    add("--skip_mismatched", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="leave images out of the lists made here whose mask has another size; they are named "
        "in the log (otherwise such an image is an error)")
    add("--cls_labels", type=Path, metavar="FILE",
        help="image-level labels: .npy dict of id to multi-hot vector (default: made from the "
        "root)")


def _folder_options(group: argparse._ArgumentGroup) -> None:
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
        help="photographs that are held out of the trainings, one a line (default: a tenth of "
        "every class that has ten)")
    add("--unlabelled", choices=("error", "skip"), default="error",
        help="photographs without a row in --labels: name them and end, or leave them out, into "
        "lists/unlabelled.txt, which --seg_list takes (default: %(default)s)")
    add("--threshold_from", choices=("train", "scored"), default="train",
        help="images on which the background threshold of scored maps is chosen: those with a mask "
        "that are not held out, or the scored ones themselves, which flatters (default: "
        "%(default)s)")
    add("--skip_unknown_rows", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="leave out rows of photographs that are not there (otherwise an error)")
    add("--photo_long", type=_count_or_zero, default=640, metavar="PX",
        help="larger photographs are shrunk to this longer side for all steps, and their masks "
        "enlarged at the end, into RESULT_DIR/masks; 0: never (default: %(default)s)")


def _step_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--check", type=_check_kind, nargs="?", const="full",
                       metavar="full|quick", help="only look at everything that these steps will "
                       "read, list all problems, and end, without writing anything; quick decodes "
                       "no photographs")
    for name, text in STEPS.items():
        flags = (f"--{name}_pass", *PASS_ALIASES.get(name, ()))
        group.add_argument(*flags, type=_boolean, nargs="?", const=True, default=None,
                           metavar="BOOL", help=text, dest=f"{name}_pass")


def _classifier_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--cam_weights_name", type=Path, metavar="FILE",
        help="classifier checkpoint: written by 1, read by make_cam and 2 (default: "
        "RESULT_DIR/res50_cam.pth)")
    add("--imagenet_weights", type=Path, metavar="FILE",
        help="ResNet-50 that training starts from: torchvision format, a thin backbone, or a "
        "classifier checkpoint (default: torchvision downloads IMAGENET1K_V1)")
    add("--cam_crop_size", type=_number(int, 32), default=512, metavar="PX",
        help="crop of training images, in 1 and in RIB's batches (default: %(default)s)")
    add("--cam_long", type=_numbers(int, 32, 8192, count=2), default=(320, 640), metavar="LO,HI",
        help="longer side of these images, drawn between the two (default: 320,640)")
    add("--cam_batch_size", type=_count, default=16, metavar="N", help="(default: %(default)s)")
    add("--cam_num_epoches", type=_count, default=5, metavar="N", help="(default: %(default)s)")
    add("--cam_learning_rate", type=_rate, default=0.1, metavar="X",
        help="backbone; the classifier learns 10 times faster (default: %(default)s)")
    add("--cam_weight_decay", type=_decay, default=1e-4, metavar="X",
        help="in 1 and in RIB (default: %(default)s)")
    add("--cam_scales", type=_scales, default=(1.0, 0.5, 1.5, 2.0), metavar="S,S,...",
        help="image scales whose maps are summed; those below 1.0 take no part in RIB's loss "
        "(default: 1.0,0.5,1.5,2.0)")
    add("--max_long", type=_number(int, 32), metavar="PX",
        help="shrink what the classifier sees of larger images in make_cam and 2 to this longer "
        "side (for CPUs); maps are still saved at the image's own size")
    add("--precision", choices=PRECISIONS,
        help="of the networks. float32: nowhere less; tf32: a GPU rounds what enters a convolution "
        "to 10 bits; bf16: so, and make_cam, 2 and 8 compute in bfloat16 where that is safe, while "
        "weights and maps stay float32; float64: maps, for comparisons (default: float32; on a GPU "
        "tf32, which is PyTorch's own default there)")
    add("--compile", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="make_cam and 2 run the classifier through torch.compile, which takes a minute for "
        "each of the first image sizes; the last bits of maps then depend on the order of images")


def _rib_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--RIB_iter", type=_count, default=10, metavar="K",
        help="iterations K per image (default: %(default)s)")
    add("--RIB_lr", type=_number(float, 0.0, 1.0, open_low=True), metavar="X",
        help=f"learning rate; classifier 10 times {_both('RIB_lr')}")
    add("--RIB_batch_size", type=_count, metavar="B",
        help=f"other images B per iteration {_both('RIB_batch_size')}")
    add("--score_th", type=_fraction, metavar="TAU",
        help=f"tau: pixels at or above this share of a map's peak are left out of the pooling "
        f"{_both('score_th')}")
    add("--stop_th", type=_positive, metavar="M",
        help=f"margin m: stop once the target logits sum to more {_both('stop_th')}")
    add("--explode_th", type=_fraction, metavar="X",
        help=f"early stop: a pixel above this share of the peak is covered {_both('explode_th')}")
    add("--explode_ratio", type=_fraction, metavar="X",
        help=f"early stop: covered share of the image {_both('explode_ratio')}")
    add("--RIB_climbed", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="an experiment of no paper: fine-tune on images that AdvCAM has climbed first, class "
        "after class (--adv_iter, ...)")
    add("--disjoint_prob", type=_fraction, default=1.0, metavar="P",
        help="chance that a batch shares no class with the target; otherwise its images have all "
        "of the target's classes (default: %(default)s)")
    add("--num_pooled_classes", type=_count_or_zero, metavar="N",
        help="leave discriminative pixels out for the first N classes only (20 is what the "
        "original implementation does on COCO, 0 is global average pooling; default: all)")
    add("--RIB_final_activation", choices=("none", "sigmoid"), default="none",
        help="for comparison: sigmoid keeps the saturating activation, which RIB takes out, in its "
        "loss; --stop_th, which looks at logits, then hardly ever stops (default: %(default)s)")


def _advcam_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--recam", choices=(*RECAM, ALL_MAPS), default="rib",
        help="maps that the later steps start from: those of RIB, of AdvCAM (with its published "
        "thresholds), plain ones (IRN), or those of --import_maps, which chooses them by itself; "
        "each has folders of its own. The scripts run the first three one after the other with "
        "\"all\" (default: %(default)s)")
    add("--adv_iter", type=_count, default=27, metavar="N",
        help="iterations; below scale 1.0 half as many (default: %(default)s)")
    add("--AD_coeff", type=_not_negative, default=7.0, metavar="X",
        help="weight of the regularisation (default: %(default)s)")
    add("--AD_stepsize", type=_positive, default=0.08, metavar="X", help="(default: %(default)s)")
    add("--AD_score_th", type=_fraction, default=0.5, metavar="X",
        help="pixels above this share of a map's peak are regularised (default: %(default)s)")


def _score_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--with_crf", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="the whole sequence also scores the seeds after a dense CRF")
    group.add_argument(
        "--seed_crf", choices=("irn", "deeplab"), default="irn",
        help="whose pairwise terms that CRF has (default: %(default)s)")
    group.add_argument(
        "--cam_eval_thres", type=_numbers(float, 0.0, 1.0, count=2), metavar="LO,HI",
        help=f"background thresholds, from LO to HI by 0.01 {_both('cam_eval_thres')}")


def _irn_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--conf_fg_thres", type=_fraction, default=0.35, metavar="X",
        help="background score for confident foreground (default: %(default)s)")
    add("--conf_bg_thres", type=_fraction, metavar="X",
        help=f"background score for confident background {_both('conf_bg_thres')}")
    add("--irn_weights_name", type=Path, metavar="FILE",
        help="IRN checkpoint: written by 5, read by 6 (default: RESULT_DIR/res50_irn.pth)")
    add("--irn_crop_size", type=_multiple_of_16, default=512, metavar="PX",
        help="(default: %(default)s)")
    add("--irn_batch_size", type=_count, default=32, metavar="N", help="(default: %(default)s)")
    add("--irn_num_epoches", type=_count, default=3, metavar="N", help="(default: %(default)s)")
    add("--irn_learning_rate", type=_rate, default=0.1, metavar="X",
        help="boundary head; the displacement head learns 10 times faster (default: %(default)s)")
    add("--irn_weight_decay", type=_decay, default=1e-4, metavar="X",
        help="(default: %(default)s)")
    add("--irn_radius", type=_number(int, 2, 32), default=10, metavar="R",
        help="pixel pairs closer than this learn from each other (default: %(default)s)")


def _walk_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--beta", type=_number(float, 0.0, 1000.0, open_low=True), default=10.0, metavar="X",
        help="power of the affinities (default: %(default)s)")
    add("--exp_times", type=_number(int, 0, 16), default=8, metavar="N",
        help="2^N steps of the random walk (default: %(default)s)")
    add("--walk_radius", type=_number(int, 2, 32), default=5, metavar="R",
        help="one step reaches pixels closer than this (default: %(default)s)")
    add("--seed_power", type=_number(float, 0.0, 100.0, open_low=True), metavar="X",
        help=f"power of the maps that start the walk {_both('seed_power')}")
    add("--sem_seg_bg_thres", type=_fraction_or_auto, metavar="X",
        help="background score, or auto: what suggest_walk_thres has chosen, by ground truth of "
        "images that are not scored, otherwise by the maps; own photographs with such --masks have "
        f"that {_both('sem_seg_bg_thres')}")
    add("--walk_thres_name", type=Path, metavar="FILE",
        help="where that choice is kept (default: RESULT_DIR/walk_threshold.json)")
    add("--walk_norm", choices=("joint", "class"), default="joint",
        help="joint: walked maps are divided by the maximum over all classes together, as in the "
        "original; class: each by its own (default: %(default)s)")
    add("--irn_pad_size", type=_count_or_zero, metavar="PX",
        help=f"pad images to this size for IRN, 0: no padding {_both('irn_pad_size')}")


def _instance_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--with_ins", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="the whole sequence makes and scores instance labels too")
    add("--ins_seg_bg_thres", type=_fraction, default=0.25, metavar="X",
        help="background score of instance labels (default: %(default)s)")
    add("--ins_seg_out_dir", type=Path, metavar="DIR", help="(default: RESULT_DIR/ins_seg)")
    add("--ins_seg_json", type=Path, metavar="FILE",
        help="eval_ins_seg also writes them as COCO's JSON (category = class + 1)")
    add("--ins_seg_json_masks", choices=("rle", "polygons"), default="rle",
        help="how masks are written there: run lengths, or outlines (default: %(default)s)")


def _segmentation_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--with_seg", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="the whole sequence runs on into 7 to 9")
    add("--seg_preset", choices=tuple(SEG_PRESETS), default="rib",
        help="settings of a published training, each of which the options below replace "
        "(default: %(default)s)")
    add("--seg_init", type=Path, metavar="FILE",
        help="backbone that 7 starts from: torchvision's format, a thin one, or a file of "
        "deeplab-pytorch (default: torchvision downloads its ResNet-101)")
    add("--seg_weights_name", type=Path, metavar="FILE",
        help="segmentation network: written by 7, read by 8 (default: RESULT_DIR/deeplab_v2.pth)")
    add("--seg_label_dir", type=Path, metavar="DIR",
        help="label PNGs to train on, of any method (default: --sem_seg_out_dir)")
    add("--seg_skip_missing", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="leave images of --infer_list out of 7 that have no label PNG (otherwise an error)")
    add("--seg_list", type=Path, metavar="FILE",
        help=f"images that 8 predicts and 9 scores {_by_dataset(lambda i: i.seg_split)}")
    add("--seg_batch_size", type=_count, metavar="N",
        help="images of a step, on all processes together")
    add("--seg_accumulate", type=_count, metavar="N",
        help="passes that a step is cut into, whose losses are averaged")
    add("--seg_iterations", type=_count, metavar="N", help="steps")
    add("--seg_learning_rate", type=_rate, metavar="X",
        help="backbone; the classifiers' weights learn 10 times and their biases 20 times faster")
    add("--seg_crop_size", type=_number(int, 16), metavar="PX", help="crop of training images")
    add("--seg_scales", type=_numbers(float, 0.05, 8.0), metavar="S,S,...",
        help="training images are scaled by one of these")
    add("--seg_loss", choices=("ce", "balanced"),
        help="cross entropy of all pixels, or half that of the background and half that of the "
        "foreground")
    add("--seg_momentum", type=_fraction, default=0.9, metavar="X", help="(default: %(default)s)")
    add("--seg_weight_decay", type=_decay, default=5e-4, metavar="X",
        help="(default: %(default)s)")
    add("--seg_scale_by", choices=("size", "factor"), default="size",
        help="how inputs are resized to the scales 0.5 and 0.75: by the ratio of the sizes, or by "
        "the factor, as deeplab-pytorch does (default: %(default)s)")


def _segmentation_result_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--seg_val_every", type=_count_or_zero, default=0, metavar="N",
        help="score on the first 100 images of --seg_list after every N steps of 7, and keep the "
        "best weights beside the last, as *.best.pth (default: never)")
    add("--seg_runs", type=_count, default=1, metavar="N",
        help="train with N seeds, and report their mean and spread (default: %(default)s)")
    add("--seg_row", metavar="NAME",
        help="name of 9's row in the table (default: segmentation, and the maps of --recam); "
        "beside one named \"upper bound\", trained on ground truth, the table has their ratio")
    add("--seg_flip", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="8 averages with the mirror image")
    add("--seg_crf", choices=("none", "proper", "wrapped"), default="proper",
        help="dense CRF of 8, written beside the plain predictions; wrapped: on the colours that "
        "deeplab-pytorch's evaluation hands over (default: %(default)s)")
    add("--seg_scores", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="8 also saves the probabilities, float16 in npz")
    add("--seg_submission", type=Path, metavar="FILE",
        help="pack the predictions of 8 for the VOC test server into this .tar.gz")


def _output_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--result_dir", type=Path, metavar="DIR",
        help="everything below goes here where not said otherwise (default: result/DATASET)")
    add("--plain_cam_out_dir", type=Path, metavar="DIR",
        help="maps of make_cam (default: RESULT_DIR/cam_plain)")
    add("--cam_out_dir", type=Path, metavar="DIR",
        help="maps of 2, read by 3, 4 and 6 (default: RESULT_DIR/cam)")
    add("--adv_cam_out_dir", type=Path, metavar="DIR",
        help="maps of AdvCAM (default: RESULT_DIR/cam_adv)")
    add("--ir_label_out_dir", type=Path, metavar="DIR", help="(default: RESULT_DIR/ir_label)")
    add("--sem_seg_out_dir", type=Path, metavar="DIR",
        help="pseudo masks; coloured ones in its folder palette/ (default: RESULT_DIR/sem_seg)")
    add("--seg_out_dir", type=Path, metavar="DIR",
        help="predictions of 8; with the CRF in DIR_crf (default: RESULT_DIR/seg)")
    add("--log_name", type=Path, metavar="FILE", help="(default: RESULT_DIR/run.log)")
    add("--visualize", type=_count_or_zero, default=0, metavar="N",
        help="draw the maps and masks of the first N images side by side, and the curves of the "
        "scores, into RESULT_DIR/visualize")
    add("--report", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="print the table of the scores that RESULT_DIR has, draw their curves, and end")
    add("--compare", type=Path, nargs="+", default=(), metavar="DIR",
        help="--report also shows the scores of these result folders")
    add("--report_format", choices=("text", "csv", "latex"), default="text",
        help="of --report (default: %(default)s)")
    add("--overwrite", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="redo outputs that were made with other settings (otherwise that is an error)")


def _page_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--report_html", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="write RESULT_DIR/report.html: one page with the scores, curves, classes and images, "
        "also with --report alone")
    add("--animate", type=_count_or_zero, default=0, metavar="N",
        help="keep the maps of the first N images after every iteration and show them growing, "
        "as GIF in RESULT_DIR/visualize/animations and as the page's slider")


def _exchange_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--export", type=_exports, default=(), metavar="FORM,...",
        help=f"write the masks as {', '.join(EXPORTS)}, or all: VOC's tree with palette PNGs, "
        "mmsegmentation's with a configuration, COCO's JSON, YOLO's outlines; soft has the maps "
        "of --cam_out_dir, onehot the labels as AFA and ToCo read them")
    add("--export_from", type=Path, metavar="DIR",
        help="label PNGs to export, of any method (default: --sem_seg_out_dir)")
    add("--export_dir", type=Path, metavar="DIR", help="(default: RESULT_DIR/export)")
    add("--import_maps", type=Path, metavar="DIR",
        help="folder of maps of another method, from which the later steps start: .npy, .npz, .pt "
        "or .pth files (dicts with keys, dicts of class to map, arrays C x H x W), or a PNG for "
        "each class; they are saved in --cam_out_dir (default: RESULT_DIR/cam_imported)")
    add("--import_keys", choices=("auto", *NUMBERINGS), default="auto",
        help="how classes are numbered there: class, from 0; label, from 1 with 0 for a "
        "background; auto: as the image-level labels say (default: %(default)s)")
    add("--import_norm", choices=("none", "peak"), default="none",
        help="peak: cut these maps at zero and divide each by its maximum (default: %(default)s)")
    add("--import_resize", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="stretch maps that have other proportions than their image (otherwise an error)")


def _comparison_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--expect", type=Path, nargs="?", const=EXPECTED, metavar="FILE",
        help="behind a run, or with --report alone: say whether the scores lie in the ranges of "
        "this file, the paper's or those of the samples; exit code 1 where one does not (default "
        "of FILE: Demo/expected.json)")
    add("--expect_record", type=Path, metavar="FILE",
        help="keep the scores of RESULT_DIR in such a file, as what is expected of these images")
    add("--trace", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="behind a run, or with --report alone: write digests of all stages, of the first 100 "
        "images, into RESULT_DIR/trace.json")
    add("--trace_compare", type=Path, metavar="FILE",
        help="trace, and name the first stage that differs from this trace of another run, and "
        "the options that do; exit code 1 where one is beyond its tolerance")


def _toy_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--toy_experiment_pass", type=_boolean, nargs="?", const=True, default=False,
        metavar="BOOL", help="run it alone and end; python -m step.toy_experiment --help has what "
        "it leaves free")
    add("--mnist_root", type=Path, default=Path("Dataset"), metavar="DIR",
        help="folder with MNIST/raw/, as torchvision has it (default: %(default)s); digits are "
        "drawn where it is not there")
    add("--toy_out_dir", type=Path, default=Path("result/toy"), metavar="DIR",
        help="its scores.json and figure (default: %(default)s)")

# fmt: on


_RESULT_NAMES = {
    "cam_weights_name": "res50_cam.pth",
    "irn_weights_name": "res50_irn.pth",
    "walk_thres_name": "walk_threshold.json",
    "plain_cam_out_dir": "cam_plain",
    "adv_cam_out_dir": "cam_adv",
    "cam_out_dir": "cam",
    "ir_label_out_dir": "ir_label",
    "sem_seg_out_dir": "sem_seg",
    "seg_weights_name": "deeplab_v2.pth",
    "seg_out_dir": "seg",
    "ins_seg_out_dir": "ins_seg",
    "export_dir": "export",
}
_MAPS_ALONE = ("cam_weights_name", "plain_cam_out_dir", "adv_cam_out_dir", "cam_out_dir")


def _fill_places(args: Options, info: DatasetInfo) -> None:
    """Where everything is that was not said."""
    args.result_dir = args.result_dir or Path("result") / info.result_name
    args.list_dir = args.result_dir / "lists"
    ending = RECAM[args.recam][1]
    for name, file in _RESULT_NAMES.items():
        if getattr(args, name) is None:
            path = args.result_dir / file
            own = path if name in _MAPS_ALONE else path.with_stem(f"{path.stem}{ending}")
            setattr(args, name, own)
    args.log_name = args.log_name or args.result_dir / "run.log"
    if args.recam != "rib" and "cam_out_dir" not in args.given:
        args.cam_out_dir = {
            "advcam": args.adv_cam_out_dir,
            "none": args.plain_cam_out_dir,
            IMPORTED: args.result_dir / f"cam{ending}",
        }[args.recam]
    infer = info.infer_split or info.train_split
    splits = {"train": info.train_split, "infer": infer, "eval": info.eval_split}
    for role, split in splits.items():
        if getattr(args, f"{role}_list") is None:
            setattr(args, f"{role}_list", args.list_dir / f"{split}.txt")
    args.seg_list = args.seg_list or args.list_dir / f"{info.seg_split}.txt"
    args.seg_label_dir = args.seg_label_dir or args.sem_seg_out_dir
    args.export_from = args.export_from or args.sem_seg_out_dir
    args.cls_labels = args.cls_labels or args.list_dir / info.label_file


def _fill_defaults(args: Options, info: DatasetInfo) -> None:
    """What depends on --recam, --seg_preset and the dataset."""
    args.precision = args.precision or _usual_precision(args)
    args.seg_row = args.seg_row or f"segmentation{ROW_ENDING[args.recam]}"
    for name, value in args.published_seg().items():
        if getattr(args, f"seg_{name}") is None:
            setattr(args, f"seg_{name}", value)
    for name, value in {**info.defaults, **info.recam_defaults.get(args.recam, {})}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name, value in info.replaced_defaults.items():
        if name not in args.said:
            setattr(args, name, value)


def _usual_precision(args: Options) -> str:
    if args.device == "cpu":
        return "float32"
    # Here, since --help is to load no torch.
    from misc.runtime.devices import usual_precision

    return usual_precision(args.resources)


def _describe(args: Options, parser: argparse.ArgumentParser) -> DatasetInfo:
    """The dataset's description; what is wrong with its root or labels ends the program."""
    options = {name: getattr(args, name) for name in own_options(args.dataset)}
    foreign = {name for other in dataset_names() for name in own_options(other)} - set(options)
    for name in sorted(foreign.intersection(args.given)):
        parser.error(f"argument --{name}: is for --dataset folder")
    root_name = f"{args.dataset}_root"
    root = args.root or getattr(args, root_name, None)
    if not root:
        parser.error(f"argument --root: give the folder of the photographs (--dataset "
                     f"{args.dataset})")  # fmt: skip
    if hasattr(args, root_name):
        setattr(args, root_name, root)
    try:
        return describe(args.dataset, root, **options)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


def _said(argv: list[str] | None) -> tuple[str, ...]:
    """Names of the options in a command line, be their value the default or not."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return tuple(vars(parser.parse_args(argv)))


def _parsed(argv: list[str] | None) -> tuple[argparse.ArgumentParser, Options]:
    parser = build_parser()
    args = parser.parse_args(argv, namespace=Options())
    args.given = tuple(k for k, v in vars(args).items() if v != parser.get_default(k))
    return parser, args


def parse(argv: list[str] | None = None) -> Options:
    """Options from the command line, with all defaults filled in, read-only.

    Adds `info` (DatasetInfo), `list_dir` (where prepared lists go), `given` (names of the options
    with another value than their default) and `said` (of all in the command line). Wrong options
    end the program with exit code 2.
    """
    _read_list_once.cache_clear()  # an earlier run in this process may have seen other lists
    parser, args = _parsed(argv)
    if args.recam == ALL_MAPS:
        parser.error(f"argument --recam: {ALL_MAPS} is for get_pseudo_gt_*.sh; here, say one")
    args.said = _said(argv)
    if args.import_maps and "recam" not in args.said:
        args.recam = IMPORTED
    if args.import_maps and args.recam != IMPORTED:
        parser.error(f"argument --import_maps: needs --recam {IMPORTED}, not {args.recam}")
    args.info = info = _describe(args, parser)
    _fill_places(args, info)
    _fill_defaults(args, info)
    for name in ("cam_long", "cam_eval_thres"):
        low, high = getattr(args, name)
        if low > high:
            parser.error(f"argument --{name}: {low},{high}: the first number is the smaller one")
    if args.conf_fg_thres < args.conf_bg_thres:
        parser.error(
            f"argument --conf_fg_thres: {args.conf_fg_thres} is below --conf_bg_thres "
            f"{args.conf_bg_thres}, so that pixels would be confident of both"
        )
    if args.irn_crop_size // 4 < 2 * args.irn_radius - 1:  # stride 4: no pixel would have pairs
        parser.error(
            f"argument --irn_crop_size: {args.irn_crop_size} is too small for --irn_radius"
        )
    return args.freeze()


def main() -> None:
    """The options that are not at their default, which the scripts ask for: NAME, or recam=NAME."""
    recam = _parsed(None)[1].recam
    words = [*sys.argv[1:], "--recam", "rib"] if recam == ALL_MAPS else None
    print(*parse(words).given, f"recam={recam}")


def chosen_steps(args: Options) -> list[str]:
    """Names of the steps to run: those given as true, or all that were not given as false.

    Without any *_pass option the classifier is trained only where no checkpoint was named.
    Raises UserError where no step is left.
    """
    flags = {name: getattr(args, f"{name}_pass") for name in STEPS}
    if any(flags.values()):
        return [name for name in STEPS if flags[name]]
    asked = set(SEQUENCE) - {"make_recam_with_RIB"} | {RECAM[args.recam][0]}
    for wanted, names in ((args.with_crf, CRF_STEPS), (args.with_ins, INS_STEPS),
                          (args.with_seg, SEG_STEPS), (args.export, EXPORT_STEPS)):  # fmt: skip
        asked |= set(names) if wanted else set()
    if args.recam == IMPORTED:  # nothing then needs the classifier
        asked -= {"train_cam", "make_cam"}
    if args.info.tune_split:
        asked |= set(SUGGESTING)
    if not args.info.mask_dirs:  # no ground truth: nothing to score
        asked -= set(SCORING)
    steps = [name for name in STEPS if name in asked and flags[name] is not False]
    if "cam_weights_name" in args.given and "train_cam" in steps:
        steps.remove("train_cam")
    if not steps:
        raise UserError("--*_pass False: is said of every step, so there is nothing to run")
    return steps


def unread_lists(args: Options, steps: Mapping[str, ModuleType]) -> list[str]:
    """The options of lists that were given and that none of these steps reads."""
    read = {f"{role}_list" for step in steps.values() for role in step.LISTS}
    lists = ("train_list", "infer_list", "eval_list", "seg_list")
    return [f"--{name}" for name in lists if name in args.given and name not in read]


if __name__ == "__main__":
    main()
