"""Torch datasets, once for every DatasetInfo: they find and decode; `misc.imutils` changes."""

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from misc import imutils
from misc.data.dataset_info import IMAGE_FORMATS, DatasetInfo
from misc.data.folder.photographs import fitted_mask, read_photograph
from misc.data.label_file import Labels
from misc.errors import UserError, counted
from misc.labels import ignored_value, read_label_png
from misc.storage.images import decode_image
from misc.torchutils import worker_rng

OUTSIDE = 256  # in the place of bytes: pixels of a crop beyond its image
_VALUES = torch.from_numpy(np.pad(imutils.NORMALIZED, ((0, 0), (0, 1))))  # normalised, 3 x 257


def image_of(info: DatasetInfo, image_id: str) -> np.ndarray:
    """The photograph of an image as steps see it, H x W x 3 uint8; UserError as `read_image`."""
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
        return decode_image(path, IMAGE_FORMATS, mode="RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; check the list and the dataset root") from None
    except ValueError as error:
        raise UserError(f"{path}: cannot be decoded ({error}); get it again") from None


def training_crop(
    image: np.ndarray, long_range: tuple[int, int], crop_size: int, rng: random.Random
) -> torch.Tensor:
    """Random view of an image for the classifier (paper, implementation details).

    Longer side drawn from `long_range`, mirrored half of the time, cropped or padded with OUTSIDE.
    H x W x 3 uint8 -> S x S x 3 int16, which `normalized` takes.
    """
    image = imutils.random_lr_flip(imutils.random_resize_long(image, *long_range, rng), rng)
    return torch.from_numpy(imutils.random_crop(image.astype(np.int16), crop_size, OUTSIDE, rng))


def normalized(crops: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Bytes, or int16 with OUTSIDE (made 0), B x H x W x 3 -> B x 3 x H x W float on a device."""
    crops, values = crops.to(device, non_blocking=True), _VALUES.to(device)
    on_cpu, size = crops.device.type == "cpu", (len(crops), 3, *crops.shape[1:3])
    layout = torch.contiguous_format if on_cpu else torch.channels_last
    planes = torch.empty(size, device=device, memory_format=layout)
    each = 1 if on_cpu else len(crops)  # one image stays in the cache of a CPU
    for part, pixels in zip(planes.split(each), crops.split(each), strict=True):
        for channel in range(3):
            index = pixels[..., channel].flatten().int()
            part[:, channel] = values[channel].index_select(0, index).view(pixels.shape[:3])
    return planes


def multi_scale_pairs(
    image: np.ndarray, scales: tuple[float, ...], max_long: int | None = None, device="cpu"
) -> list[torch.Tensor]:
    """The image and its mirror image at every scale: list of 2 x 3 x h x w, normalised.

    `max_long` shrinks larger images to this longer side first (both in one resampling).
    """
    shrink = min(1.0, max_long / max(image.shape[:2])) if max_long else 1.0
    views = [imutils.pil_rescale(image, scale * shrink, 3) for scale in scales]
    planes = [normalized(torch.tensor(view)[None], device) for view in views]
    return [torch.cat([view, view.flip(-1)]) for view in planes]


class EpochDataset(Dataset):
    """Images whose random draws depend on (seed, epoch, image id) alone."""

    def __init__(self, info: DatasetInfo, image_ids: tuple[str, ...], seed: int):
        self.info, self.image_ids, self.seed, self.epoch = info, image_ids, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.image_ids)

    def _draw(self, index: int, purpose: str) -> tuple[np.ndarray, random.Random]:
        image_id = self.image_ids[index]
        rng = worker_rng(self.seed, purpose, self.epoch, image_id)
        return image_of(self.info, image_id), rng


class ClassificationDataset(EpochDataset):
    """Random crops with multi-hot labels: (S x S x 3 int16 of `training_crop`, C float32)."""

    def __init__(self, info: DatasetInfo, labels: Labels, long_range, crop_size: int, seed=0):
        super().__init__(info, tuple(labels), seed)
        self.labels, self.long_range, self.crop_size = labels, long_range, crop_size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, rng = self._draw(index, "classification")
        crop = training_crop(image, self.long_range, self.crop_size, rng)
        return crop, torch.from_numpy(self.labels[self.image_ids[index]])


class AffinityDataset(EpochDataset):
    """Random crops with IRN training labels: (S x S x 3 int16, S/4 x S/4 uint8).

    255 in the labels is "ignored"; labels of 16 bits are int32, with 65535. Both are scaled by
    0.5..1.5, mirrored and cropped; labels then shrink to stride 4 (IRN, Sec. 4.2).
    """

    def __init__(self, info: DatasetInfo, image_ids, label_dir: Path, crop_size: int, seed=0):
        super().__init__(info, image_ids, seed)
        self.label_dir, self.crop_size = label_dir, crop_size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, rng = self._draw(index, "affinity")
        label = read_label_png(self.label_dir / f"{self.image_ids[index]}.png")
        pair = imutils.random_scale((image, label), (0.5, 1.5), (3, 0), rng)
        image, label = imutils.random_lr_flip(pair, rng)
        pair, outside = (image.astype(np.int16), label), (OUTSIDE, ignored_value(label))
        image, label = imutils.random_crop(pair, self.crop_size, outside, rng)
        return torch.from_numpy(image), label_tensor(imutils.pil_rescale(label, 0.25, 0))


def label_tensor(labels: np.ndarray) -> torch.Tensor:
    """A label map H x W as a tensor of its own: uint8, or int32 of 16 bits."""
    return torch.from_numpy(labels.astype(np.int32 if labels.dtype == np.uint16 else np.uint8))


class TopLeftDataset(Dataset):
    """Images put on (or cut to) a square canvas from its top-left corner: S x S x 3 int16."""

    def __init__(self, info: DatasetInfo, image_ids: tuple[str, ...], canvas_size: int):
        self.info, self.image_ids, self.canvas_size = info, image_ids, canvas_size

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = image_of(self.info, self.image_ids[index]).astype(np.int16)
        return torch.from_numpy(imutils.top_left_crop(image, self.canvas_size, OUTSIDE))
