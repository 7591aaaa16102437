"""The dataset of a result folder, as its manifest records it, for reports."""

from collections.abc import Sequence
from pathlib import Path

from misc.cli.options.namespace import Options
from misc.data.dataset_info import DatasetInfo
from misc.data.registry import dataset_names, own_options
from misc.errors import UserError
from misc.storage.files import reason
from misc.storage.manifest import read_manifest

LIST_FOLDER = "lists"  # below a result folder; its manifest says which dataset the results are of


def fitted_defaults(args: Options, info: DatasetInfo) -> dict[str, object]:
    """Defaults that are computed from the photographs, as a result folder's first run had them.

    So one photograph more does not change them, and with them all results. --overwrite computes
    them anew.
    """
    recorded = {} if args.overwrite else read_manifest(args.result_dir / LIST_FOLDER) or {}
    if (recorded.get("dataset"), recorded.get("root")) != (info.name, str(info.root.resolve())):
        return dict(info.replaced_defaults)
    fitted = {}
    for name, value in info.replaced_defaults.items():
        old = recorded.get(default_key(name))
        old = tuple(old) if isinstance(old, list) else old
        fitted[name] = old if isinstance(old, type(value)) else value
    return fitted


def default_key(name: str) -> str:
    """What a computed default of an option is called in the manifest of a result folder."""
    return f"default {name}"


def recorded_words(args: Options, said: Sequence[str]) -> list[str]:
    """The options, as words of a command line, that describe the dataset of --result_dir.

    said: names of the options that were given. Raises UserError for one that contradicts what is
    recorded, and for a page of a folder that records nothing where nothing was given.
    """
    recorded = read_manifest(args.result_dir / LIST_FOLDER) or {}
    dataset, root = recorded.get("dataset"), recorded.get("root")
    if dataset not in dataset_names() or not isinstance(root, str):
        if args.report_html and not any(n == "dataset" or n.endswith("root") for n in said):
            raise UserError(
                f"--result_dir {args.result_dir}: does not say which dataset its results are of; "
                "give --dataset and --root"
            )
        return []
    names = ("dataset", "root", *own_options(dataset))
    known = {name: recorded[name] for name in names if recorded.get(name) is not None}
    for name in said:
        wanted = recorded.get("root" if name == f"{dataset}_root" else name)
        moved = name.endswith("root") and not Path(root).exists()
        if name in (*names, f"{dataset}_root") and not moved:
            _require_same(args, name, wanted)
    return [f"--{name}={value}" for name, value in known.items() if name not in said]


def _require_same(args: Options, name: str, recorded: object) -> None:
    given = getattr(args, name)
    place = str(given.resolve()) if isinstance(given, Path) else given
    if recorded not in (given, place, str(given)):
        raise UserError(
            f"--{name} {given}: --result_dir {args.result_dir} was made with "
            f"{'another one' if recorded is None else reason(recorded)}; leave --{name} out"
        )
