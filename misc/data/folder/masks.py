"""Label maps beside photographs: ground truth in --masks, and maps that contradict their labels."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from PIL import Image

from misc.data.dataset_info import DatasetInfo, keys_in
from misc.data.folder.photographs import files_below, own_size
from misc.errors import UserError, counted, raise_problems, some
from misc.labels import ignored_value, read_label_png, save_label_png, save_palette_png
from misc.runtime.image_task import ImageTask, prepare_output, run_over_images
from misc.storage.files import reason
from misc.storage.images import MAX_PIXELS
from misc.storage.manifest import Sources, check_folder, folder_hash, read_manifest
from misc.storage.outputs import Output, remove_output, require_places

log = logging.getLogger(__name__)

_IN_PYTHON = (", in Python: Image.fromarray((np.array(Image.open(OLD)) == {}).astype('uint8') * "
              "NUMBER).save(NEW)")  # fmt: skip
FEW = 3  # label maps that contradict their labels and are not worth a warning
_SETTINGS = {"step": "masks", "version": 1}  # raised when the same masks give other files
_BAND = 1 << 22  # pixels of a large mask that are enlarged at a time


class Content(NamedTuple):
    """The labels in a label map."""

    path: Path
    classes: frozenset[int]  # indices of its classes, from 0
    background: bool  # it has pixels of the label 0
    ignored: int  # the value of its ignored pixels, 0 where it has none


def content_of(path: Path, labels: np.ndarray) -> Content:
    """The labels in a label map H x W, uint8 or uint16."""
    values = np.flatnonzero(np.bincount(labels.ravel())).tolist()
    ignored = ignored_value(labels)
    classes = frozenset(value - 1 for value in values if value not in (0, ignored))
    return Content(path, classes, 0 in values, ignored if ignored in values else 0)


def contradictions(
    names: Sequence[str],
    where: str,
    found: Mapping[str, Content],
    classes: Mapping[str, frozenset[int]],
    follows_labels: bool = True,
) -> tuple[list[str], list[str]]:
    """A problem, if any, and warnings of label maps that contradict the labels in `classes`.

    follows_labels: not so where maps are predicted.
    """
    expected = {i: one for i, one in found.items() if classes.get(i, True)}  # a class, or unknown
    known = {i: found[i] for i in found if i in classes} if follows_labels else {}
    agree = any(one.classes & classes[i] for i, one in known.items()) or len(known) < len(found)
    ignored = max((one.ignored for one in found.values()), default=0)
    numbers = some(f"{n} = {name!r}" for n, name in enumerate(names, start=1))
    advice = f"write 0 for the background and the classes' numbers ({numbers})"
    problem = ""
    if found and not any(one.background or one.classes for one in found.values()):
        problem = f"all labels are {ignored} (ignored here)"
    elif expected and not any(one.classes for one in found.values()):
        held = f"0 and {ignored} alone, and {ignored} is ignored here"
        held = held if ignored else "0 (background) alone"
        advice += _IN_PYTHON.format(ignored) if ignored else ""
        problem = f"no label map ({len(found)} read) has a pixel of a class: they hold {held}"
    elif expected and not agree:
        first = next(iter(expected))
        shown = _shown(names, found[first], found[first].classes, classes[first])
        problem = f"no label map shows a class of its image's labels: {shown}"
    if problem:
        return [f"{where}: {problem}; {advice}"], []
    lines = []
    empty = [one for one in expected.values() if not one.classes]
    if len(empty) > FEW:
        value = max(one.ignored for one in empty)
        but = f" but 0 and {value} (ignored here)" if value else ""
        lines.append((empty, f"have no class{but}, though the labels of their images name some"))
    beyond = {i: one.classes - classes[i] for i, one in known.items() if one.classes - classes[i]}
    if len(beyond) > FEW:
        first = next(iter(beyond))
        shown = _shown(names, found[first], beyond[first], classes[first])
        exclude = f"show classes that the labels of their images exclude ({shown})"
        lines.append(([found[i] for i in beyond], exclude))
    return [], [f"{where}: {len(of)} of {len(found)} label maps {line}: "
                f"{some(one.path.name for one in of)}" for of, line in lines]  # fmt: skip


def _shown(names: Sequence[str], of: Content, classes: Iterable[int], labels: Iterable[int]) -> str:
    shown, said = (some([repr(names[index]) for index in sorted(indices)]) or "none"
                   for indices in (classes, labels))  # fmt: skip
    return f"{of.path.name} shows {shown}, its labels say {said}"


def masked(info: DatasetInfo, image_ids: Sequence[str]) -> list[str]:
    """The photographs that have a mask in --masks; UserError where none has, or two have one."""
    if not info.mask_dirs:
        return []
    folder = info.mask_dirs[0]
    found = {i: path for i in image_ids if (path := info.mask_path(i)).is_file()}
    used = set(found.values())
    others = [path for path in files_below(folder)[0] if folder / path not in used]
    if not found:
        names = dict.fromkeys(reason(p.relative_to(folder)) for p in info.mask_paths(image_ids[0]))
        there = f"{counted({'file': len(others)})}, such as {reason(others[0])}" if others else ""
        lack = f"has no mask of {info.image_path(image_ids[0])}, nor of others with a label"
        has = f"it has {there or 'no files'}: give the masks the photographs' names"
        raise UserError(f"--masks {folder}: {lack}; looked for were {', '.join(names)}; {has}")
    first: dict[Path, str] = {}
    raise_problems("mask", [
        f"--masks {folder}: {path.name} is found for {info.image_path(first[path])} and for "
        f"{info.image_path(i)}; put masks into the same folders as the photographs, or call the "
        "mask of x.jpg x.jpg.png" for i, path in found.items() if first.setdefault(path, i) != i
    ])  # fmt: skip
    if others := [path for path in others if path.lower().endswith(".png")]:
        log.warning("--masks %s: %s of no photograph with a label, such as %s", folder,
                    counted({"PNG file": len(others)}), reason(others[0]))  # fmt: skip
    return list(found)


class OwnSizeMasks(ImageTask):
    """The mask of a photograph at its own size, in the same folders as the photograph."""

    name = "masks at the photographs' size"
    images_worth_a_process = 200
    on_gpu = False

    def __init__(self, args: SimpleNamespace):
        self.info, self.source, (self.output,) = args.info, args.sem_seg_out_dir, writes(args)
        ids = args.image_ids("infer")
        paths = {i: self.info.image_path(i).relative_to(self.info.root) for i in ids}
        alike = Counter(path.with_suffix("") for path in paths.values())
        self.paths = {i: self.output.path / (
            path.with_suffix(".png") if alike[path.with_suffix("")] == 1 else f"{path}.png"
        ) for i, path in paths.items()}  # fmt: skip

    def outputs(self, image_id: str) -> list[Path]:
        return [self.paths[image_id]]

    def one(self, image_id: str) -> None:
        mask = read_label_png(self.source / f"{image_id}.png")
        mask = enlarged(mask, own_size(self.info.image_path(image_id)))
        self.paths[image_id].parent.mkdir(parents=True, exist_ok=True)
        save = save_palette_png if mask.dtype == np.uint8 else save_label_png
        save(self.paths[image_id], mask)


def writes(args: SimpleNamespace) -> tuple[Output, ...]:
    """The place of the masks."""
    return (Output("--result_dir", args.result_dir / "masks", suffix=".png"),)


def check(args: SimpleNamespace) -> None:
    """Raise UserError where `run` would; called before the first step."""
    task = OwnSizeMasks(args)
    check_folder(task.output, _SETTINGS, overwrite=True)
    require_places({str(args.info.image_path(i)): path for i, path in task.paths.items()})


def run(args: SimpleNamespace) -> None:
    """Write the pseudo masks with the photographs' names, folders and sizes. All ranks call it."""
    task = OwnSizeMasks(args)
    inputs = {"pseudo masks": folder_hash(args.sem_seg_out_dir)}

    def sources() -> Sources:
        known = read_manifest(task.output.path)
        for path in task.output.path.rglob("*.png"):
            if known and known.get("inputs") != inputs:
                remove_output(path)
        keys = keys_in(args, args.sem_seg_out_dir, ".png", tuple(task.paths))
        return Sources(keys, path_of=task.paths.__getitem__)

    prepare_output(task.output, _SETTINGS, inputs, True, sources)
    run_over_images(task, tuple(task.paths), args.resources)


def enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map h x w at size H, W: every pixel the label that bilinear weights give most of."""
    (height, width), (rows, columns) = mask.shape, size
    if (height, width) == (rows, columns):
        return mask
    labels = np.unique(mask)
    large = np.full(size, labels[0], mask.dtype)
    step = rows if rows * columns <= MAX_PIXELS else max(1, _BAND // columns)
    for top in range(0, rows, step):
        band = large[top : top + step]
        box = (0, top * height / rows, width, (top + len(band)) * height / rows)
        strongest = np.zeros(band.shape, np.uint8)
        for label in labels:
            part = Image.fromarray((mask == label).astype(np.uint8) * 255)
            weight = part.resize(band.shape[::-1], Image.Resampling.BILINEAR, box=box)
            higher = np.asarray(weight) > strongest
            band[higher] = label
            strongest = np.maximum(strongest, weight)
    return large
