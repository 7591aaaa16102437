"""Maps of other tools, found in a folder and turned into this project's CAMs.

--import_keys says how classes are numbered: from 0 ("class", as keys do here, also where nothing is
said), or from 1 ("label", as masks do, with 0 for the background).
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
# Maps in a dict with keys, those at full size first: of IRN, CLIP-ES, CLIMS, Puzzle-CAM, our own
_NAMES = ("high_res", "attn_highres", "highres", "hr_cam", "maps", "cam")
_MAPS_IN_FULL = 512 << 20  # bytes

Found = tuple[Sequence[int], Sequence[np.ndarray]]  # K classes, arrays K x h x w in 1 or 2 sizes


class MapFile(NamedTuple):
    """A file of maps; `name` is the number or name of its class, "" where it holds several."""

    path: Path
    name: str


def find_maps(root: Path, info: DatasetInfo, ids: Iterable[str]) -> dict[str, tuple[MapFile, ...]]:
    """The files of the images below a folder; UserError unless they can be taken in one way."""
    if not root.is_dir():
        raise UserError(f"--import_maps {root}: is not a folder; give the folder of the maps")
    names, others, whole, single = _names(info, tuple(ids)), [], {}, {}
    for path in sorted(Path(f) for f in files_below(root)[0] if f.endswith((*SUFFIXES, ".png"))):
        image_id, kind = _image_and_class(path, info, names)
        if image_id and (kind or path.suffix != ".png"):
            found = single if kind else whole
            found.setdefault(image_id, []).append(MapFile(root / path, kind))
        else:
            others.append((image_id, path))
    if problem := _problem(root, whole, single, others):
        raise UserError(f"--import_maps {root}: {problem}")
    return {image_id: tuple(sorted(files)) for image_id, files in (whole or single).items()}


def _problem(root: Path, whole: Mapping, single: Mapping, others: list[tuple]) -> str:
    if whole and single:
        first, other = (next(iter(found.values()))[0].path for found in (whole, single))
        return f"{first.name} and {other.name} are maps in two formats; give the folder of one"
    for image_id, files in whole.items():
        if len(files) > 1:
            one, other = (file.path.relative_to(root) for file in files[:2])
            return f"{one} and {other} are both of image {image_id}; give the folder of one"
    if whole or single:
        return ""
    if labels := [path for image_id, path in others if image_id]:
        return (
            f"has {counted({'PNG': len(labels)})} called as images, without a class, such as "
            f"{labels[0].name}: {_FORMATS}; label maps serve as they are, by --sem_seg_out_dir to "
            "be scored and by --seg_label_dir to train on"
        )
    seen = f"; {others[0][1]} is of none of them" if others else ""
    return f"has no maps of the images of --infer_list{seen}: {_FORMATS}"


def _names(info: DatasetInfo, ids: tuple[str, ...]) -> dict[str, str]:
    photographs = {i: info.image_path(i).relative_to(info.image_dir).with_suffix("") for i in ids}
    stems = Counter(path.name for path in photographs.values())
    names = {path.name: i for i, path in photographs.items() if stems[path.name] == 1}
    names |= {path.as_posix(): i for i, path in photographs.items()}
    bases = (pattern.rpartition("/")[2].rpartition(".")[0] for pattern in info.image_names)
    names |= {base.format(i): i for base in bases for i in ids}
    return names | {i: i for i in ids}


def _image_and_class(path: Path, info: DatasetInfo, names: Mapping) -> tuple[str | None, str]:
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
    files: Sequence[MapFile], info: DatasetInfo, size: tuple[int, int], present: Sequence[int],
    numbering: str = "auto",
) -> dict[str, np.ndarray]:  # fmt: skip
    """The arguments of `save_cam` for an image of a size, with classes `present`; UserError.

    Maps that have not the sizes of a CAM file are resized: `high_res` from the largest ones, and
    `cam` to the mean of its 4 x 4 pixels. numbering: --import_keys.
    """
    path, start = files[0].path, int(numbering == "label")
    # Three arrays of all classes and a background, or of photographs before they were shrunk.
    arrays = 3 * 8 * (info.num_classes + 1) * size[0] * size[1]
    by_class = bool(files[0].name)
    content = _pngs(files) if by_class else read_arrays(path, max(arrays, _MAPS_IN_FULL))
    with about(path):
        if isinstance(content, dict) and list(content) == ["arr_0"]:
            content = content["arr_0"]  # a .npz of one array
        if not isinstance(content, dict):
            keys, maps = _from_channels(content, info, size, present, numbering)
        else:
            read = _from_keys if "keys" in content else _from_classes
            keys, maps = read(content, info, present, start)
        kept = sorted((key, n) for n, key in enumerate(keys) if key >= 0)
        if len(set(keys)) < len(keys) or max(keys, default=0) >= info.num_classes:
            raise UserError(
                f"has the classes {sorted(key + start for key in keys)[:6]}, which are not "
                f"different ones of {info.num_classes}; say how they are numbered: --import_keys "
                "class (from 0) or --import_keys label (from 1)"
            )
        maps = [_in_unit(array[[n for _, n in kept]]) for array in maps] if kept else []
        keys = np.array([key for key, _ in kept], dtype=np.int64)
        return {"keys": keys, **_in_both_sizes(maps, size)}


def _pngs(files: Sequence[MapFile]) -> dict[str, np.ndarray]:
    maps = {}
    for path, name in files:
        try:
            pixels = np.array(decode_image(path, ("PNG",), modes=("L", "I;16", "I", "1")))
        except (OSError, ValueError) as error:
            said = f"is not a grey PNG of one map ({error}); make it again"
            raise UserError(f"{path}: {said}") from None
        maps[name] = _in_unit(pixels.astype(np.uint16) if pixels.dtype.kind == "i" else pixels)
    return maps


def _from_classes(content: dict, info: DatasetInfo, present: Sequence[int], start: int) -> Found:
    """Maps of a dict of class (number or name) to map h x w, or 1 x h x w."""
    keys = []
    for name in content:
        number = not isinstance(name, str) or (name.isascii() and name.isdigit())
        keys.append(int(name) - start if number else class_index(name, info))
        if keys[-1] is None:
            problem = f"has {name!r:.40}, which is no class of {info.name} and no number"
            raise UserError(f"{problem}; give maps by class, or keys and maps")
    maps = [one[0] if one.ndim == 3 and len(one) == 1 else one for one in content.values()]
    shapes = {array.shape for array in maps}
    if len(shapes) > 1 or any(array.ndim != 2 for array in maps):
        raise UserError(f"has maps of shapes {sorted(shapes)[:3]}, not one height x width for all")
    return keys, [np.stack(maps)] if maps else []


def _from_keys(content: dict, info: DatasetInfo, present: Sequence[int], start: int) -> Found:
    """Maps of a dict of `keys` and maps K x h x w, or K + 1 where the background comes first."""
    keys, maps = content["keys"], [content[n] for n in _NAMES if n in content]
    if keys.size == 0:
        return [], []
    if keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise UserError(f"has keys of shape {keys.shape} and type {keys.dtype}, not whole numbers")
    keys, maps = keys.tolist(), [array for array in maps if array.ndim == 3]
    lengths = {len(array) for array in maps}
    if lengths == {len(keys) - 1} and keys[0] == 0:  # labels from 1, as of CLIMS and Puzzle-CAM
        keys, start = keys[1:], 1
    if lengths not in ({len(keys)}, {len(keys) + 1}):
        shapes = [array.shape for name, array in content.items() if name != "keys"]
        raise UserError(f"has {len(keys)} keys and arrays of {shapes[:4]}, not a map for each key")
    keys, maps = [key - start for key in keys], [array[-len(keys) :] for array in maps]
    if len(keys) > len(present) + 1 and set(keys) - {-1} == set(range(info.num_classes)):
        rows = [keys.index(index) for index in present]
        keys, maps = list(present), [array[rows] for array in maps]
    return keys, maps


def _from_channels(
    array: np.ndarray, info: DatasetInfo, size: tuple[int, int], present: Sequence[int],
    numbering: str,
) -> Found:  # fmt: skip
    """Maps of an array C x h x w or h x w x C of all or the image's classes, or with background."""
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
        kinds = f"neither for the {count} classes of {info.name} nor for the {own} of the image"
        raise UserError(f"is an array of {array.shape}: it has channels {kinds}")
    channels = len(ways[0])
    if numbering == "auto" and own and channels in plain and channels in behind:
        names = ", ".join(repr(info.class_names[index]) for index in present[:3])
        raise UserError(
            f"has {channels} channels: all {count} classes, or the background and those of its "
            f"image ({names})? say it: --import_keys class (the channels are the classes) or "
            "--import_keys label (the first one is the background)"
        )
    return present, [ways[0][list(rows[channels])]]


def _in_both_sizes(maps: Sequence[np.ndarray], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """cam and high_res of an image from its maps K x h x w in one or two sizes."""
    if not maps:
        return dict.fromkeys(("cam", "high_res"), np.zeros((0, 0, 0), np.float32))
    by_size = {array.shape[1:]: array for array in reversed(maps)}
    for height, width in by_size:
        said = f"has maps of {width}x{height} pixels"
        if not 0 < height * width <= MAX_PIXELS:
            raise UserError(said)
        if not _fits((height, width), size):
            fix = "they are of another image, or stretched; resize them to its proportions"
            raise UserError(f"{said}, which do not fit its image of {size[1]}x{size[0]}; {fix}")
    small = get_strided_size(size, CAM_STRIDE)
    largest = max(maps, key=lambda array: array.shape[1] * array.shape[2])
    if size not in by_size:
        aligned = largest.shape[1:] == small  # its positions stand for 4 x 4 pixels each
        whole = tuple(CAM_STRIDE * side for side in small) if aligned else size
        tensor = torch.from_numpy(np.ascontiguousarray(largest))[:, None]
        resized = F.interpolate(tensor, whole, mode="bilinear", align_corners=False)[:, 0]
        by_size[size] = resized.numpy()[:, : size[0], : size[1]]
    if small not in by_size:  # the last row and column are repeated beyond the image
        beyond = [(0, CAM_STRIDE * a - b) for a, b in zip(small, size, strict=True)]
        padded = np.pad(by_size[size], ((0, 0), *beyond), mode="edge")
        by_size[small] = F.avg_pool2d(torch.from_numpy(padded), CAM_STRIDE).numpy()
    return {"cam": by_size[small], "high_res": by_size[size]}


def _in_unit(maps: np.ndarray) -> np.ndarray:
    """Maps as float32 in 0..1; of 8 and 16 bits the largest value is 1, unless they are 0 and 1."""
    highest = maps.max(initial=0)
    if maps.dtype.kind == "u" and maps.dtype.itemsize <= 2 and highest > 1:
        return maps.astype(np.float32) / np.float32(np.iinfo(maps.dtype).max)
    maps = maps.astype(np.float32)
    if not np.isfinite(maps).all():
        raise UserError("has values that are not finite (NaN or infinite); make it again")
    low, high = maps.min(initial=0), maps.max(initial=0)
    if low < -1e-3 or high > 1 + 1e-3:
        fix = "cut maps at zero and divide each by its maximum before they are imported"
        raise UserError(f"has values from {low:.3g} to {high:.3g}, not in 0..1; {fix}")
    return maps


def _fits(shape: tuple[int, int], size: tuple[int, int]) -> bool:
    """Tell if a map shows an image of this size, shrunk or enlarged alike in both directions."""
    scale = ((shape[0] * shape[1]) / (size[0] * size[1])) ** 0.5
    return all(abs(a - b * scale) <= 1 for a, b in zip(shape, size, strict=True))  # 1: rounding
