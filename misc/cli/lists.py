"""Lists and labels that were not given: made from the dataset's files, into RESULT_DIR/lists."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from misc.cli.options import Options
from misc.data.registry import preparation
from misc.storage.manifest import OutputFolder, check_folder, claim_folder
from misc.storage.outputs import Output, require_own

Steps = Mapping[str, ModuleType]

VERSION = 3  # raised when the same files of a dataset give other lists or labels


def prepare_lists(args: Options, steps: Steps) -> None:
    """Make the lists and labels that these steps read and that were not given, and drawn masks."""
    missing = lists_are_missing(args, steps)
    if missing or masks_are_missing(args, steps):
        if missing or not made_by_name(args, steps):
            claim_folder(*list_folder(args), {}, args.overwrite)
        make_lists(args, any("eval" in step.LISTS for step in steps.values()))


def made_by_name(args: Options, steps: Steps) -> list[Path]:
    """The lists and labels that these steps read and that were not given."""
    read = {role for step in steps.values() for role in step.LISTS}
    by_options = {
        "infer": args.limit or args.visualize or args.ins_seg_json,
        "seg": args.seg_val_every,
    }
    read |= {role for role, needed in by_options.items() if needed}
    options = ("cls_labels" if role == "labels" else f"{role}_list" for role in read)
    paths = {getattr(args, option) for option in options}
    return [path for path in args.made_lists() if path in paths]


def made_lists(args: Options, steps: Steps) -> tuple[Output, ...]:
    """Where lists and labels are made that were not given."""
    made = made_by_name(args, steps) or masks_are_missing(args, steps)
    return (Output("--result_dir", args.list_dir),) if made else ()


def masks_are_missing(args: Options, steps: Steps) -> bool:
    """Whether ground truth that these steps read has to be drawn."""
    read = {role for step in steps.values() for role in step.LISTS}
    if not args.info.draws_masks or "eval" not in read:
        return False
    roles = [r for r in ("eval", "seg") if r in read and getattr(args, f"{r}_list").is_file()]
    ids = (image_id for role in roles for image_id in args.image_ids(role, limited=False))
    return any(not args.info.mask_path(image_id).is_file() for image_id in ids)


def list_folder(args: Options) -> tuple[OutputFolder, dict]:
    """Where lists are made, and what they depend on."""
    source = {"version": VERSION, "root": str(args.info.root.resolve())}
    source |= {**args.settings("dataset", "skip_mismatched"), **args.info.made_from()}
    return OutputFolder("--result_dir", args.list_dir, ".txt"), source


def lists_are_missing(args: Options, steps: Steps) -> bool:
    """Whether lists or labels have to be made; UserError where files of others are in the way."""
    made = made_by_name(args, steps)
    if not made:
        return False
    redone = check_folder(*list_folder(args), args.overwrite)
    # A folder claimed anew has no lists, and labels that it still has are made again with them.
    needed = (*made, args.list_dir / f"{args.info.train_split}.txt")
    missing = redone or not all(path.is_file() for path in needed)
    if missing:
        names = (*preparation(args.dataset).LISTS, args.info.label_file)
        for path in (args.list_dir / name for name in names):
            require_own(path, "move it, or give it by name (--train_list, --cls_labels, ...)")
    return missing


def make_lists(args: Options, with_masks: bool) -> None:
    """Make the lists, and the labels where they were not given."""
    with_labels = args.cls_labels in args.made_lists()
    prepare = preparation(args.dataset).prepare
    prepare(args.info, args.list_dir, args.skip_mismatched, with_labels, with_masks)
