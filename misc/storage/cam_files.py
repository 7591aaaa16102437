"""The dict files of the field: maps of an image, and image-level labels."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from misc.errors import UserError
from misc.storage.npydict import load_dict, save_dict
from misc.storage.outputs import is_own
from misc.storage.untrusted import MAX_PIXELS

CAM_FIX = "run make_cam or make_recam_with_RIB first or set --cam_out_dir"
_IMPORT_FIX = "maps of other programs, also as tensors, are read by --import_maps DIR"
LABEL_FIX = "make the label file again or check its path"

MAX_CLASSES = 65_534  # label = class + 1 of 16 bits, and 65535 means "ignored"
_SLACK = 1e-3  # beyond 0..1, of maps that others have made in half precision


def save_cam(path: str | Path, keys: np.ndarray, cam: np.ndarray, high_res: np.ndarray) -> None:
    """Writes the CAMs of one image; `load_cam` reads them.

    keys: (K,) 0-based classes, saved as int64. cam: K x h4 x w4 at stride 4 and high_res:
    K x H x W at full size, saved as float32. With K = 0 all three are saved empty.
    Raises ValueError for values that are not finite or lie outside of 0..1.
    """
    content = {
        "keys": np.ascontiguousarray(keys, dtype=np.int64),
        "cam": np.ascontiguousarray(cam, dtype=np.float32),
        "high_res": np.ascontiguousarray(high_res, dtype=np.float32),
    }
    _check_range(content)
    save_dict(path, content)


def load_cam(path: str | Path) -> dict[str, np.ndarray]:
    """Reads what `save_cam` wrote: `keys` (K,) int64, `cam` and `high_res` float32 in 0..1.

    An older file of an image without classes, which holds `keys` alone, gives 0 x 0 x 0 maps. No
    code in the file is run. Raises UserError when it is missing, broken or something else.
    """
    try:
        return _checked_cam(load_dict(path, CAM_FIX))
    except (UserError, ValueError) as error:
        said = error if isinstance(error, UserError) else f"{path} is not a CAM file ({error})"
        fix = _IMPORT_FIX if Path(path).is_file() and not is_own(Path(path)) else CAM_FIX
        raise UserError(f"{str(said).removesuffix(f'; {CAM_FIX}')}; {fix}") from error


def save_label_dict(path: str | Path, labels: dict[int, np.ndarray]) -> None:
    """Writes image-level labels: image number -> multi-hot vector (C,), saved as float32."""
    content = {int(image): np.array(row, dtype=np.float32) for image, row in labels.items()}
    save_dict(path, content)


def load_label_dict(path: str | Path) -> dict[int, np.ndarray]:
    """Reads what `save_label_dict` wrote: image number -> multi-hot vector (C,) float32.

    No code in the file is run. Raises UserError when it is missing, broken or something else.
    """
    content = load_dict(path, LABEL_FIX)
    try:
        labels = {_integer(image): _check(row, "biuf", 1) for image, row in content.items()}
        if len({row.size for row in labels.values()}) > 1:
            raise ValueError("vectors of different lengths")
    except ValueError as error:
        raise UserError(f"{path} is not a label file ({error}); {LABEL_FIX}") from error
    return {image: row.astype(np.float32) for image, row in labels.items()}


def _checked_cam(content: dict) -> dict[str, np.ndarray]:
    """The three arrays of a CAM file; ValueError says what does not fit."""
    if set(content) == {"keys"} and content["keys"].size == 0:
        content = dict.fromkeys(("keys", "cam", "high_res"), np.zeros(0))
    if set(content) != {"keys", "cam", "high_res"}:
        raise ValueError("it should hold keys, cam and high_res")
    if all(array.shape == (0,) for array in content.values()):
        no_maps = np.zeros((0, 0, 0), dtype=np.float32)
        return {"keys": np.zeros(0, dtype=np.int64), "cam": no_maps, "high_res": no_maps.copy()}
    keys = _check(content["keys"], "iu", 1)
    maps = {name: _check(content[name], "f", 3) for name in ("cam", "high_res")}
    if not len(keys) == len(maps["cam"]) == len(maps["high_res"]):
        counts = f"{len(maps['cam'])} and {len(maps['high_res'])}"
        raise ValueError(f"{len(keys)} keys, but {counts} maps")
    if len(np.unique(keys)) < len(keys) or ((keys < 0) | (keys >= MAX_CLASSES)).any():
        raise ValueError("keys are not different class indices")
    if any(math.prod(array.shape[1:]) > MAX_PIXELS for array in maps.values()):
        raise ValueError(f"maps of more than {MAX_PIXELS} pixels")  # also where there is no map
    _check_range(maps)
    floats = {name: array.astype(np.float32, copy=False) for name, array in maps.items()}
    return {"keys": keys.astype(np.int64), **floats}


def _check_range(content: Mapping[str, np.ndarray]) -> None:
    """ValueError unless the values of all maps are finite and in 0..1, up to a small slack."""
    for name in ("cam", "high_res"):
        values = content[name]
        # Written so that NaN, of which every comparison is false, does not pass.
        if values.size and not (values.min() >= -_SLACK and values.max() <= 1 + _SLACK):
            low, high = values.min(), values.max()
            raise ValueError(f"{name} has values from {low:.3g} to {high:.3g}, not in 0..1")


def _check(array: np.ndarray, kinds: str, ndim: int) -> np.ndarray:
    """The array itself; ValueError unless its type is one of `kinds` and it has `ndim` axes."""
    if array.dtype.kind not in kinds or array.ndim != ndim:
        raise ValueError(f"an entry is {array.ndim}-dimensional of {array.dtype}")
    return array


def _integer(value: object) -> int:
    if not isinstance(value, (int, np.integer)):
        raise ValueError(f"an image number is a {type(value).__name__}")
    return int(value)
