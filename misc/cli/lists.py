"""Lists and labels that were not given: made from the dataset's files, into RESULT_DIR/lists.

The manifest of that folder says which dataset a result folder is of, and how it was described.
"""

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from misc.cli.options import Options, as_plain, default_key
from misc.data.label_file import known_classes
from misc.data.registry import own_options, preparation
from misc.errors import UserError, some
from misc.storage.manifest import check_folder, prepare_folder, read_manifest, settings_of
from misc.storage.outputs import Output, require_own

log = logging.getLogger(__name__)

Steps = Mapping[str, ModuleType]

VERSION = 3  # raised when the same files of a dataset give other lists or labels
_NOT_IDS = ("photographs.txt", "classes.txt")


class Made(NamedTuple):
    """What is in a folder of lists: ids by list, and the classes of the images."""

    lists: Mapping[str, tuple[str, ...]]
    classes: Mapping[str, frozenset[int]]


def prepare_lists(args: Options, steps: Steps) -> None:
    """Make the lists and labels that these steps read and that were not given, and drawn masks.

    What was made from other files is made again, and the log says how it differs. The dataset that
    the results are of is recorded in any case.
    """
    outdated, drawn = lists_are_outdated(args, steps), masks_are_missing(args, steps)
    before = made(args) if outdated else Made({}, {})
    if outdated:
        prepare_folder(*list_folder(args), overwrite=True)
    if drawn or (outdated and made_by_name(args, steps)):
        make_lists(args, "eval" in roles_read(steps))
        say_differences(args, before)


def roles_read(steps: Steps) -> set[str]:
    """The roles of lists that steps read ("train", "eval", ...), and "labels"."""
    return {role for step in steps.values() for role in step.LISTS}


def made_by_name(args: Options, steps: Steps) -> list[Path]:
    """The lists and labels that these steps read and that were not given."""
    read = roles_read(steps)
    if args.limit or args.visualize or args.ins_seg_json:
        read.add("infer")
    options = ("cls_labels" if role == "labels" else f"{role}_list" for role in read)
    paths = {getattr(args, option) for option in options}
    return [path for path in args.made_lists() if path in paths]


def written_lists(args: Options) -> tuple[Output, ...]:
    """Where lists and labels are made, and where it is recorded which dataset they are of."""
    return (Output("--result_dir", args.list_dir),)


def masks_are_missing(args: Options, steps: Steps) -> bool:
    """Whether ground truth that these steps read has to be drawn."""
    read = roles_read(steps)
    if not args.info.draws_masks or "eval" not in read:
        return False
    roles = [r for r in ("eval", "seg") if r in read and getattr(args, f"{r}_list").is_file()]
    ids = (image_id for role in roles for image_id in args.image_ids(role, limited=False))
    return any(not args.info.mask_path(image_id).is_file() for image_id in ids)


def identity(args: Options) -> dict:
    """What all results of a folder have in common."""
    return {"root": str(args.info.root.resolve()), **args.settings("dataset")}


def list_folder(args: Options) -> tuple[Output, dict, dict]:
    """Where lists are made, how their dataset is described, and digests of its files."""
    options = {name: _plain(getattr(args, name)) for name in own_options(args.dataset)}
    settings = {"version": VERSION, **options, **args.settings("skip_mismatched")}
    settings |= {default_key(name): as_plain(value) for name, value in args.fitted.items()}
    folder = Output("--result_dir", args.list_dir, suffix=".txt")
    return folder, settings | identity(args), args.info.made_from()


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value.resolve() if value.exists() else value)
    return value


def lists_are_outdated(args: Options, steps: Steps) -> bool:
    """Whether lists or labels have to be made.

    Raises UserError where files of others are in the way, or results of another dataset.
    """
    folder, settings, inputs = list_folder(args)
    noted = read_manifest(folder.path)
    known = {**(noted or {}), **identity(args)}
    check_folder(folder, {k: v for k, v in known.items() if k != "inputs"}, args.overwrite)
    # A folder claimed anew has no lists, and labels that it still has are made again with them.
    needed = made_by_name(args, steps)
    needed += [args.list_dir / f"{args.info.train_split}.txt"] if needed else []
    now = json.loads(json.dumps(settings_of(settings, inputs)))
    outdated = now != noted or not all(path.is_file() for path in needed)
    if outdated:
        names = (*preparation(args.dataset).LISTS, args.info.label_file)
        for path in (args.list_dir / name for name in names):
            require_own(path, "move it, or give it by name (--train_list, --cls_labels, ...)")
    return outdated


def make_lists(args: Options, with_masks: bool) -> None:
    """Make the lists, and the labels where they were not given."""
    with_labels = args.cls_labels in args.made_lists()
    prepare = preparation(args.dataset).prepare
    prepare(args.info, args.list_dir, args.skip_mismatched, with_labels, with_masks)


def made(args: Options) -> Made:
    """The lists and labels that are there; of those that cannot be read, nothing."""
    lists = {}
    for name in preparation(args.dataset).LISTS:
        path = args.list_dir / name
        if name not in _NOT_IDS and path.is_file():
            with contextlib.suppress(UserError, OSError, UnicodeDecodeError):
                lines = path.read_text(encoding="utf-8").splitlines()
                columns = (args.info.columns_of(line) for line in lines)
                lists[name] = tuple(words[0] for words in columns if words)
    ids = dict.fromkeys(image_id for of_list in lists.values() for image_id in of_list)
    labels = args.list_dir / args.info.label_file
    return Made(lists, known_classes(labels, ids, args.info) if labels.is_file() else {})


def say_differences(args: Options, before: Made) -> None:
    """Say how the lists and labels differ from those of before, if there were any."""
    after = made(args)
    for name in before.lists.keys() & after.lists.keys():
        old, new = dict.fromkeys(before.lists[name]), dict.fromkeys(after.lists[name])
        parts = [f"{len(ids)} {what}: {some(ids)}" for what, ids in (
            ("new", [i for i in new if i not in old]),
            ("no longer there", [i for i in old if i not in new])) if ids]  # fmt: skip
        if parts:
            log.warning("%s: made again; %s", args.list_dir / name, "; ".join(parts))
    changed = [
        i for i, classes in after.classes.items() if before.classes.get(i, classes) != classes
    ]
    if changed:
        log.warning("%s: labels of %d images are others now: %s",
                    args.list_dir / args.info.label_file, len(changed), some(changed))  # fmt: skip
