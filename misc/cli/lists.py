"""Lists and labels that were not given: made from the dataset's files, into RESULT_DIR/lists."""

from misc.cli.options import Options
from misc.data.registry import preparation
from misc.storage.manifest import OutputFolder, check_folder, claim_folder
from misc.storage.outputs import Output, require_own

VERSION = 3  # raised when the same files of a dataset give other lists or labels


def prepare_lists(args: Options, with_masks: bool) -> None:
    """Make the lists and labels that were not given.

    with_masks: a step needs ground truth, which some datasets draw.
    """
    if not args.made_lists():
        return
    if missing := lists_are_missing(args):
        claim_folder(*list_folder(args), {}, args.overwrite)
    if missing or (with_masks and masks_are_missing(args)):
        make_lists(args, with_masks)


def made_lists(args: Options) -> tuple[Output, ...]:
    """Where lists and labels are made that were not given."""
    return (Output("--result_dir", args.list_dir),) if args.made_lists() else ()


def masks_are_missing(args: Options) -> bool:
    """Whether ground truth has to be drawn."""
    roles = ("eval", "seg") if args.info.draws_masks else ()
    ids = [image_id for role in roles for image_id in args.image_ids(role, limited=False)]
    return any(not args.info.mask_path(image_id).is_file() for image_id in ids)


def list_folder(args: Options) -> tuple[OutputFolder, dict]:
    """Where lists are made, and what they depend on."""
    source = {"version": VERSION, "root": str(args.info.root.resolve())}
    source |= {**args.settings("dataset", "skip_mismatched"), **args.info.made_from()}
    return OutputFolder("--result_dir", args.list_dir, ".txt"), source


def lists_are_missing(args: Options) -> bool:
    """Whether lists or labels have to be made; UserError where files of others are in the way."""
    redone = check_folder(*list_folder(args), args.overwrite)
    # A folder claimed anew has no lists, and labels that it still has are made again with them.
    needed = (*args.made_lists(), args.list_dir / f"{args.info.train_split}.txt")
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
