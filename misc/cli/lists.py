"""Lists and labels that were not given, made into RESULT_DIR/lists; its manifest has the root."""

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from misc.cli.options import Options, as_plain, default_key
from misc.data.dataset_info import dataset_module, own_options
from misc.data.label_file import known_classes
from misc.errors import UserError, some
from misc.storage.manifest import check_folder, prepare_folder, read_manifest
from misc.storage.outputs import Output, require_own

log = logging.getLogger(__name__)

Steps = Mapping[str, ModuleType]
Lists = dict[str, dict[str, object]]  # by file name: image ids, or classes by image id

VERSION = 3  # raised when the same files of a dataset give other lists or labels
_NOT_IDS = ("photographs.txt", "classes.txt")


def prepare_lists(args: Options, steps: Steps, scratch: Path | None = None) -> Options:
    """Make what these steps read and was not given: lists, labels, drawn masks.

    scratch: a folder for them, where nothing else is written. Returns the options with its places.
    """
    read = {role for step in steps.values() for role in step.LISTS}
    outdated = _outdated(args, needed := _made_here(args, read))
    before = _contents(args) if outdated else {}
    if outdated and not scratch:
        prepare_folder(*_list_folder(args), overwrite=True)
    if not (outdated and needed) and (scratch or not _masks_are_missing(args, read)):
        return args
    with_labels, with_masks = args.cls_labels in args.made_lists(), "eval" in read and not scratch
    args = args.with_list_dir(scratch) if scratch else args
    prepare = dataset_module(args.dataset, "prepare").prepare
    prepare(args.info, args.list_dir, args.skip_mismatched, with_labels, with_masks)
    _say_differences(args, before, _contents(args))
    return args


def _made_here(args: Options, read: set[str]) -> list[Path]:
    if args.limit or args.visualize or args.ins_seg_json:
        read = read | {"infer"}
    paths = {getattr(args, "cls_labels" if r == "labels" else f"{r}_list") for r in read}
    return [path for path in args.made_lists() if path in paths]


def _masks_are_missing(args: Options, read: set[str]) -> bool:
    if not args.info.draws_masks or "eval" not in read:
        return False
    roles = [r for r in ("eval", "seg") if r in read and getattr(args, f"{r}_list").is_file()]
    ids = (image_id for role in roles for image_id in args.image_ids(role, limited=False))
    return any(not args.info.mask_path(image_id).is_file() for image_id in ids)


def _list_folder(args: Options) -> tuple[Output, dict, dict]:
    settings = {"version": VERSION, **args.settings("skip_mismatched"), **_identity(args)}
    for name in own_options(args.dataset):
        value = getattr(args, name)
        value = value.resolve() if isinstance(value, Path) and value.exists() else value
        settings[name] = str(value) if isinstance(value, Path) else value
    settings |= {default_key(name): as_plain(value) for name, value in args.fitted.items()}
    return Output("--result_dir", args.list_dir, suffix=".txt"), settings, args.info.made_from()


def _identity(args: Options) -> dict:
    return {"root": str(args.info.root.resolve()), **args.settings("dataset")}


def _outdated(args: Options, needed: list[Path]) -> bool:
    """Return whether lists have to be made; UserError for those of others, or another dataset."""
    folder, settings, inputs = _list_folder(args)
    recorded = read_manifest(folder.path)
    known = {**(recorded or {}), **_identity(args)}
    check_folder(folder, {k: v for k, v in known.items() if k != "inputs"}, args.overwrite)
    # A folder that begins anew has no lists; labels that it still has are made again with them.
    needed = [*needed, args.list_dir / f"{args.info.train_split}.txt"] if needed else []
    now = json.loads(json.dumps({**settings, "inputs": inputs}))
    outdated = now != recorded or not all(path.is_file() for path in needed)
    if outdated:
        advice = "move it, or give it by name (--train_list, --cls_labels, ...)"
        for name in (*dataset_module(args.dataset, "prepare").LISTS, args.info.label_file):
            require_own(args.list_dir / name, advice)
    return outdated


def _contents(args: Options) -> Lists:
    found: Lists = {}
    for name in set(dataset_module(args.dataset, "prepare").LISTS) - set(_NOT_IDS):
        with contextlib.suppress(UserError, OSError, UnicodeDecodeError):
            lines = (args.list_dir / name).read_text(encoding="utf-8").splitlines()
            columns = (args.info.columns_of(line) for line in lines)
            found[name] = dict.fromkeys(words[0] for words in columns if words)
    ids = {image_id for of_list in found.values() for image_id in of_list}
    labels = args.list_dir / args.info.label_file
    return {**found, labels.name: known_classes(labels, sorted(ids), args.info)}


def _say_differences(args: Options, before: Lists, after: Lists) -> None:
    labels = args.info.label_file
    for name in sorted((before.keys() & after.keys()) - {labels}):
        new = [image_id for image_id in after[name] if image_id not in before[name]]
        gone = [image_id for image_id in before[name] if image_id not in after[name]]
        parts = [f"{len(ids)} {what}: {some(ids)}"
                 for what, ids in (("new", new), ("no longer there", gone)) if ids]  # fmt: skip
        if parts:
            log.warning("%s: made again; %s", args.list_dir / name, "; ".join(parts))
    old = before.get(labels, {})
    changed = [i for i, classes in after[labels].items() if old.get(i, classes) != classes]
    if changed:
        log.warning("%s: labels of %d images are others now: %s", args.list_dir / labels,
                    len(changed), some(changed))  # fmt: skip
