"""The images of the HTML report, read from the files of a result folder."""

import json
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
from misc.report.pictures import Size, map_levels, photo_uri, reduced, reduced_labels, stack_uri

log = logging.getLogger(__name__)

TRUTH = "ground truth"
_NUMBERED = 255  # labels of an image that have numbers of their own


class MapFolder(NamedTuple):
    """A folder of maps, and the threshold at which they are cut."""

    title: str
    path: Path
    threshold: float


@dataclass(frozen=True)
class Sources:
    """Folders of maps, from the CAM on, and of label maps by title, the most important first."""

    info: DatasetInfo
    maps: tuple[MapFolder, ...]
    masks: dict[str, Path] = field(default_factory=dict)
    with_truth: bool = False

    @property
    def compared(self) -> str:
        """Title of what the ground truth is compared with: the first masks, or the last maps."""
        return next(iter((*self.masks, *(folder.title for folder in reversed(self.maps)))), "")


class Shown(NamedTuple):
    """An image of the report: JSON of its view, its classes, and the mean IoU of its labels."""

    image_id: str
    text: bytes
    keys: list[int]
    score: float | None


def embedded(content: object) -> str:
    """JSON that may stand in a script element, whatever names it has."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c")


def shown_images(
    sources: Sources, size: Size, image_ids: Sequence[str]
) -> tuple[list[Shown], np.ndarray | int]:
    """Return some images (those that can be read), and their confusion L x L, 0 without any."""
    shown, confusion = [], 0
    for image_id in image_ids:
        try:
            if (found := _shown_image(sources, size, image_id)) is not None:
                shown.append(found[0])
                confusion = confusion + found[1]
        except UserError as error:
            log.warning("left out of the report: %s", error)
    return shown, confusion


def _shown_image(
    sources: Sources, size: Size, image_id: str
) -> tuple[Shown, np.ndarray | int] | None:
    info = sources.info
    maps = {f.title: f.path / f"{image_id}.npy" for f in sources.maps}
    maps = {title: load_cam(path) for title, path in maps.items() if path.is_file()}
    files = {title: folder / f"{image_id}.png" for title, folder in sources.masks.items()}
    masks = {title: read_label_png(path) for title, path in files.items() if path.is_file()}
    if not maps and not masks:
        return None
    image = image_of(info, image_id)
    truth = mask_of(info, image_id) if info.mask_path(image_id).is_file() else None
    predictions = dict(masks)
    for folder in (folder for folder in reversed(sources.maps) if folder.title in maps):
        high_res, keys = maps[folder.title]["high_res"], maps[folder.title]["keys"]
        of_none = np.zeros(image.shape[:2], np.uint8)
        cut = label_map(high_res, keys, folder.threshold) if len(keys) else of_none
        predictions[folder.title] = cut
    score, confusion, ious = _scores(predictions, truth, info.num_labels)
    if next(iter(predictions)) != sources.compared:
        confusion = 0  # such as that of the network, on images that have no pseudo mask
    if truth is None and sources.with_truth:
        score = None  # how far masks agree is another number than how far they are right
    entry = {"id": image_id, "photo": photo_uri(image, size), "ious": ious}
    entry |= _map_layers(maps, reduced(image.shape[:2], size.maps))
    if not maps and truth is not None:
        entry["keys"] = [label - 1 for label in classes_in(truth)]
    shown = masks if truth is None else {**masks, TRUTH: truth}
    small = reduced(image.shape[:2], size.photo)
    layers = _mask_layers(sources, [reduced_labels(labels, small) for labels in shown.values()])
    entry["masks"] = {"titles": list(shown), "size": small, **layers}
    return Shown(image_id, embedded(entry).encode(), entry["keys"], score), confusion


def _mask_layers(sources: Sources, masks: list[np.ndarray]) -> dict:
    num_labels = sources.info.num_labels
    if label_type(num_labels) is np.uint8 or not masks:
        return {"src": stack_uri(masks)}
    wide = np.stack([of_type(mask, num_labels) for mask in masks])
    labels, counts = np.unique(wide, return_counts=True)
    kept = np.sort(labels[np.argsort(-counts, kind="stable")][:_NUMBERED])
    numbered = np.where(np.isin(wide, kept), np.searchsorted(kept, wide), len(kept))
    return {"src": stack_uri(list(numbered.astype(np.uint8))),
            "labels": [*kept.tolist(), ignored_value(wide)]}  # fmt: skip


def _scores(
    predictions: dict[str, np.ndarray], truth: np.ndarray | None, num_labels: int
) -> tuple[float | None, np.ndarray | int, dict[str, float | None]]:
    first, *others = predictions.values()
    if truth is None:
        agreement = [mean_iou(pseudo_mask_confusion(o, first, num_labels)) for o in others[:1]]
        return _number(*agreement) if agreement else None, 0, {}
    found = {t: pseudo_mask_confusion(truth, p, num_labels) for t, p in predictions.items()}
    ious = {title: _number(mean_iou(confusion)) for title, confusion in found.items()}
    return next(iter(ious.values())), next(iter(found.values())), ious


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _map_layers(maps: dict[str, dict], size: tuple[int, int]) -> dict:
    keys = sorted({int(key) for content in maps.values() for key in content["keys"]})
    levels = np.zeros((len(maps), len(keys), *size), np.uint8)
    for layer, content in zip(levels, maps.values(), strict=True):
        for key, one in zip(content["keys"], map_levels(content["cam"], size), strict=True):
            layer[keys.index(key)] = one
    stack = {"size": size, "src": stack_uri(list(levels.reshape(-1, *size)))}
    return {"keys": keys, "maps": {"layers": list(maps) if keys else [], **stack}}
