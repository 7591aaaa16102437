"""Where a run writes: never into the dataset, over an input, or twice into one place."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from misc.cli.options import Options
from misc.errors import raise_problems
from misc.storage.files import no_folder_left
from misc.storage.lock import locked
from misc.storage.manifest import make_writable

_GIVEN_FILES = ("train_list", "infer_list", "eval_list", "cls_labels", "imagenet_weights",
                "cam_weights_name", "irn_weights_name", "seg_list", "seg_init",
                "seg_weights_name")  # fmt: skip


def written(args: Options, steps: Mapping[str, ModuleType]) -> dict[str, Path]:
    """Every folder and file that the run writes, by the option that names it."""
    places = {"--result_dir": args.result_dir, "--log_name": args.log_name}
    for step in steps.values():
        places |= step.writes(args)
    return places


def _is_file(flag: str) -> bool:
    return flag.endswith("_name")


@contextmanager
def claimed(args: Options, steps: Mapping[str, ModuleType]) -> Iterator[None]:
    """The run has the folders that it writes into for itself; those that stay empty go again.

    Raises UserError where one cannot be written, or another run writes there.
    """
    flags = {args.list_dir: "--result_dir"}
    for flag, path in written(args, steps).items():
        flags.setdefault(path.parent if _is_file(flag) else path, flag)
    with contextlib.ExitStack() as stack:
        for folder, flag in flags.items():
            stack.enter_context(no_folder_left(folder))
            make_writable(folder, flag)
        stack.enter_context(locked(flags))
        yield


def check_places(args: Options, steps: Mapping[str, ModuleType]) -> None:
    """Raise UserError where what exists would be lost; called before anything is written."""
    root, places = args.info.root.resolve(), written(args, steps)
    inputs = {f"--{name}": getattr(args, name) for name in _GIVEN_FILES if getattr(args, name)}
    messages, taken, refused = [], {}, set()
    for flag, path in places.items():
        place = path.resolve()
        if root in (place, *place.parents) and refused.isdisjoint(place.parents):
            refused.add(place)
            messages.append(
                f"{flag} {path}: lies in the dataset's folder {root}; give a place outside of it"
            )
        for given, input_path in inputs.items():
            if given not in places and input_path.resolve() == place:
                messages.append(f"{flag} {path}: is the file of {given}; give another one")
        key = (place, _is_file(flag))
        if key in taken:
            messages.append(f"{flag} {path}: is written by {taken[key]} too; give another one")
        taken.setdefault(key, flag)
    raise_problems("output", messages)
