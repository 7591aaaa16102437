"""Class activation maps: merging their scales, deciding labels, and the files between the steps."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from misc.errors import UserError
from misc.imutils import get_strided_size, get_strided_up_size
from misc.storage.npydict import load_dict, save_dict
from misc.storage.untrusted import MAX_PIXELS

CAM_FIX = "run make_cam or make_recam_with_RIB first or set --cam_out_dir"
LABEL_FIX = "make the label file again or check its path"

CAM_STRIDE = 4  # pixels per position of the map that the random walk starts from
NETWORK_STRIDE = 16
_SLACK = 1e-3  # beyond 0..1, of maps that others have made in half precision
MAX_CLASSES = 254  # label = class + 1, and 255 means "ignore"


def pair_map(raw: torch.Tensor) -> torch.Tensor:
    """CAM of an image and its mirror image together, 2 x C x h x w raw scores -> C x h x w.

    The second map is mirrored back; each is cut at zero before they are added.
    """
    image, mirrored = F.relu(raw)
    return image + mirrored.flip(-1)


def merge_scales(
    maps: Sequence[torch.Tensor], size: tuple[int, int], keys: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Adds the CAMs of all scales, in two resolutions, and normalises each class (IRN, Sec. 3).

    maps: for every scale C x h x w (any h, w). size: H, W of the image. keys: (K,) its classes.
    Returns `cam`, K x ceil(H/4) x ceil(W/4), and `high_res`, K x H x W, both in 0..1.
    """
    own_maps = [scale_map[keys] for scale_map in maps]  # before resizing: the others are dropped
    cam = _resized_sum(own_maps, get_strided_size(size, CAM_STRIDE))
    high_res = _resized_sum(own_maps, get_strided_up_size(size, NETWORK_STRIDE))
    return _peak_to_one(cam), _peak_to_one(high_res[:, : size[0], : size[1]])


def strongest_class(cams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K x H x W (K > 0) -> index of the largest map at every pixel, H x W int64, and its value.

    The first of equal maps wins.
    """
    # An image has few classes, and numpy's argmax over the first axis takes far longer than this.
    score = cams[0].copy()
    strongest = np.zeros(cams.shape[1:], dtype=np.intp)
    for index, cam in enumerate(cams[1:], start=1):
        higher = cam > score
        strongest[higher] = index
        np.maximum(score, cam, out=score)
    return strongest, score


def label_map(cams: np.ndarray, keys: np.ndarray, threshold: float) -> np.ndarray:
    """Label of every pixel: the strongest class where above the threshold, else background.

    cams: K x H x W float32. keys: (K,) 0-based classes. Returns H x W uint8, 0 for background and
    class + 1 otherwise. The comparison is made in float32 and a tie goes to the background.
    """
    if len(keys) == 0:
        return np.zeros(cams.shape[1:], dtype=np.uint8)
    strongest, score = strongest_class(cams)
    labels = (np.asarray(keys) + 1).astype(np.uint8)[strongest]
    labels[score <= np.float32(threshold)] = 0
    return labels


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
    content = load_dict(path, CAM_FIX)
    try:
        return _checked_cam(content)
    except ValueError as error:
        raise UserError(f"{path} is not a CAM file ({error}); {CAM_FIX}") from error


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


def _resized_sum(maps: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """Sum of K x h x w maps, each resized bilinearly to `size`."""
    # The classes are the batch here, which may be empty while a channel dimension may not.
    return sum(
        F.interpolate(scale_map[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        for scale_map in maps
    )


def _peak_to_one(maps: torch.Tensor) -> torch.Tensor:
    return maps / (maps.amax(dim=(1, 2), keepdim=True) + 1e-5)


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
