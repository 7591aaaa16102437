"""Torch datasets, once for every DatasetInfo: they find and decode; `misc.imutils` changes."""

import functools
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from misc import imutils
from misc.data.dataset_info import IMAGE_FORMATS, DatasetInfo
from misc.data.folder.photographs import fitted_mask, read_photograph
from misc.data.label_file import load_label_file
from misc.data.label_rows import LabelRows, load_label_rows
from misc.errors import UserError, counted, raise_problems
from misc.labels import ignored_value, read_label_png
from misc.storage.images import decode_image
from misc.torchutils import worker_rng


def image_of(info: DatasetInfo, image_id: str) -> np.ndarray:
    """The photograph of an image as all steps see it, H x W x 3 uint8; UserError as `read_image`.

    H, W are `info.image_size(image_id)`.
    """
    return read_image(info.image_path(image_id), info.photo_long)


def mask_of(info: DatasetInfo, image_id: str) -> np.ndarray:
    """Ground truth of an image as scores see it, H x W; UserError as `read_label_png`."""
    mask = read_label_png(info.mask_path(image_id))
    if info.photo_long is None:
        return mask
    return fitted_mask(mask, info.image_path(image_id), info.photo_long)


def mask_folders(info: DatasetInfo, image_ids: Iterable[str]) -> str:
    """Folders of the ground truth of some images, each with its number of images, for the log."""
    paths = [info.mask_path(image_id) for image_id in image_ids]
    counts = Counter(next(d for d in info.mask_dirs if p.is_relative_to(d)) for p in paths)
    return ", ".join(f"{folder} ({counted({'image': n})})" for folder, n in counts.items())


def read_image(path: Path, photo_long: int | None = None) -> np.ndarray:
    """An image file as H x W x 3 uint8 RGB; UserError naming the file where it cannot be read.

    photo_long: as in `DatasetInfo`; None takes a JPEG or PNG file as it is stored.
    """
    try:
        if photo_long is not None:
            return read_photograph(path, photo_long)
        image = decode_image(path, IMAGE_FORMATS)
        if image.mode != "RGB":
            image = image.convert("RGB")  # the first one is not kept beside it
        return np.asarray(image)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; check the list and the dataset root") from None
    except ValueError as error:
        raise UserError(f"{path}: cannot be decoded ({error}); get it again") from None


def load_labels(
    path: Path, image_ids: tuple[str, ...], info: DatasetInfo
) -> np.ndarray | LabelRows:
    """Multi-hot labels of the images, N x C float32, from a label file (`cls_labels.npy`).

    Those of many images and classes come as rows that are made when they are asked for. Raises
    UserError where an image has no label, or one of another number of classes.
    """
    if found := load_label_rows(path):
        return _rows_of_images(path, *found, image_ids, info)
    by_key = load_label_file(path, info)
    keys = [info.label_key(image_id) for image_id in image_ids]
    _require_all(path, (i for i, key in zip(image_ids, keys, strict=True) if key not in by_key))
    return np.stack([by_key[key] for key in keys])


def known_classes(
    path: Path, image_ids: Iterable[str], info: DatasetInfo
) -> dict[str, frozenset[int]]:
    """Indices of the classes of those images that a label file has; of none without one."""
    try:
        if found := load_label_rows(path):
            names, rows = found
            row_of = dict(zip(names, range(len(names)), strict=True))
            places = {i: row_of[i] for i in image_ids if i in row_of}
            return {i: frozenset(rows.classes_of(row).tolist()) for i, row in places.items()}
        by_key = load_label_file(path, info)
    except UserError:
        return {}
    labels = {i: by_key.get(info.label_key(i)) for i in image_ids}
    return {i: frozenset(v.nonzero()[0].tolist()) for i, v in labels.items() if v is not None}


def _rows_of_images(
    path: Path, names: list[str], rows: LabelRows, image_ids: tuple[str, ...], info: DatasetInfo
) -> LabelRows:
    if rows.num_classes != info.num_classes:
        raise UserError(f"{path}: has labels of {rows.num_classes} classes, {info.name} has "
                        f"{info.num_classes}; give the label file of this dataset")  # fmt: skip
    row_of = dict(zip(names, range(len(names)), strict=True))
    _require_all(path, (image_id for image_id in image_ids if image_id not in row_of))
    return rows.take([row_of[image_id] for image_id in image_ids])


def _require_all(path: Path, missing: Iterable[str]) -> None:
    """Raise UserError where any image is missing in a label file."""
    raise_problems(
        "label",
        [
            f"{path}: missing label for image {image_id}; give the label file of this dataset "
            f"with --cls_labels"
            for image_id in missing
        ],
    )


class Crops(NamedTuple):
    """Random views of images as they were decoded: a quarter of the bytes of normalised ones.

    pixels: B x S x S x 3 uint8; anything outside of the image.
    boxes: B x 4 integers: top, bottom, left and right of the image in its crop.
    """

    pixels: torch.Tensor
    boxes: torch.Tensor

    def to(
        self,
        device: torch.device | str,
        non_blocking: bool = False,
        at_once: bool | None = None,
    ) -> torch.Tensor:
        """The crops on a device, normalised, zero (the mean colour) outside: B x 3 x S x S.

        at_once: in few operations for all of them, which a GPU does where it is not said. A
        processor is 2.5 times faster image by image: it passes over what lies outside.
        """
        pixels = self.pixels.to(device, non_blocking=non_blocking)
        table = _normalized_on(pixels.device)
        if at_once if at_once is not None else pixels.device.type != "cpu":
            boxes = self.boxes.to(device, non_blocking=non_blocking)
            return _normalized_at_once(pixels, boxes, table)
        crops = torch.zeros(len(pixels), 3, *pixels.shape[1:3], device=device)
        for crop, image, (top, bottom, left, right) in zip(
            crops, pixels, self.boxes.tolist(), strict=True
        ):
            inside = image[top:bottom, left:right]
            for channel in range(3):  # several times faster on the CPU than one indexing for all
                indices = inside[..., channel].flatten().int()
                values = table[channel].index_select(0, indices)
                crop[channel, top:bottom, left:right] = values.view(inside.shape[:2])
        return crops


def _normalized_at_once(
    pixels: torch.Tensor, boxes: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    """B x S x S x 3 bytes, B x 4 boxes, 3 x 256 values -> B x 3 x S x S, zero outside the boxes.

    It lies in memory as the bytes do: channels last.
    """
    starts, places = _places_on(pixels.device, pixels.shape[1])
    values = table.flatten().index_select(0, (pixels + starts).flatten()).view(pixels.shape)
    first, end = boxes.view(-1, 2, 2, 1).unbind(dim=2)  # of rows and of columns, B x 2 x 1
    rows, columns = ((places < first) | (places >= end)).unbind(dim=1)
    values.masked_fill_((rows[:, :, None] | columns[:, None, :])[..., None], 0)
    return values.permute(0, 3, 1, 2)


@functools.lru_cache
def _places_on(device: torch.device, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each channel's values start in the table (3,), and 0 .. side - 1, on a device."""
    starts = torch.arange(0, imutils.NORMALIZED.size, 256, dtype=torch.int32, device=device)
    return starts, torch.arange(side, device=device)


@functools.lru_cache
def _normalized_on(device: torch.device) -> torch.Tensor:
    """The normalised value of every byte, 3 x 256, on a device: copied there once."""
    return torch.from_numpy(imutils.NORMALIZED).to(device)


def training_crop(
    image: np.ndarray, long_range: tuple[int, int], crop_size: int, rng
) -> torch.Tensor:
    """Random view of an image for the classifier (paper, implementation details).

    Longer side drawn from `long_range`, normalised, mirrored half of the time, cropped or padded
    with zeros (the mean colour) to crop_size. H x W x 3 uint8 -> 3 x crop_size x crop_size.
    """
    view, (top, bottom, left, right) = _training_view(image, long_range, crop_size, rng)
    crop = torch.zeros(3, crop_size, crop_size)
    crop[:, top:bottom, left:right] = torch.from_numpy(imutils.HWC_to_CHW(imutils.normalize(view)))
    return crop


def byte_crop(image: np.ndarray, long_range: tuple[int, int], crop_size: int, rng) -> Crops:
    """`training_crop` before it is normalised, a single one (no B)."""
    view, box = _training_view(image, long_range, crop_size, rng)
    top, bottom, left, right = box
    crop = torch.zeros(crop_size, crop_size, 3, dtype=torch.uint8)
    crop.numpy()[top:bottom, left:right] = view
    return Crops(crop, torch.tensor(box))


def _training_view(
    image: np.ndarray, long_range: tuple[int, int], crop_size: int, rng
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The part of an image that a random crop shows, h x w x 3, and its box in the crop."""
    size = imutils.rescaled(image.shape[:2], rng.randint(*long_range) / max(image.shape[:2]))
    image = imutils.pil_resize(image, size, order=3)
    image = image[:, ::-1] if rng.getrandbits(1) else image
    *box, top, bottom, left, right = imutils.get_random_crop_box(size, crop_size, rng)
    return image[top:bottom, left:right], tuple(box)


def multi_scale_pairs(
    image: np.ndarray, scales: tuple[float, ...], max_long: int | None = None
) -> list[torch.Tensor]:
    """The image and its mirror image at every scale: list of 2 x 3 x h x w, normalised.

    `max_long` shrinks larger images to this longer side first (both in one resampling).
    """
    shrink = min(1.0, max_long / max(image.shape[:2])) if max_long else 1.0
    views = (imutils.pil_rescale(image, scale * shrink, 3) for scale in scales)
    chw = (imutils.HWC_to_CHW(imutils.normalize(view)) for view in views)
    return [torch.from_numpy(np.stack([view, view[:, :, ::-1]])) for view in chw]


class EpochDataset(Dataset):
    """Images whose random draws depend on (seed, epoch, image id) alone."""

    def __init__(self, info: DatasetInfo, image_ids: tuple[str, ...], seed: int):
        self.info, self.image_ids, self.seed, self.epoch = info, image_ids, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the random draws of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.image_ids)

    def _draw(self, index: int, purpose: str) -> tuple[np.ndarray, random.Random]:
        """An image, and the generator of its draws in this epoch."""
        image_id = self.image_ids[index]
        rng = worker_rng(self.seed, purpose, self.epoch, image_id)
        return image_of(self.info, image_id), rng


class ClassificationDataset(EpochDataset):
    """Random crops with multi-hot labels: (3 x S x S float, C float32).

    The draw of an image depends on (seed, epoch, image id) alone; call `set_epoch` before each.
    as_bytes: gives `Crops`, which a GPU normalises to the same bits.
    """

    def __init__(
        self, info: DatasetInfo, image_ids, labels, long_range, crop_size, seed=0, as_bytes=False
    ):
        super().__init__(info, image_ids, seed)
        self.labels, self.long_range, self.crop_size = labels, long_range, crop_size
        self.crop = byte_crop if as_bytes else training_crop

    def __getitem__(self, index: int) -> tuple[torch.Tensor | Crops, torch.Tensor]:
        image, rng = self._draw(index, "classification")
        crop = self.crop(image, self.long_range, self.crop_size, rng)
        return crop, torch.from_numpy(self.labels[index])


class AffinityDataset(EpochDataset):
    """Random crops with confident labels for IRN: (3 x S x S float, S/4 x S/4 uint8).

    255 in the labels is "ignored"; labels of 16 bits are int32, with 65535. Image and label are
    scaled together by 0.5..1.5, mirrored and cropped; then the label is shrunk to stride 4 by
    its nearest pixel (IRN, Sec. 4.2).
    as_bytes: gives `Crops`, which a GPU normalises to the same bits.
    """

    def __init__(
        self, info: DatasetInfo, image_ids, label_dir: Path, crop_size: int, seed=0, as_bytes=False
    ):
        super().__init__(info, image_ids, seed)
        self.label_dir, self.crop_size, self.as_bytes = label_dir, crop_size, as_bytes

    def __getitem__(self, index: int) -> tuple[torch.Tensor | Crops, torch.Tensor]:
        image, rng = self._draw(index, "affinity")
        label = read_label_png(self.label_dir / f"{self.image_ids[index]}.png")
        image, label = imutils.random_scale((image, label), (0.5, 1.5), (3, 0), rng=rng)
        if not self.as_bytes:
            image = imutils.normalize(image)
        image, label = imutils.random_lr_flip((image, label), rng=rng)
        box = imutils.get_random_crop_box(label.shape, self.crop_size, rng)
        image, label = (
            imutils.cut(part, box, self.crop_size, outside)
            for part, outside in ((image, 0), (label, ignored_value(label)))
        )
        small = label_tensor(imutils.pil_rescale(label, 0.25, 0))
        if self.as_bytes:
            return Crops(torch.from_numpy(image), torch.tensor(box[:4])), small
        return torch.from_numpy(imutils.HWC_to_CHW(image)), small


def label_tensor(labels: np.ndarray) -> torch.Tensor:
    """A label map H x W as a tensor of its own: uint8, or int32 of 16 bits."""
    return torch.from_numpy(labels.astype(np.int32 if labels.dtype == np.uint16 else np.uint8))


class TopLeftDataset(Dataset):
    """Normalised images put on (or cut to) a square canvas from its top-left corner: 3 x S x S."""

    def __init__(self, info: DatasetInfo, image_ids: tuple[str, ...], canvas_size: int):
        self.info, self.image_ids, self.canvas_size = info, image_ids, canvas_size

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = image_of(self.info, self.image_ids[index])
        canvas = imutils.top_left_crop(imutils.normalize(image), self.canvas_size, 0)
        return torch.from_numpy(imutils.HWC_to_CHW(canvas))
