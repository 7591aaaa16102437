"""Maps of other tools, found in a folder and turned into this project's CAMs.

Read are a dict with `keys` or by class, an array of all classes or of those of its image, and a PNG
for each class. Numbers of classes count from 0 ("class", as keys do here), or from 1 ("label", as
masks do, where 0 is the background, which is left out).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from misc.cams import CAM_STRIDE
from misc.data.dataset_info import DatasetInfo
from misc.data.folder.photographs import files_below
from misc.errors import UserError, about, counted
from misc.imutils import get_strided_size
from misc.storage.images import MAX_PIXELS, decode_image
from misc.storage.torch_files import SUFFIXES, read_arrays

_FORMATS = (
    "read are ID.npy, .npz, .pt or .pth, and PNGs of one class each: ID_CLASS.png, CLASS/ID.png or "
    "ID/CLASS.png, where CLASS is a number or a name"
)
_SAY = "say how they are numbered: --import_keys class (from 0) or --import_keys label (from 1)"
# Names of the maps in a dict with keys, those at full size first: of IRN, CLIP-ES, CLIMS and
# Puzzle-CAM, and of the export of this project.
_NAMES = ("high_res", "attn_highres", "highres", "hr_cam", "maps", "cam")
_MAPS_IN_FULL = 512 << 20  # bytes


class MapFile(NamedTuple):
    """A file of maps; `name` is the number or name of its class, "" where it holds several."""

    path: Path
    name: str


class Tree(NamedTuple):
    """Files by image id, and the number of others in the folder."""

    files: Mapping[str, tuple[MapFile, ...]]
    others: int


class FoundMaps(NamedTuple):
    """Maps of an image: (K,) classes and arrays K x h x w of the same maps in one or two sizes.

    known: the file itself says that the numbers count from 0.
    """

    numbers: tuple[int, ...]
    known: bool
    maps: tuple[np.ndarray, ...]


def find_maps(root: Path, info: DatasetInfo, image_ids: Iterable[str]) -> Tree:
    """The files of the images below a folder, of one class each or of all.

    Raises UserError where there are none, or where they can be taken in more than one way.
    """
    if not root.is_dir():
        raise UserError(f"--import_maps {root}: is not a folder; give the folder of the maps")
    names = _names(info, image_ids)
    groups = {"whole": [], "single": [], "label": [], "other": []}
    for path in sorted(map(Path, files_below(root)[0])):
        if path.suffix in (*SUFFIXES, ".png"):
            image_id, kind = _image_and_class(path, info, names)
            group = "single" if kind else "label" if path.suffix == ".png" else "whole"
            found = groups["other" if image_id is None else group]
            found.append((image_id, MapFile(root / path, kind)))
    if problem := _problem(root, *groups.values()):
        raise UserError(f"--import_maps {root}: {problem}")
    files: dict[str, list[MapFile]] = {}
    for image_id, file in groups["whole"] or groups["single"]:
        files.setdefault(image_id, []).append(file)
    others = len(groups["label"]) + len(groups["other"])
    return Tree({image_id: tuple(sorted(of)) for image_id, of in files.items()}, others)


def _problem(root: Path, whole: list, single: list, labels: list, others: list) -> str:
    """What a folder lacks, or holds too much of; empty where the files can be taken in one way."""
    if whole and single:
        first, other = whole[0][1].path.name, single[0][1].path.name
        return f"{first} and {other} are maps in two formats; give the folder of one"
    paths: dict[str, Path] = {}
    for image_id, (path, _) in whole:
        if paths.setdefault(image_id, path) != path:
            one, other = (each.relative_to(root) for each in (paths[image_id], path))
            return f"{one} and {other} are both of image {image_id}; give the folder of one"
    if not whole and not single and labels:
        return (
            f"has {counted({'PNG': len(labels)})} called as images, without a class, such as "
            f"{labels[0][1].path.name}: {_FORMATS}; label maps serve as they are, by "
            "--sem_seg_out_dir to be scored and by --seg_label_dir to train on"
        )
    seen = f"; {others[0][1].path.relative_to(root)} is of none of them" if others else ""
    missing = f"has no maps of the images of --infer_list{seen}: {_FORMATS}"
    return "" if whole or single else missing


def _names(info: DatasetInfo, image_ids: Iterable[str]) -> dict[str, str]:
    """Image ids by the names that their files may have, without suffix, also with folders."""
    ids = tuple(image_ids)
    photographs = {i: info.image_path(i).relative_to(info.image_dir).with_suffix("") for i in ids}
    stems = Counter(path.name for path in photographs.values())
    names = {path.name: i for i, path in photographs.items() if stems[path.name] == 1}
    names |= {path.as_posix(): i for i, path in photographs.items()}
    bases = (pattern.rpartition("/")[2].rpartition(".")[0] for pattern in info.image_names)
    names |= {base.format(i): i for base in bases for i in ids}
    return names | {i: i for i in ids}


def _image_and_class(
    path: Path, info: DatasetInfo, names: Mapping[str, str]
) -> tuple[str | None, str]:
    """Image and class of a file; no class for one of all classes, or called as its image alone."""
    stem, folder = path.stem, path.parent.name
    if path.suffix != ".png":
        return names.get(path.with_suffix("").as_posix()) or names.get(stem), ""
    ways = [(stem[:n], stem[n + 1 :]) for n in range(len(stem) - 1, 0, -1) if stem[n] in "_-"]
    for image, kind in [(stem, folder)] if stem in names else [(folder, stem), *ways]:
        number = kind.isascii() and kind.isdigit() and len(kind) <= 4
        if image in names and (number or class_index(kind, info) is not None):
            return names[image], kind
    return names.get(stem), ""


def class_index(name: str, info: DatasetInfo) -> int | None:
    """Index of a class by its name in a file name; -1 for the background, None for others."""
    known = [each.lower().replace(" ", "_").replace("-", "_") for each in info.label_names]
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    return known.index(plain) - 1 if plain in known else None


def read_maps(
    files: Sequence[MapFile],
    info: DatasetInfo,
    size: tuple[int, int],
    present: Sequence[int],
    numbering: str = "auto",
) -> FoundMaps:
    """The maps of an image from its file, or from those of its classes; UserError names the file.

    size: (height, width) of the image. present: indices of its classes, which say what the channels
    of an array without keys are. numbering: --import_keys.
    """
    path = files[0].path
    if files[0].name:
        return _from_pngs(files, info)
    # Three arrays of all classes and a background, or of photographs before they were shrunk.
    arrays = 3 * 8 * (info.num_classes + 1) * size[0] * size[1]
    content = read_arrays(path, max(arrays, _MAPS_IN_FULL))
    with about(path):
        if not isinstance(content, dict):
            return _from_channels(content, info, size, present, numbering)
        if "keys" in content:
            return _from_keys(content, info, present)
        if "probabilities" in content:  # of this project's segmentation network
            return _from_channels(content["probabilities"], info, size, present, "label")
        if list(content) == ["arr_0"]:  # a .npz of one array
            return _from_channels(content["arr_0"], info, size, present, numbering)
        return _from_classes(content, info)


def _from_pngs(files: Sequence[MapFile], info: DatasetInfo) -> FoundMaps:
    maps = []
    for path, _ in files:
        try:
            pixels = np.array(decode_image(path, ("PNG",), modes=("L", "I;16", "I", "1")))
        except (OSError, ValueError) as error:
            said = f"is not a grey PNG of one map ({error}); make it again"
            raise UserError(f"{path}: {said}") from None
        maps.append(_in_unit(pixels.astype(np.uint16) if pixels.dtype.kind == "i" else pixels))
        if maps[-1].shape != maps[0].shape:
            raise UserError(f"{path}: has another size than {files[0].path.name}")
    return FoundMaps(*_numbers([file.name for file in files], info), (np.stack(maps),))


def _from_classes(content: dict, info: DatasetInfo) -> FoundMaps:
    """Maps of a dict of class to map h x w, or 1 x h x w."""
    maps = [one[0] if one.ndim == 3 and len(one) == 1 else one for one in content.values()]
    shapes = {array.shape for array in maps}
    numbers, known = _numbers(list(content), info)
    if len(shapes) > 1 or any(array.ndim != 2 for array in maps):
        raise UserError(f"has maps of shapes {sorted(shapes)[:3]}, not one height x width for all")
    return FoundMaps(numbers, known, (np.stack(maps),) if maps else ())


def _numbers(names: Sequence[object], info: DatasetInfo) -> tuple[tuple[int, ...], bool]:
    """Classes from numbers, or from names, which leave nothing open."""
    numbers = [int(n) for n in names if not isinstance(n, str) or (n.isascii() and n.isdigit())]
    if len(numbers) == len(names):
        return tuple(numbers), False
    indices = [class_index(n, info) if isinstance(n, str) else None for n in names]
    if None in indices:
        unknown = names[indices.index(None)]
        raise UserError(
            f"has {unknown!r:.40} beside others, which is no class of {info.name} and no number; "
            "give maps by class, or keys and maps"
        )
    return tuple(indices), True


def _from_keys(content: dict, info: DatasetInfo, present: Sequence[int]) -> FoundMaps:
    """Maps of a dict of `keys` and maps K x h x w, or K + 1 where the background comes first.

    With K + 1 keys, the first one 0, the keys are labels from 1 (CLIMS, Puzzle-CAM). Of maps of all
    classes there are, those of the image's are taken.
    """
    keys = content["keys"]
    if keys.size == 0:
        return FoundMaps((), False, ())
    if keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise UserError(f"has keys of shape {keys.shape} and type {keys.dtype}, not whole numbers")
    named = [content[name] for name in _NAMES if name in content and content[name].ndim == 3]
    maps = named or [array for array in content.values() if array.ndim == 3]
    lengths = {len(array) for array in maps}
    known = lengths == {len(keys) - 1} and keys[0] == 0 and bool((keys[1:] > 0).all())
    keys = keys[1:] - 1 if known else keys
    if lengths not in ({len(keys)}, {len(keys) + 1}):
        shapes = [content[name].shape for name in content if name != "keys"]
        raise UserError(f"has {len(keys)} keys and arrays of {shapes[:4]}, not a map for each key")
    maps, keys = [array[-len(keys) :] for array in maps], keys.tolist()
    first = {frozenset(range(a, info.num_classes + b)): b for a, b in ((0, 0), (0, 1), (1, 1))}
    start = first.get(frozenset(keys))
    if len(keys) > len(present) + 1 and start is not None:
        rows = [keys.index(index + start) for index in present]
        return FoundMaps(tuple(present), True, tuple(array[rows] for array in maps))
    return FoundMaps(tuple(keys), known, tuple(maps))


def _from_channels(
    array: np.ndarray,
    info: DatasetInfo,
    size: tuple[int, int],
    present: Sequence[int],
    numbering: str,
) -> FoundMaps:
    """Maps of an array C x h x w or h x w x C of all classes or the image's, or with a background.

    Raises UserError where the channels may be all classes or the background and the image's.
    """
    count, own = info.num_classes, len(present)
    # The rows of the image's classes by the number of channels, without and with a background.
    plain = {own: range(own), count: present}
    behind = {own + 1: range(1, own + 1), count + 1: [p + 1 for p in present]}
    rows = {**plain, **behind} if numbering == "label" else {**behind, **plain}
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.ndim != 3 or array.size == 0:
        raise UserError(f"is an array of {array.shape}, not maps of classes (C x H x W)")
    ways = [way for way in (array, np.moveaxis(array, -1, 0)) if len(way) in rows]
    # The sides tell which axis is that of the classes.
    ways = [way for way in ways if _fits(way.shape[1:], size)] or ways
    if not ways:
        raise UserError(
            f"is an array of {array.shape}: it has channels neither for the {count} classes of "
            f"{info.name} nor for the {own} of the image, each with or without a background"
        )
    channels = len(ways[0])
    if numbering == "auto" and own and channels in plain and channels in behind:
        names = ", ".join(repr(info.class_names[index]) for index in present[:3])
        raise UserError(
            f"has {channels} channels: all {count} classes, or the background and those of its "
            f"image ({names})? say it: --import_keys class (the channels are the classes) or "
            "--import_keys label (the first one is the background)"
        )
    return FoundMaps(tuple(map(int, present)), True, (ways[0][list(rows[channels])],))


def numbering_of(images: Iterable[tuple[FoundMaps, Sequence[int]]], where: str) -> str:
    """The one numbering under which the classes of every image are among its labels.

    images: maps and indices of the classes. Raises UserError where both numberings fit, or none.
    """
    asked = [(f, set(present)) for f, present in images if f.numbers and not f.known]
    from_0 = sum(present >= set(_classes(f, "class")) for f, present in asked)
    from_1 = sum(present | {-1} >= set(_classes(f, "label")) for f, present in asked)
    if asked and (from_0 == len(asked)) == (from_1 == len(asked)):
        raise UserError(
            f"{where}: how its classes are numbered cannot be told: from 0 they are among the "
            f"labels of {from_0} of {len(asked)} images, from 1 (0 being the background) of "
            f"{from_1}; {_SAY}"
        )
    return "class" if from_0 == len(asked) else "label"


def _classes(found: FoundMaps, numbering: str) -> list[int]:
    """Indices from 0 of the classes under a numbering; the background is -1."""
    return [number - (not found.known and numbering == "label") for number in found.numbers]


def converted(
    found: FoundMaps, numbering: str, info: DatasetInfo, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The arguments of `save_cam`: keys (K,) ascending, cam and high_res in 0..1.

    Maps that have the sizes of a CAM file stay as they are. Others are resized: `high_res` from the
    largest ones, and `cam` to the mean of its 4 x 4 pixels. UserError without the file's name.
    """
    kept = sorted((key, n) for n, key in enumerate(_classes(found, numbering)) if key >= 0)
    keys, rows = np.array([key for key, _ in kept], dtype=np.int64), [n for _, n in kept]
    if len(set(keys.tolist())) < len(keys) or (keys >= info.num_classes).any():
        raise UserError(
            f"has the classes {sorted(found.numbers)[:6]}, which are not different ones of "
            f"{info.num_classes}; {_SAY}"
        )
    if not kept:
        none = np.zeros((0, 0, 0), np.float32)
        return {"keys": keys, "cam": none, "high_res": none}
    maps = {array.shape[1:]: _in_unit(array[rows]) for array in reversed(found.maps)}
    for height, width in maps:
        if not 0 < height * width <= MAX_PIXELS:
            raise UserError(f"has maps of {width}x{height} pixels")
        if not _fits((height, width), size):
            raise UserError(
                f"has maps of {width}x{height}, which do not fit its image of {size[1]}x{size[0]}; "
                "they are of another image, or stretched; resize them to their image's proportions"
            )
    small = get_strided_size(size, CAM_STRIDE)
    largest = max(maps.values(), key=lambda array: array.shape[1] * array.shape[2])
    if size not in maps:
        aligned = largest.shape[1:] == small  # its positions stand for 4 x 4 pixels each
        whole = tuple(CAM_STRIDE * side for side in small) if aligned else size
        tensor = torch.from_numpy(np.ascontiguousarray(largest))[:, None]
        resized = F.interpolate(tensor, whole, mode="bilinear", align_corners=False)[:, 0]
        maps[size] = resized.numpy()[:, : size[0], : size[1]]
    if small not in maps:  # the last row and column are repeated beyond the image
        beyond = [(0, CAM_STRIDE * a - b) for a, b in zip(small, size, strict=True)]
        padded = np.pad(maps[size], ((0, 0), *beyond), mode="edge")
        maps[small] = F.avg_pool2d(torch.from_numpy(padded), CAM_STRIDE).numpy()
    return {"keys": keys, "cam": maps[small], "high_res": maps[size]}


def _in_unit(maps: np.ndarray) -> np.ndarray:
    """Maps as float32 in 0..1; UserError where they are not finite or lie outside.

    Those of 8 and 16 bits are fractions of the largest value, unless they are 0 and 1 alone.
    """
    highest = maps.max(initial=0)
    if maps.dtype.kind == "u" and maps.dtype.itemsize <= 2 and highest > 1:
        return maps.astype(np.float32) / np.float32(np.iinfo(maps.dtype).max)
    maps = maps.astype(np.float32)
    if not np.isfinite(maps).all():
        raise UserError("has values that are not finite (NaN or infinite); make it again")
    low, high = maps.min(initial=0), maps.max(initial=0)
    if low < -1e-3 or high > 1 + 1e-3:
        raise UserError(
            f"has values from {low:.3g} to {high:.3g}, not in 0..1; cut maps at zero "
            "and divide each by its maximum before they are imported"
        )
    return maps


def _fits(shape: tuple[int, int], size: tuple[int, int]) -> bool:
    """Tell if a map shows an image of this size, shrunk or enlarged alike in both directions."""
    # A side may be rounded up or down, or be padded to the stride of a network.
    scale = ((shape[0] * shape[1]) / (size[0] * size[1])) ** 0.5
    return all(abs(a - b * scale) <= 1 for a, b in zip(shape, size, strict=True))
