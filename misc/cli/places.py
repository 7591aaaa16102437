"""Where a run writes: never into the dataset, over an input, or twice into one place."""

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from misc.cli.lists import written_lists
from misc.cli.log import log_file, require_log
from misc.cli.options import Options
from misc.errors import raise_problems
from misc.storage.files import locked, no_folder_left, remove_leftovers
from misc.storage.manifest import make_writable
from misc.storage.outputs import Output


def written(args: Options, parts: Iterable[ModuleType]) -> tuple[Output, ...]:
    """Everything that the parts of a run write, each once."""
    of_parts = (output for part in parts for output in part.writes(args))
    return tuple(dict.fromkeys((log_file(args), *written_lists(args), *of_parts)))


@contextmanager
def claimed(args: Options, outputs: Iterable[Output]) -> Iterator[None]:
    """The run has the folders that it writes into for itself; those that stay empty go again.

    Raises UserError where one cannot be written, or another run writes there.
    """
    flags = {args.result_dir: "--result_dir"}
    for output in outputs:
        flags.setdefault(output.folder, output.flag)
    with contextlib.ExitStack() as stack:
        for folder, flag in flags.items():
            stack.enter_context(no_folder_left(folder))
            make_writable(folder, flag)
        stack.enter_context(locked(flags))
        yield


def remove_unfinished(outputs: tuple[Output, ...]) -> None:
    """Remove what killed writers left, on this machine, wherever these outputs go."""
    for output in outputs:
        remove_leftovers(output.folder, below=not output.is_file)


def check_places(args: Options, parts: Iterable[ModuleType]) -> None:
    """Raise UserError where what exists would be lost; called before anything is written."""
    outputs = (Output("--result_dir", args.result_dir), *written(args, parts))
    in_dataset = _in_dataset(args, outputs)
    messages = list(in_dataset.values())
    messages += [text for output in outputs[1:] for text in _over_inputs(args, outputs, output)]
    taken: dict[Path, Output] = {}
    for output in outputs[1:]:
        other = taken.setdefault(output.path.resolve(), output)
        if other is not output:
            messages.append(
                f"{output.flag} {output.path}: is written by {other.flag} too; give another one"
            )
    raise_problems("output", messages)
    require_log(args.log_name)


def _in_dataset(args: Options, outputs: tuple[Output, ...]) -> dict[Path, str]:
    """What to say of outputs in the dataset's folder, by place; not of those within one of them."""
    root, messages = args.info.root.resolve(), {}
    for output in outputs:
        place = output.path.resolve()
        if root in (place, *place.parents) and messages.keys().isdisjoint((place, *place.parents)):
            messages[place] = (
                f"{output.flag} {output.path}: lies in the dataset's folder {root}; give a place "
                "outside of it"
            )
    return messages


def _over_inputs(args: Options, outputs: tuple[Output, ...], output: Output) -> Iterator[str]:
    """What to say of an output in the place of what the user gives to read."""
    flags, root = {other.flag for other in outputs}, args.info.root.resolve()
    place = output.path.resolve()
    for name in args.brought:
        path = getattr(args, name)
        if f"--{name}" in flags or path.resolve() == root:
            continue
        kind = "folder" if path.is_dir() else "file"
        if path.resolve() == place:
            yield f"{output.flag} {output.path}: is the {kind} of --{name}; give another place"
        elif path.is_dir() and path.resolve() in place.parents:
            yield f"{output.flag} {output.path}: lies in the folder of --{name}; give another place"
