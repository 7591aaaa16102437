"""From a command line to the options of a run."""

import argparse
import os
import sys
from pathlib import Path

from misc.cli.options.namespace import Options, read_list_once
from misc.cli.options.parser import build_parser
from misc.cli.options.presets import REPLACEABLE
from misc.cli.options.recorded import LIST_FOLDER, fitted_defaults, recorded_words
from misc.cli.options.sequence import ALL_MAPS, IMPORTED, RECAM
from misc.data.dataset_info import DatasetInfo
from misc.data.registry import dataset_names, describe, own_options
from misc.errors import UserError
from misc.runtime.processes import announced_ranks

_RESULT_NAMES = {
    "cam_weights_name": "res50_cam.pth",
    "irn_weights_name": "res50_irn.pth",
    "plain_cam_out_dir": "cam_plain",
    "cam_out_dir": "cam",
    "ir_label_out_dir": "ir_label",
    "sem_seg_out_dir": "sem_seg",
    "seg_weights_name": "deeplab_v2.pth",
    "seg_out_dir": "seg",
    "ins_seg_out_dir": "ins_seg",
    "export_dir": "export",
}
_SHARED = ("cam_batch_size", "irn_batch_size", "seg_batch_size")  # each process has a part
_MAPS_ALONE = ("cam_weights_name", "plain_cam_out_dir", "cam_out_dir")


def _fill_places(args: Options, info: DatasetInfo) -> None:
    """Where everything is that was not said."""
    args.result_dir = args.result_dir or _usual_place(info.root) / "result" / info.result_name
    args.list_dir = args.result_dir / LIST_FOLDER
    ending = RECAM[args.recam][1]
    for name, file in _RESULT_NAMES.items():
        if getattr(args, name, None) is None:
            path = args.result_dir / file
            own = path if name in _MAPS_ALONE else path.with_stem(f"{path.stem}{ending}")
            setattr(args, name, own)
    args.log_name = args.result_dir / "run.log"
    args.adv_cam_out_dir = args.result_dir / "cam_adv"
    if args.recam != "rib" and "cam_out_dir" not in args.given:
        args.cam_out_dir = {
            "advcam": args.adv_cam_out_dir,
            "none": args.plain_cam_out_dir,
            IMPORTED: args.result_dir / f"cam{ending}",
        }[args.recam]
    if args.recam == "advcam":
        args.adv_cam_out_dir = args.cam_out_dir
    infer = info.infer_split or info.train_split
    splits = {"train": info.train_split, "infer": infer, "eval": info.eval_split}
    for role, split in splits.items():
        if getattr(args, f"{role}_list") is None:
            setattr(args, f"{role}_list", args.list_dir / f"{split}.txt")
    args.seg_list = args.seg_list or args.list_dir / f"{info.seg_split}.txt"
    args.seg_label_dir = args.seg_label_dir or args.sem_seg_out_dir
    args.export_from = args.export_from or args.sem_seg_out_dir
    args.cls_labels = args.cls_labels or args.list_dir / info.label_file


def _usual_place(root: Path) -> Path:
    """The folder in which the user stands; the one around the dataset where that is inside it."""
    here, root = Path.cwd(), root.resolve()
    return Path(os.path.relpath(root.parent)) if root in (here, *here.parents) else Path()


def _brought(args: Options, info: DatasetInfo) -> tuple[str, ...]:
    """Names of the options that say a file or folder other than where a run has it by itself."""
    said = [name for name in args.said if isinstance(getattr(args, name), Path)]
    usual = Options(**{**vars(args), **dict.fromkeys(said), "given": ()})
    usual.result_dir = args.result_dir
    _fill_places(usual, info)
    return tuple(name for name in said if getattr(args, name) != getattr(usual, name))


def _fill_defaults(args: Options, info: DatasetInfo) -> None:
    """What depends on --recam, --seg_preset and the dataset."""
    args.precision = args.precision or _usual_precision(args)
    for name in REPLACEABLE:
        if getattr(args, f"seg_{name}") is None:
            setattr(args, f"seg_{name}", getattr(args.seg_published, name))
    for name, value in {**info.defaults, **info.recam_defaults.get(args.recam, {})}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.fitted = fitted_defaults(args, info)
    for name, value in args.fitted.items():
        of_preset = name.startswith("seg_") and "seg_preset" in args.said
        if name not in args.said and not of_preset:
            setattr(args, name, max(value, announced_ranks()) if name in _SHARED else value)


def _usual_precision(args: Options) -> str:
    if args.device == "cpu":
        return "float32"
    # Here, since --help is to load no torch.
    from misc.runtime.devices import uses_cuda

    return "tf32" if uses_cuda(args.resources) else "float32"


def _describe(args: Options, parser: argparse.ArgumentParser) -> DatasetInfo:
    """The dataset's description; UserError for what is wrong with its root or labels."""
    options = {name: getattr(args, name) for name in own_options(args.dataset)}
    if args.report and not args.report_html:  # the table needs no file of the dataset
        options = {}
    foreign = {name for other in dataset_names() for name in own_options(other)}
    foreign -= set(own_options(args.dataset))
    for name in sorted(foreign.intersection(args.given)):
        parser.error(f"argument --{name}: is for --dataset folder")
    root_name = f"{args.dataset}_root"
    root = args.root or getattr(args, root_name, None)
    if not root:
        parser.error(f"argument --root: give the folder of the photographs (--dataset "
                     f"{args.dataset})")  # fmt: skip
    if hasattr(args, root_name):
        setattr(args, root_name, root)
    return describe(args.dataset, root, **options)


def _said(argv: list[str] | None) -> tuple[str, ...]:
    """Names of the options in a command line, be their value the default or not."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return tuple(vars(parser.parse_args(argv)))


def parsed(argv: list[str] | None) -> tuple[argparse.ArgumentParser, Options]:
    """The parser, and what it reads, with nothing filled in."""
    parser = build_parser()
    args = parser.parse_args(argv, namespace=Options())
    args.given = tuple(k for k, v in vars(args).items() if v != parser.get_default(k))
    return parser, args


def _with_recorded(argv: list[str] | None) -> tuple[argparse.ArgumentParser, Options]:
    """`parsed`, where of a report what describes the dataset is that of its result folder."""
    parser, args = parsed(argv)
    said = _said(argv)
    if args.report and args.result_dir:
        words = recorded_words(args, said)
        parser, args = parsed([*words, *(sys.argv[1:] if argv is None else argv)])
    args.said = said
    return parser, args


def parse(argv: list[str] | None = None) -> Options:
    """Options from the command line, with all defaults filled in, read-only.

    Adds `info` (DatasetInfo), `list_dir` (where prepared lists go), `given` (names of the options
    with another value than their default), `said` (of all in the command line) and `brought` (of
    those that say a place of the user's own). Wrong options end the program with exit code 2.
    """
    read_list_once.cache_clear()  # an earlier run in this process may have seen other lists
    try:
        parser, args = _with_recorded(argv)
        if args.recam == ALL_MAPS:
            parser.error(f"argument --recam: {ALL_MAPS} is for get_pseudo_gt_*.sh; here, say one")
        if args.import_maps and "recam" not in args.said:
            args.recam = IMPORTED
        if args.import_maps and args.recam != IMPORTED:
            parser.error(f"argument --import_maps: needs --recam {IMPORTED}, not {args.recam}")
        args.info = info = _describe(args, parser)
        args.brought = _brought(args, info)
        _fill_places(args, info)
        _fill_defaults(args, info)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    _require_fitting(args, parser)
    return args.freeze()


def _require_fitting(args: Options, parser: argparse.ArgumentParser) -> None:
    """End the program where numbers do not go together."""
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
