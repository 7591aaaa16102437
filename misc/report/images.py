"""What a page shows of one image, read from the files of a result folder."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misc.cams import label_map, load_cam
from misc.data.dataset_info import DatasetInfo
from misc.data.datasets import image_of, mask_of
from misc.errors import UserError
from misc.labels import classes_in, ignored_value, label_type, of_type, read_label_png
from misc.metrics import mean_iou, pseudo_mask_confusion
from misc.report.embedding import embedded
from misc.report.pictures import Size, map_levels, photo_uri, reduced, reduced_labels, stack_uri

log = logging.getLogger(__name__)

TRUTH = "ground truth"
_NUMBERED = 255  # labels of an image that have numbers of their own


class MapFolder(NamedTuple):
    """A folder of maps: what it is called, and the threshold at which it is cut."""

    title: str
    path: Path
    threshold: float


@dataclass(frozen=True)
class Sources:
    """Where the files of an image are; what is not there is left out.

    maps: from plain to refined. masks: folders of label maps by title, the most important one
    first. with_truth: whether any image has ground truth.
    """

    info: DatasetInfo
    maps: tuple[MapFolder, ...]
    masks: dict[str, Path] = field(default_factory=dict)
    with_truth: bool = False

    @property
    def compared(self) -> str:
        """What is compared with the truth first: the first masks, or else the most refined maps."""
        titles = (*self.masks, *(folder.title for folder in reversed(self.maps)))
        return titles[0] if titles else ""


class Shown(NamedTuple):
    """An image of the page.

    text: what its view needs, as JSON. keys: its classes, of the truth where it has no maps. score:
    mean IoU of its labels: of its first mask with the truth or, where no image has truth, with its
    next mask; None without either.
    """

    image_id: str
    text: bytes
    keys: list[int]
    score: float | None

    @property
    def length(self) -> int:
        """Bytes in the page."""
        return len(self.text)


def shown_images(
    sources: Sources, size: Size, image_ids: Sequence[str]
) -> tuple[list[Shown], np.ndarray | int]:
    """What the page has of some images, and their confusion L x L with the truth, 0 without any.

    Images of which nothing was made, and those that cannot be read, are left out.
    """
    shown, confusion = [], 0
    for image_id in image_ids:
        try:
            if (found := _shown_image(sources, size, image_id)) is not None:
                shown.append(found[0])
                confusion = confusion + found[1]
        except UserError as error:
            log.warning("left out of the page: %s", error)
    return shown, confusion


def _shown_image(
    sources: Sources, size: Size, image_id: str
) -> tuple[Shown, np.ndarray | int] | None:
    maps = {f.title: f.path / f"{image_id}.npy" for f in sources.maps}
    maps = {title: load_cam(path) for title, path in maps.items() if path.is_file()}
    files = {title: folder / f"{image_id}.png" for title, folder in sources.masks.items()}
    masks = {title: read_label_png(path) for title, path in files.items() if path.is_file()}
    if not maps and not masks:
        return None
    image = image_of(sources.info, image_id)
    has_truth = sources.info.mask_path(image_id).is_file()
    truth = mask_of(sources.info, image_id) if has_truth else None
    predictions = _predictions(sources, maps, masks, image.shape[:2])
    score, confusion, ious = _scores(predictions, truth, sources.info.num_labels)
    if next(iter(predictions)) != sources.compared:
        confusion = 0  # such as that of the network, on images that have no pseudo mask
    if truth is None and sources.with_truth:
        score = None  # how far masks agree is another number than how far they are right
    entry = {"id": image_id, "photo": photo_uri(image, size), "ious": ious}
    entry |= _map_layers(maps, reduced(image.shape[:2], size.maps))
    if not maps and truth is not None:
        entry["keys"] = [label - 1 for label in classes_in(truth)]
    shown = {**masks, **({} if truth is None else {TRUTH: truth})}
    small = reduced(image.shape[:2], size.photo)
    entry["masks"] = {
        "titles": list(shown),
        "size": small,
        **_mask_layers(sources, [reduced_labels(labels, small) for labels in shown.values()]),
    }
    return Shown(image_id, embedded(entry).encode(), entry["keys"], score), confusion


def _mask_layers(sources: Sources, masks: list[np.ndarray]) -> dict:
    """Label maps of an image as layers of 8 bits.

    Labels of 16 bits are numbered: `labels` has what the numbers stand for. Where an image has more
    than 256 the rarest are shown as ignored.
    """
    num_labels = sources.info.num_labels
    if label_type(num_labels) is np.uint8 or not masks:
        return {"src": stack_uri(masks)}
    wide = np.stack([of_type(mask, num_labels) for mask in masks])
    labels, counts = np.unique(wide, return_counts=True)
    kept = np.sort(labels[np.argsort(-counts, kind="stable")][:_NUMBERED])
    numbered = np.searchsorted(kept, wide)
    last = len(kept)
    numbered[~np.isin(wide, kept)] = last
    return {"src": stack_uri(list(numbered.astype(np.uint8))),
            "labels": [*kept.tolist(), ignored_value(wide)]}  # fmt: skip


def _predictions(
    sources: Sources, maps: dict[str, dict], masks: dict[str, np.ndarray], size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Label maps H x W of an image: its masks, then its maps cut at their thresholds."""
    predictions = dict(masks)
    for folder in reversed(sources.maps):
        if folder.title in maps:
            content = maps[folder.title]
            if len(content["keys"]) == 0:
                predictions[folder.title] = np.zeros(size, np.uint8)
            else:
                predictions[folder.title] = label_map(
                    content["high_res"], content["keys"], folder.threshold
                )
    return predictions


def _scores(
    predictions: dict[str, np.ndarray], truth: np.ndarray | None, num_labels: int
) -> tuple[float | None, np.ndarray | int, dict[str, float | None]]:
    """Score of an image, confusion of its first prediction, and IoU of every prediction."""
    first, *others = predictions.values()
    if truth is None:
        if not others:
            return None, 0, {}
        both = pseudo_mask_confusion(others[0], first, num_labels)
        return _number(mean_iou(both)), 0, {}
    of_first = pseudo_mask_confusion(truth, first, num_labels)
    ious = {
        title: _number(mean_iou(pseudo_mask_confusion(truth, prediction, num_labels)))
        for title, prediction in predictions.items()
    }
    return next(iter(ious.values())), of_first, ious


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _map_layers(maps: dict[str, dict], size: tuple[int, int]) -> dict:
    """Classes of an image and its maps, a layer for each folder of maps."""
    keys = sorted({int(key) for content in maps.values() for key in content["keys"]})
    stacked = [_levels_of(content, keys, size) for content in maps.values()] if keys else []
    return {
        "keys": keys,
        "maps": {
            "layers": list(maps) if keys else [],
            "size": size,
            "src": stack_uri([one for levels in stacked for one in levels]),
        },
    }


def _levels_of(content: dict, keys: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Levels of the maps of some classes, K x h x w; zero where the file has none."""
    levels = np.zeros((len(keys), *size), np.uint8)
    for number, one in zip(content["keys"].tolist(), map_levels(content["cam"], size), strict=True):
        levels[keys.index(number)] = one
    return levels
