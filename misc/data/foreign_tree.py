"""Finds the maps of images in a folder of another program, whatever its files are called."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from misc.data.dataset_info import DatasetInfo
from misc.data.folder.scan import Walk
from misc.errors import UserError, counted
from misc.storage.torch_files import SUFFIXES

_FLAG = "--import_maps"
_FORMS = (
    "read are ID.npy, .npz, .pt or .pth, and PNGs of one class each: ID_CLASS.png, CLASS/ID.png or "
    "ID/CLASS.png, where CLASS is a number or a name"
)


class MapFile(NamedTuple):
    """A file of maps; `name` is the number or name of its class, "" where it holds several."""

    path: Path
    name: str


class Tree(NamedTuple):
    """What was found: files by image id, and how many others are there."""

    root: Path
    files: Mapping[str, tuple[MapFile, ...]]
    others: int


def find_maps(root: Path, info: DatasetInfo, image_ids: Iterable[str]) -> Tree:
    """The files of the images below a folder, of one class each or of all.

    Raises UserError where there are none, or where they can be taken in more than one way.
    """
    if not root.is_dir():
        raise UserError(f"{_FLAG} {root}: is not a folder; give the folder of the maps")
    names = _names(info, image_ids)
    whole: dict[str, list[MapFile]] = {}
    single: dict[str, list[MapFile]] = {}
    labels, others = [], []
    for path in _files(root):
        if path.suffix in SUFFIXES:
            image_id, kind = _whole_id(path.relative_to(root), names), ""
        else:
            image_id, kind = _class_file(path, info, names)
        if image_id is None:
            others.append(path)
        elif path.suffix == ".png" and not kind:
            labels.append(path)
        else:
            found = single if kind else whole
            found.setdefault(image_id, []).append(MapFile(path, kind))
    _require_one_kind(root, whole, single, labels, others)
    files = {image_id: tuple(sorted(of)) for image_id, of in (whole or single).items()}
    return Tree(root, files, len(others) + len(labels))


def class_index(name: str, info: DatasetInfo) -> int | None:
    """Index of a class by its name in a file name; -1 for the background, None for others."""
    names = [_plain(known) for known in info.label_names]
    return names.index(_plain(name)) - 1 if _plain(name) in names else None


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _files(root: Path) -> Iterator[Path]:
    for path in map(Path, sorted(Walk(root).files())):
        if path.suffix in (*SUFFIXES, ".png"):
            yield root / path


def _names(info: DatasetInfo, image_ids: Iterable[str]) -> dict[str, str]:
    """Image ids by what their files may be called, without suffix: with folders too."""
    ids = tuple(image_ids)
    photographs = {i: info.image_path(i).relative_to(info.image_dir).with_suffix("") for i in ids}
    stems = Counter(path.name for path in photographs.values())
    names = {path.name: i for i, path in photographs.items() if stems[path.name] == 1}
    names |= {path.as_posix(): i for i, path in photographs.items()}
    for pattern in info.image_names:
        base = pattern.rpartition("/")[2].rpartition(".")[0]
        names |= {base.format(i): i for i in ids}
    return names | {i: i for i in ids}


def _whole_id(relative: Path, names: Mapping[str, str]) -> str | None:
    plain = relative.with_suffix("")
    return names.get(plain.as_posix()) or names.get(plain.name)


def _class_file(path: Path, info: DatasetInfo, names: Mapping[str, str]) -> tuple[str | None, str]:
    """Image and class of a PNG; no class for one that is called as its image alone."""
    stem, folder = path.stem, path.parent.name

    def is_class(text: str) -> bool:
        number = text.isascii() and text.isdigit() and len(text) <= 4
        return number or class_index(text, info) is not None

    if stem in names:
        return names[stem], folder if is_class(folder) else ""
    if folder in names and is_class(stem):
        return names[folder], stem
    for at in range(len(stem) - 1, 0, -1):
        if stem[at] in "_-" and stem[:at] in names and is_class(stem[at + 1 :]):
            return names[stem[:at]], stem[at + 1 :]
    return None, ""


def _require_one_kind(
    root: Path, whole: Mapping, single: Mapping, labels: list[Path], others: list[Path]
) -> None:
    where = f"{_FLAG} {root}"
    if not whole and not single and labels:
        raise UserError(
            f"{where}: has {counted({'PNG': len(labels)})} called as images, without a class, such "
            f"as {labels[0].name}: {_FORMS}; label maps serve as they are, by --sem_seg_out_dir to "
            "be scored and by --seg_label_dir to train on"
        )
    if not whole and not single:
        seen = f"; {others[0].relative_to(root)} is of none of them" if others else ""
        raise UserError(f"{where}: has no maps of the images of --infer_list{seen}: {_FORMS}")
    if whole and single:
        first, other = (next(iter(found.values()))[0].path for found in (whole, single))
        raise UserError(
            f"{where}: {first.name} and {other.name} are maps in two forms; give the folder of one"
        )
    for image_id, files in whole.items():
        if len(files) > 1:
            one, other = (file.path.relative_to(root) for file in files[:2])
            raise UserError(
                f"{where}: {one} and {other} are both of image {image_id}; give the folder of one"
            )
