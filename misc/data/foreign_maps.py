"""Maps as other programs save them, turned into this project's CAMs.

Numbers of classes are those of `--import_keys`: "class" counts from 0, as keys do here; "label"
counts from 1, as masks do, and 0 is the background, which is left out.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from misc.cams import CAM_STRIDE
from misc.data.dataset_info import DatasetInfo
from misc.data.foreign_tree import MapFile, class_index
from misc.errors import UserError, about
from misc.imutils import get_strided_size
from misc.storage.images import MAX_PIXELS, decode_image
from misc.storage.torch_files import read_arrays

_NUMBERINGS = ("class", "label")
# What the maps at full size are called in a dict with keys: by IRN, CLIP-ES, CLIMS and Puzzle-CAM,
# the export of this project, the predictions of its segmentation network.
_FULL_SIZE = ("high_res", "attn_highres", "highres", "hr_cam", "maps")
_SMALL = "cam"
_MAPS_IN_FULL = 512 << 20  # bytes


class ForeignMaps(NamedTuple):
    """Maps of an image as they were found.

    numbers: (K,) classes. known: they are indices from 0, whatever --import_keys says. maps: arrays
    K x h x w of the same maps in one or two sizes.
    """

    numbers: tuple[int, ...]
    known: bool
    maps: tuple[np.ndarray, ...]


class UnclearChannelsError(UserError):
    """The channels of an array may be all classes, or the background and those of its image."""


def read_maps(
    files: Sequence[MapFile],
    info: DatasetInfo,
    size: tuple[int, int],
    present: Sequence[int],
    numbering: str = "auto",
) -> ForeignMaps:
    """The maps of an image from its file, or from those of its classes; UserError names the file.

    size: (height, width) of the image. present: indices of its classes, which say what the channels
    of an array without keys are. numbering: --import_keys, which says whether the first channel is
    the background where that is open; "auto" raises UnclearChannelsError there.
    """
    if files[0].name:
        return _from_pngs(files, info)
    path = files[0].path
    # Three arrays of all classes and a background, or of photographs before they were shrunk.
    arrays = 3 * 8 * (info.num_classes + 1) * size[0] * size[1]
    content = read_arrays(path, max(arrays, _MAPS_IN_FULL))
    with about(path):
        if isinstance(content, dict) and len(content) == 1:
            name, only = next(iter(content.items()))
            if only.ndim > 2 and not _is_class(name, info):
                content = only  # a .npz of one array
        if isinstance(content, np.ndarray):
            return _from_channels(content, info, size, present, numbering)
        if "keys" in content:
            return _from_keys(content, info, present)
        if "probabilities" in content:
            return _from_channels(content["probabilities"], info, size, present, "label")
        return _from_classes(content, info)


def converted(
    found: ForeignMaps, numbering: str, info: DatasetInfo, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """What `save_cam` takes: keys (K,) ascending, cam and high_res in 0..1; UserError without name.

    Maps that have the sizes of a CAM file stay as they are. Others are resized: `high_res` from the
    largest ones, and `cam` to the mean of its 4 x 4 pixels.
    """
    keys = classes_of(found, numbering)
    kept = sorted((key, n) for n, key in enumerate(keys) if key >= 0)
    keys = np.array([key for key, _ in kept], dtype=np.int64)
    if len(set(keys.tolist())) < len(keys) or (keys >= info.num_classes).any():
        raise UserError(
            f"has the classes {sorted(found.numbers)[:6]}, which are not different ones of "
            f"{info.num_classes}; say how they are numbered: --import_keys class or label"
        )
    if not kept:
        none = np.zeros((0, 0, 0), np.float32)
        return {"keys": keys, "cam": none, "high_res": none}
    rows = [n for _, n in kept]
    maps = [_shares(array[rows]) for array in found.maps]
    for array in maps:
        _require_fitting(array.shape[1:], size)
    return {"keys": keys, **_in_both_sizes(maps, size)}


def classes_of(found: ForeignMaps, numbering: str) -> tuple[int, ...]:
    """Indices from 0 of the classes under a numbering; the background is -1."""
    shift = 0 if found.known or numbering == "class" else 1
    return tuple(number - shift for number in found.numbers)


def numbering_of(images: Iterable[tuple[ForeignMaps, Sequence[int]]], where: str) -> str:
    """The numbering under which the classes of every image are among its labels.

    images: maps and indices of the classes. where: for messages. Raises UserError where both
    numberings fit, or none.
    """
    asked = [(found, set(present)) for found, present in images if not found.known]
    if not any(found.numbers for found, _ in asked):
        return "class"
    fitting, equal = {}, {}
    for numbering in _NUMBERINGS:
        own = [({k for k in classes_of(f, numbering) if k >= 0}, p) for f, p in asked]
        lowest = [min(classes_of(f, numbering), default=0) for f, _ in asked]
        start = 0 if numbering == "class" else -1
        low = [value >= start for value in lowest]
        fitting[numbering] = sum(k <= p and ok for (k, p), ok in zip(own, low, strict=True))
        equal[numbering] = sum(k == p and ok for (k, p), ok in zip(own, low, strict=True))
    for counts in (fitting, equal):
        whole = [numbering for numbering in _NUMBERINGS if counts[numbering] == len(asked)]
        if len(whole) == 1:
            return whole[0]
    raise UserError(
        f"{where}: how its classes are numbered cannot be told: from 0 they are among the labels "
        f"of {fitting['class']} of {len(asked)} images, from 1 (0 being the background) of "
        f"{fitting['label']}; say it: --import_keys class (from 0) or --import_keys label (from 1)"
    )


def _is_class(name: object, info: DatasetInfo) -> bool:
    if isinstance(name, (int, np.integer)):
        return True
    return isinstance(name, str) and (name.isdigit() or class_index(name, info) is not None)


def _from_pngs(files: Sequence[MapFile], info: DatasetInfo) -> ForeignMaps:
    maps = []
    for file in files:
        try:
            image = decode_image(file.path, ("PNG",), modes=("L", "I;16", "I", "1"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{file.path}: is not a grey PNG of one map ({error}); make it again"
            ) from None
        pixels = np.array(image)
        maps.append(pixels.astype(np.uint16) if pixels.dtype.kind == "i" else pixels)
        if maps[-1].shape != maps[0].shape:
            raise UserError(f"{file.path}: has another size than {files[0].path.name}")
    numbers, known = _numbers([file.name for file in files], info)
    shares = np.stack([_shares(one) for one in maps])
    return ForeignMaps(numbers, known, (shares,))


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


def _from_classes(content: dict, info: DatasetInfo) -> ForeignMaps:
    """A dict of class to map h x w."""
    numbers, known = _numbers(list(content), info)
    maps = [
        array[0] if array.ndim == 3 and len(array) == 1 else array for array in content.values()
    ]
    shapes = {array.shape for array in maps}
    if len(shapes) > 1 or any(array.ndim != 2 for array in maps):
        raise UserError(f"has maps of shapes {sorted(shapes)[:3]}, not one height x width for all")
    return ForeignMaps(numbers, known, (np.stack(maps),) if maps else ())


def _from_keys(content: dict, info: DatasetInfo, present: Sequence[int]) -> ForeignMaps:
    """A dict of `keys` and maps K x h x w, or K + 1 where the background comes first.

    With K + 1 keys, the first one 0, the keys are labels from 1 (CLIMS, Puzzle-CAM).
    """
    keys = content["keys"]
    if keys.size == 0:
        return ForeignMaps((), False, ())
    if keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise UserError(f"has keys of shape {keys.shape} and type {keys.dtype}, not whole numbers")
    maps = [array for array in content.values() if array.ndim == 3]
    named = [content[n] for n in (*_FULL_SIZE, _SMALL) if n in content and content[n].ndim == 3]
    maps = named or maps
    lengths = {len(array) for array in maps}
    labels = lengths == {len(keys) - 1} and keys[0] == 0 and (keys[1:] > 0).all()
    if labels:
        keys = keys[1:] - 1
    if not maps or len(lengths) > 1 or not lengths <= {len(keys), len(keys) + 1}:
        shapes = [content[name].shape for name in content if name != "keys"]
        raise UserError(f"has {len(keys)} keys and arrays of {shapes[:4]}, not a map for each key")
    if lengths == {len(keys) + 1}:
        maps = [array[1:] for array in maps]
    found = ForeignMaps(tuple(keys.tolist()), bool(labels), tuple(maps))
    return _of_own_classes(found, info, present)


def _of_own_classes(found: ForeignMaps, info: DatasetInfo, present: Sequence[int]) -> ForeignMaps:
    """Maps of the image's own classes, where a file has those of all classes there are."""
    numbers, maps, count = found.numbers, found.maps, info.num_classes
    first = {frozenset(range(count)): 0, frozenset(range(1, count + 1)): 1}
    start = 1 if set(numbers) == set(range(count + 1)) else first.get(frozenset(numbers))
    if len(numbers) <= len(present) + 1 or start is None:
        return found
    rows = [numbers.index(index + start) for index in present]
    return ForeignMaps(tuple(present), True, tuple(array[rows] for array in maps))


def _from_channels(
    array: np.ndarray,
    info: DatasetInfo,
    size: tuple[int, int],
    present: Sequence[int],
    numbering: str,
) -> ForeignMaps:
    """An array C x h x w or h x w x C of all classes or the image's, also with a background."""
    count, own = info.num_classes, len(present)
    # The rows of the image's classes by the number of channels, without and with a background.
    plain = {own: range(own), count: present}
    behind = {own + 1: range(1, own + 1), count + 1: [p + 1 for p in present]}
    meanings = {**plain, **behind} if numbering == "label" else {**behind, **plain}
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.ndim != 3 or array.size == 0:
        raise UserError(f"is an array of {array.shape}, not maps of classes (C x H x W)")
    ways = [array] if len(array) in meanings else []
    ways += [np.moveaxis(array, -1, 0)] if array.shape[-1] in meanings else []
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
        raise UnclearChannelsError(
            f"has {channels} channels: all {count} classes, or the background and those of its "
            f"image ({names})? say it: --import_keys class (the channels are the classes) or "
            "--import_keys label (the first one is the background)"
        )
    rows = list(meanings[channels])
    return ForeignMaps(tuple(int(index) for index in present), True, (ways[0][rows],))


def _shares(maps: np.ndarray) -> np.ndarray:
    """Maps as float32 in 0..1; UserError where they are not finite or lie outside.

    Those of 8 and 16 bits are shares of the largest value, unless they are 0 and 1 alone.
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
    """Whether a map shows an image of this size, shrunk or enlarged alike in both directions."""
    # A side may be rounded up or down, or be padded to the stride of a network.
    scale = ((shape[0] * shape[1]) / (size[0] * size[1])) ** 0.5
    return all(abs(a - b * scale) <= 1 for a, b in zip(shape, size, strict=True))


def _require_fitting(shape: tuple[int, int], size: tuple[int, int]) -> None:
    height, width = shape
    if not 0 < height * width <= MAX_PIXELS:
        raise UserError(f"has maps of {width}x{height} pixels")
    if not _fits(shape, size):
        raise UserError(
            f"has maps of {width}x{height}, which do not fit its image of {size[1]}x{size[0]}; "
            "they are of another image, or stretched; resize them to their image's proportions"
        )


def _in_both_sizes(maps: Sequence[np.ndarray], size: tuple[int, int]) -> dict[str, np.ndarray]:
    small = get_strided_size(size, CAM_STRIDE)
    by_shape = {array.shape[1:]: array for array in maps}
    largest = max(maps, key=lambda array: array.shape[1] * array.shape[2])
    high_res, cam = by_shape.get(size), by_shape.get(small)
    if high_res is None:
        aligned = largest.shape[1:] == small  # its positions stand for 4 x 4 pixels each
        whole = tuple(CAM_STRIDE * side for side in small) if aligned else size
        high_res = _resized(largest, whole)[:, : size[0], : size[1]]
    if cam is None:
        cam = _means(high_res, small)
    return {"cam": cam, "high_res": high_res}


def _resized(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(maps))[:, None]
    return F.interpolate(tensor, size, mode="bilinear", align_corners=False)[:, 0].numpy()


def _means(maps: np.ndarray, small: tuple[int, int]) -> np.ndarray:
    """Means of 4 x 4 pixels, the last row and column being repeated beyond the image."""
    missing = [CAM_STRIDE * a - b for a, b in zip(small, maps.shape[1:], strict=True)]
    padded = np.pad(maps, ((0, 0), (0, missing[0]), (0, missing[1])), mode="edge")
    return F.avg_pool2d(torch.from_numpy(np.ascontiguousarray(padded)), CAM_STRIDE).numpy()
