"""Class activation maps: merging their scales, and deciding labels."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from misc.imutils import get_strided_size, get_strided_up_size
from misc.labels import label_type
from misc.storage.cam_files import load_cam, save_cam  # noqa: F401 - users look for them here

CAM_STRIDE = 4  # pixels per position of the map that the random walk starts from
NETWORK_STRIDE = 16


def pair_map(raw: torch.Tensor) -> torch.Tensor:
    """CAM of an image and its mirror image together, 2 x C x h x w raw scores -> C x h x w.

    The second map is mirrored back; each is cut at zero before they are added.
    """
    image, mirrored = F.relu(raw)
    return image + mirrored.flip(-1)


def merge_scales(
    maps: Sequence[torch.Tensor], size: tuple[int, int], keys: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the CAMs of all scales, in two resolutions, and normalise each class (IRN, Sec. 3).

    maps: for every scale C x h x w (any h, w). size: H, W of the image. keys: (K,) its classes.
    Returns `cam`, K x ceil(H/4) x ceil(W/4), and `high_res`, K x H x W, both in 0..1.
    """
    own_maps = [scale_map[keys] for scale_map in maps]  # before resizing: the others are dropped
    cam = _resized_sum(own_maps, get_strided_size(size, CAM_STRIDE))
    high_res = _resized_sum(own_maps, get_strided_up_size(size, NETWORK_STRIDE))
    both = (cam, high_res[:, : size[0], : size[1]])
    return tuple(m / (m.amax(dim=(1, 2), keepdim=True) + 1e-5) for m in both)


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


def key_labels(keys: np.ndarray) -> np.ndarray:
    """The labels of background and of some classes, (K + 1,), of the type of their label maps."""
    labels = np.concatenate([[0], np.asarray(keys) + 1])
    return labels.astype(label_type(int(labels.max()) + 1))


def label_map(cams: np.ndarray, keys: np.ndarray, threshold: float) -> np.ndarray:
    """Label of every pixel: the strongest class where above the threshold, else background.

    cams: K x H x W float32. keys: (K,) 0-based classes. Returns H x W, 0 for background and
    class + 1 otherwise, uint8 where they fit and uint16 otherwise. The comparison is made in
    float32 and a tie goes to the background.
    """
    if len(keys) == 0:
        return np.zeros(cams.shape[1:], dtype=np.uint8)
    strongest, score = strongest_class(cams)
    labels = key_labels(keys)[1:][strongest]
    labels[score <= np.float32(threshold)] = 0
    return labels


def _resized_sum(maps: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """Sum of K x h x w maps, each resized bilinearly to `size`."""
    # The classes are the batch here, which may be empty while a channel dimension may not.
    return sum(
        F.interpolate(scale_map[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        for scale_map in maps
    )
