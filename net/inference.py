"""Maps and masks from Python, without options, folders or a run: arrays in, arrays out.

Images are H x W x 3 uint8 (RGB). Maps are dicts with `keys` (K,) int64, `cam` K x H/4 x W/4 and
`high_res` K x H x W, float32 in 0..1, as in the files that the steps write.
"""

import copy
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from misc.cams import label_map, merge_scales, pair_map
from misc.data.datasets import multi_scale_pairs, normalized, read_image, training_crop
from misc.data.folder.names import SUFFIXES
from misc.data.rib_batches import disjoint
from misc.errors import UserError
from misc.indexing import WalkSettings, walked_scores
from misc.rib import Batch, Maps, RIBSettings, fine_tune
from net.resnet50_cam import CAM
from net.resnet50_irn import EdgeDisplacement

Arrays = dict[str, np.ndarray]


def plain_maps(
    network: CAM, image: np.ndarray, scales: tuple[float, ...] = RIBSettings.scales
) -> Arrays:
    """Class activation maps of an image, of all classes of the classifier."""
    device = network.classifier.weight.device
    with torch.no_grad():
        maps = [pair_map(network(pair)) for pair in multi_scale_pairs(image, scales, None, device)]
    return merged(maps, image, torch.arange(len(maps[0])))


def rib_iterations(
    network: CAM,
    image: np.ndarray,
    label: np.ndarray,
    others: str | Path | list[Path] | Iterable[Batch],
    settings: RIBSettings | None = None,
    batch_size: int = 20,
    crop_size: int = 512,
) -> Iterator[Maps]:
    """Sums of the maps of an image after each iteration of RIB; `merged` makes arrays of them.

    label: multi-hot (C,), one class at least. others: a folder, or a list, of other photographs.
    Their labels are the classes to which the network gives a probability above one half; batches
    are drawn from those that share no class with the image; UserError where there is none. Or the
    batches themselves, one an iteration: normalised images B x 3 x S x S and labels B x C. The
    network is left as it was.
    """
    settings, device = settings or RIBSettings(), network.classifier.weight.device
    target = torch.from_numpy(np.asarray(label, dtype=np.float32)).to(device)
    pairs = multi_scale_pairs(image, settings.scales, device=device)
    if isinstance(others, str | Path):
        others = sorted(p for p in Path(others).iterdir() if p.suffix.lower() in SUFFIXES)
    if isinstance(others, list) and all(isinstance(path, str | Path) for path in others):
        batches = _other_batches(network, label, others, batch_size, crop_size)
    else:
        batches = ((images.to(device), labels.to(device)) for images, labels in others)
    for iteration in fine_tune(copy.deepcopy(network), pairs, target, batches, settings):
        yield iteration.map_sums


def rib_maps(network: CAM, image: np.ndarray, label: np.ndarray, *args, **options) -> Arrays:
    """RIB maps of an image, of the classes of its label; arguments as of `rib_iterations`."""
    *_, last = rib_iterations(network, image, label, *args, **options)
    return merged(last, image, torch.from_numpy(np.flatnonzero(label)))


def _other_batches(
    network: CAM, label: np.ndarray, others: list[Path], batch_size: int, crop_size: int
) -> Iterator[Batch]:
    """Batches without end: B x 3 x S x S and B x C, of photographs that share no class."""
    device, rng = network.classifier.weight.device, random.Random(0)
    found = [class_probabilities(network, read_image(Path(path))) > 0.5 for path in others]
    labels = torch.stack(found).float().cpu() if found else torch.zeros(0, len(label))
    rows = [row for row in disjoint(labels.numpy(), np.asarray(label)) if labels[row].any()]
    if not rows:
        raise UserError("no other photograph shows other classes alone; give more")
    long_range = (5 * crop_size // 8, 5 * crop_size // 4)  # 320 to 640 for crops of 512
    while True:
        drawn = [rng.choice(rows) for _ in range(batch_size)]
        images = (read_image(Path(others[row])) for row in drawn)
        crops = torch.stack([training_crop(i, long_range, crop_size, rng) for i in images])
        yield normalized(crops, device), labels[drawn].to(device)


@torch.no_grad()
def class_probabilities(network: CAM, image: np.ndarray) -> torch.Tensor:
    """Probability of each class (C,): the sigmoid of the averaged scores of an image."""
    (pair,) = multi_scale_pairs(image, (1.0,), device=network.classifier.weight.device)
    scores = network(pair)  # 2 x C x h x w, signed
    return torch.sigmoid(scores.mean(dim=(0, 2, 3)))


def merged(maps: Maps, image: np.ndarray, keys: torch.Tensor) -> Arrays:
    """Maps of all scales, C x h x w each, as the arrays of the classes `keys` of an image."""
    cam, high_res = merge_scales(maps, image.shape[:2], keys.to(maps[0].device))
    cam, high_res = (part.float().cpu().numpy() for part in (cam, high_res))
    return {"keys": keys.numpy(), "cam": cam, "high_res": high_res}


@torch.no_grad()
def boundaries(
    network: EdgeDisplacement, image: np.ndarray, pad_size: int = 512
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boundary map 1 x h4 x w4 in 0..1 and displacement field 2 x h4 x w4 of an image.

    pad_size: images are padded to it at the right and below, 0 for not.
    """
    # Padding would cut an image that is larger, and its maps would not fit.
    network.crop_size = pad_size if pad_size >= max(image.shape[:2]) else None
    (pair,) = multi_scale_pairs(image, (1.0,), device=next(network.parameters()).device)
    return network(pair)


@torch.no_grad()
def pseudo_mask(
    network: EdgeDisplacement,
    image: np.ndarray,
    maps: Arrays,
    settings: WalkSettings | None = None,
    pad_size: int = 512,
) -> np.ndarray:
    """Pseudo mask of an image, H x W: 0 background, class + 1 (IRN, Sec. 5).

    maps: `keys` and `cam`. pad_size: as in `boundaries`.
    """
    settings, keys = settings or WalkSettings(), maps["keys"]
    if len(keys) == 0:
        return np.zeros(image.shape[:2], dtype=np.uint8)
    edge, _ = boundaries(network, image, pad_size)
    cam = torch.from_numpy(maps["cam"]).to(edge.device)
    scores = walked_scores(cam, edge, image.shape[:2], settings)
    return label_map(scores.cpu().numpy(), keys, settings.background)
