"""The options of a run: what the flags say, with everything filled in that follows from them."""

import argparse
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

from misc.cli import flags
from misc.cli.flags import ALL_MAPS, IMPORTED, RECAM, STEPS, SegPreset, build_parser
from misc.data import dataset_info
from misc.data.dataset_info import DatasetInfo, dataset_names, own_options
from misc.errors import UserError
from misc.runtime.processes import Resources, announced_ranks
from misc.storage.files import reason
from misc.storage.manifest import read_manifest

LIST_FOLDER = "lists"  # below a result folder; its manifest says which dataset the results are of
OBJECT_MASKS = "SegmentationObject"  # folder of the root with masks of the objects
# Numbers of the papers that no flag changes; manifests have them all the same.
_PUBLISHED = {"explode_th": 0.3, "AD_coeff": 7.0, "AD_stepsize": 0.08, "AD_score_th": 0.5,
              "walk_radius": 5}  # fmt: skip
SEG_STEPS = ("train_seg", "make_seg", "eval_seg")
# Steps that an option asks for, beside their own flag; the others are the whole sequence.
_ASKED_BY = {"with_crf": ("eval_seed_crf",), "with_ins": ("make_ins_seg_labels", "eval_ins_seg"),
             "with_seg": SEG_STEPS, "export": ("export_masks",)}  # fmt: skip
_OPTIONAL = {"make_recam_with_AdvCAM", "import_maps", *(s for of in _ASKED_BY.values() for s in of)}
# Ending of the methods in the table of scores that are made from these maps.
ROW_ENDING = {"rib": "", "advcam": ", AdvCAM", "none": ", CAM", IMPORTED: ", imported"}
SEQUENCE = tuple(name for name in STEPS if name not in _OPTIONAL)
_SHARED = ("cam_batch_size", "irn_batch_size", "seg_batch_size")  # each process has a part
_MAPS_ALONE = ("cam_weights_name", "plain_cam_out_dir", "cam_out_dir")  # one for every --recam
LISTS = ("train_list", "infer_list", "eval_list", "seg_list")
_LOOKED_AT = 1000  # images of the validation split on which a classifier is scored


class Options(SimpleNamespace):
    """The options of a run, read-only; `said` in the command line, `given` other than the default.

    `brought`: places of the user's own. `fitted`: defaults that suit the photographs.
    """

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"options are read-only; {name} cannot be set")

    def replaced(self, **values: object) -> "Options":
        """Return the same options with some other values."""
        return Options(**{**vars(self), **values})

    def plain(self) -> dict[str, object]:
        """Return option values by name, for the log."""
        others = ("info", "given", "said", "brought", "fitted")
        return {k: v for k, v in sorted(vars(self).items()) if k not in others}

    def changed(self) -> dict[str, object]:
        """Return the options that were given with another value than their default, as JSON."""
        given = {name: value for name, value in self.plain().items() if name in self.given}
        return json.loads(json.dumps(given, default=str))

    def settings(self, *names: str) -> dict[str, object]:
        """Return the named options for a manifest; with "dataset", how it reads its images."""
        plain = {name: as_plain(getattr(self, name)) for name in names}
        return plain | (self.info.read_as() if "dataset" in names else {})

    def image_ids(self, role: str, limited: bool = True) -> tuple[str, ...]:
        """Return the ids of the "train", "infer" or "eval" list, cut to --limit unless told not."""
        ids = _read_list(getattr(self, f"{role}_list"), self.info)
        return ids[: self.limit] if limited else ids

    def scored_ids(self) -> tuple[str, ...]:
        """Return the evaluation list; under --limit, those of its images that get maps."""
        if not self.info.mask_dirs:
            raise UserError("--masks: is not given, so there is nothing to score with; give it")
        ids = self.image_ids("eval", limited=False)
        with_maps = set(ids if self.limit is None else self.image_ids("infer"))
        if with_maps.isdisjoint(ids):
            where = f"the evaluation list {self.eval_list}"
            raise UserError(f"--limit {self.limit}: no image is in {where}; give a larger limit")
        return tuple(image_id for image_id in ids if image_id in with_maps)

    def validation_ids(self) -> tuple[str, ...]:
        """Return images that are in no training, to score the classifier on; () without any."""
        path = self.list_dir / f"{self.info.seg_split}.txt"
        if not self.info.infer_split or not path.is_file():  # others train on all
            return ()
        trained = set(self.image_ids("train"))
        return tuple(i for i in _read_list(path, self.info) if i not in trained)[:_LOOKED_AT]

    def made_lists(self) -> list[Path]:
        """Return the lists and labels that were not given, and are made in `list_dir`."""
        used = (getattr(self, name) for name in (*LISTS, "cls_labels"))
        return [path for path in used if path.parent == self.list_dir]

    def with_list_dir(self, folder: Path) -> "Options":
        """Return the same options with another folder for the lists and labels that are made."""
        made = self.made_lists()
        moved = {name: folder / path.name for name, path in vars(self).items() if path in made}
        return self.replaced(**moved, list_dir=folder)

    @property
    def seg_settings(self) -> SegPreset:
        """The settings of --seg_preset, with what options replace."""
        return replace(_preset(self), **self.seg_differences())

    def seg_differences(self) -> dict[str, object]:
        """Return what differs from --seg_preset."""
        used, preset = ({n: getattr(self, f"seg_{n}") for n in flags.REPLACEABLE}, _preset(self))
        return {name: value for name, value in used.items() if value != getattr(preset, name)}

    @property
    def resources(self) -> Resources:
        """The part of the machine that the run may use."""
        return Resources(**{f.name: getattr(self, f.name) for f in fields(Resources)})


_read_list = functools.lru_cache(dataset_info.read_image_list)


def _preset(args: SimpleNamespace) -> SegPreset:
    own = flags.SEG_PRESETS_BY_DATASET.get((args.dataset, args.seg_preset))
    return own or flags.SEG_PRESETS[args.seg_preset]


def as_plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def parse(argv: Sequence[str] | None = None) -> Options:
    """Return the options of a command line; wrong ones end the program with exit code 2."""
    _read_list.cache_clear()  # an earlier run in this process may have seen other lists
    parser, recorded = build_parser(), {}
    defaults = vars(parser.parse_args([]))
    said = _said(parser, argv, defaults)
    try:
        if said.get("report") and "result_dir" in said:
            recorded = _said(parser, _recorded_words(said), defaults)
        args = SimpleNamespace(**{**defaults, **recorded, **said}, **_PUBLISHED, said=tuple(said))
        args.given = tuple(n for n in defaults if getattr(args, n) != defaults[n])
        if args.recam == ALL_MAPS:
            raise UserError(f"argument --recam: {ALL_MAPS} is for get_pseudo_gt_*.sh; say one")
        if args.import_maps and "recam" not in said:
            args.recam = IMPORTED
        if args.import_maps and args.recam != IMPORTED:
            raise UserError(f"argument --import_maps: needs --recam {IMPORTED}, not {args.recam}")
        args.info = _described(args)
        _fill_places(args, said)
        _fill_defaults(args, args.info)
        _require_fitting(args)
        return Options(**vars(args))
    except UserError as error:
        print(*(f"error: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
        sys.exit(2)


def _said(parser: argparse.ArgumentParser, argv: Sequence[str] | None, defaults: dict) -> dict:
    found = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(defaults)))
    return {name: value for name, value in vars(found).items() if value is not None}


def _described(args: SimpleNamespace) -> DatasetInfo:
    own = own_options(args.dataset)
    others = {name for other in dataset_names() for name in own_options(other)} - {*own}
    if wrong := sorted(others & set(args.given)):
        raise UserError(f"argument --{wrong[0]}: is for --dataset folder")
    root_name = f"{args.dataset}_root"
    root = args.root or getattr(args, root_name, None)
    if not root:
        what = f"the folder of the photographs (--dataset {args.dataset})"
        raise UserError(f"argument --root: give {what}")
    if hasattr(args, root_name):
        setattr(args, root_name, root)
    table_alone = args.report and not args.report_html  # which needs no file of the dataset
    given = {name: getattr(args, name) for name in own if not table_alone}
    return dataset_info.dataset_module(args.dataset).describe(root, **given)


def _fill_places(args: SimpleNamespace, said: Mapping[str, object]) -> None:
    info, ending = args.info, RECAM[args.recam][1]
    here, root = Path.cwd(), info.root.resolve()
    # Where the user stands; beside the photographs where that is among them.
    beside = Path(os.path.relpath(root.parent)) if root in (here, *here.parents) else Path()
    args.result_dir = args.result_dir or beside / "result" / info.result_name
    args.log_name, args.list_dir = args.result_dir / "run.log", args.result_dir / LIST_FOLDER
    args.adv_cam_out_dir = args.result_dir / "cam_adv"
    usual = {}
    for name, file in flags.RESULT_NAMES.items():
        path = args.result_dir / file
        usual[name] = path if name in _MAPS_ALONE else path.with_stem(f"{path.stem}{ending}")
    infer = info.infer_split or info.train_split
    splits = (info.train_split, infer, info.eval_split, info.seg_split)
    usual |= {n: args.list_dir / f"{s}.txt" for n, s in zip(LISTS, splits, strict=True)}
    usual["cls_labels"] = args.list_dir / info.label_file
    usual["cam_out_dir"] = {
        "rib": usual["cam_out_dir"], "advcam": args.adv_cam_out_dir,
        "none": args.plain_cam_out_dir or usual["plain_cam_out_dir"],
        IMPORTED: args.result_dir / f"cam{ending}",
    }[args.recam]  # fmt: skip
    masks = args.sem_seg_out_dir or usual["sem_seg_out_dir"]
    usual |= {"seg_label_dir": masks, "export_from": masks, "result_dir": args.result_dir}
    for name, path in usual.items():
        setattr(args, name, getattr(args, name, None) or path)
    if args.recam == "advcam":
        args.adv_cam_out_dir = args.cam_out_dir
    args.brought = tuple(n for n, v in said.items() if isinstance(v, Path) and v != usual.get(n))


def _fill_defaults(args: SimpleNamespace, info: DatasetInfo) -> None:
    if args.precision is None and args.device != "cpu":
        # Here, since --help is to load no torch.
        from misc.runtime.devices import uses_cuda

        args.precision = "tf32" if uses_cuda(Resources(device=args.device)) else None
    args.precision = args.precision or "float32"
    usual = {f"seg_{name}": getattr(_preset(args), name) for name in flags.REPLACEABLE}
    usual |= {**info.defaults, **info.recam_defaults.get(args.recam, {})}
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    # What fits the photographs is recorded: one photograph more does not change all results.
    recorded = {} if args.overwrite else read_manifest(args.list_dir) or {}
    same = (recorded.get("dataset"), recorded.get("root")) == (info.name, str(info.root.resolve()))
    args.fitted = dict(info.replaced_defaults)
    for name, value in info.replaced_defaults.items():
        old = recorded.get(default_key(name)) if same else None
        old = tuple(old) if isinstance(old, list) else old
        args.fitted[name] = value = old if isinstance(old, type(value)) else value
        of_preset = name.startswith("seg_") and "seg_preset" in args.said
        if name not in args.said and not of_preset:
            setattr(args, name, max(value, announced_ranks()) if name in _SHARED else value)


def _require_fitting(args: SimpleNamespace) -> None:
    for name in ("cam_long", "cam_eval_thres"):
        low, high = getattr(args, name)
        if low > high:
            raise UserError(f"argument --{name}: {low},{high}: the first number is the smaller one")
    if args.cam_scales[0] != 1.0 or len(set(args.cam_scales)) < len(args.cam_scales):
        # RIB's early stop looks at scale 1.0 before it computes the others.
        raise UserError("argument --cam_scales: must start with 1.0, and have no scale twice")
    if args.irn_crop_size % 16:
        raise UserError(f"argument --irn_crop_size: {args.irn_crop_size} must be a multiple of 16")
    if args.conf_fg_thres < args.conf_bg_thres:
        below = f"{args.conf_fg_thres} is below --conf_bg_thres {args.conf_bg_thres}"
        raise UserError(f"argument --conf_fg_thres: {below}, so that pixels would have both labels")
    if args.irn_crop_size // 4 < 2 * args.irn_radius - 1:  # stride 4: no pixel would have pairs
        small = f"{args.irn_crop_size} is too small for --irn_radius"
        raise UserError(f"argument --irn_crop_size: {small}")


def default_key(name: str) -> str:
    return f"default {name}"  # in the manifest of a result folder


def _recorded_words(said: Mapping[str, object]) -> list[str]:
    """The options, as words, that describe the dataset of --result_dir; said ones have to agree."""
    where = f"--result_dir {said['result_dir']}"
    recorded = read_manifest(said["result_dir"] / LIST_FOLDER) or {}
    dataset, root = recorded.get("dataset"), recorded.get("root")
    if dataset not in dataset_names() or not isinstance(root, str):
        if said.get("report_html") and not any(n == "dataset" or n.endswith("root") for n in said):
            lacks = "does not say which dataset its results are of; give --dataset and --root"
            raise UserError(f"{where}: {lacks}")
        return []
    known = {name: recorded.get(name) for name in ("dataset", "root", *own_options(dataset))}
    for name, given in said.items():
        own = "root" if name == f"{dataset}_root" else name
        places = [given, str(given), str(given.resolve()) if isinstance(given, Path) else given]
        moved = own == "root" and not Path(root).exists()
        if own in known and not moved and known[own] not in places:
            other = "another one" if known[own] is None else reason(known[own])
            raise UserError(f"--{name} {given}: {where} was made with {other}; leave --{name} out")
    return [f"--{n}={v}" for n, v in known.items() if v is not None and n not in said]


def chosen_steps(args: Options) -> list[str]:
    """Return the steps to run: those given as true, or all that were not given as false."""
    passes = {name: getattr(args, f"{name}_pass") for name in STEPS}
    if any(passes.values()):
        return [name for name in STEPS if passes[name]]
    asked = set(SEQUENCE) - {"make_recam_with_RIB"} | {RECAM[args.recam][0]}
    for option, names in _ASKED_BY.items():
        asked |= set(names if getattr(args, option) else ())
    if args.recam == IMPORTED:  # nothing then needs the classifier
        asked -= {"train_cam", "make_cam"}
    root = args.info.root
    if root.is_dir() and not (root / OBJECT_MASKS).is_dir():
        asked.discard("eval_ins_seg")  # instance labels are made, and not scored
    if not args.info.mask_dirs:  # no ground truth: nothing to score
        asked = {name for name in asked if not str(name).startswith("eval_")}
    if "cam_weights_name" in args.given:
        asked.discard("train_cam")
    steps = [name for name in STEPS if name in asked and passes[name] is not False]
    if not steps:
        raise UserError("all steps are disabled (--*_pass False); leave one of these options out")
    return steps


def print_given() -> None:
    """Print which options are not at their default, and recam=NAME, for the shell scripts."""
    parser = build_parser()
    recam = vars(parser.parse_args(sys.argv[1:]))["recam"]
    words = [*sys.argv[1:], *(("--recam", "rib") if recam == ALL_MAPS else ())]
    print(*parse(words).given, f"recam={recam}")
