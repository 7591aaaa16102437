"""Training images of the segmentation network: image and label map scaled, cropped, mirrored."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from misc.data.dataset_info import DatasetInfo
from misc.data.datasets import EpochDataset, label_tensor
from misc.imutils import pil_resize
from misc.labels import ignored_value, read_label_png


@dataclass(frozen=True)
class SegCrop:
    """The changes of a training image."""

    size: int  # of the square crop
    mean: Sequence[float]  # colour that pads, in the order of the image's channels
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    flip: bool = True
    base_size: int = 0  # longer side before scaling; 0: the image's own

    def __call__(
        self, image: np.ndarray, label: np.ndarray, rng: random.Random
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image H x W x 3 and label H x W -> float32 and label crops of this size.

        Scaled by one of `scales` (bilinear without smoothing; labels by the nearest pixel), padded
        at the right and below with the mean colour and "ignored", cut and mirrored at random.
        """
        height, width = label.shape
        if self.base_size:
            longer = self.base_size / max(height, width)
            size = (self.base_size, int(longer * height)), (int(longer * width), self.base_size)
            width, height = size[0] if width >= height else size[1]
        scale = rng.choice(self.scales)
        height, width = int(height * scale), int(width * scale)
        image = cv2.resize(image.astype(np.float32), (width, height))
        label = pil_resize(label, (height, width), 0)
        padded = np.empty((max(height, self.size), max(width, self.size), 3), np.float32)
        padded[:] = self.mean
        padded[:height, :width] = image
        padded_label = np.full(padded.shape[:2], ignored_value(label), label.dtype)
        padded_label[:height, :width] = label
        top, left = (rng.randint(0, side - self.size) for side in padded_label.shape)
        window = np.s_[top : top + self.size, left : left + self.size]
        image, label = padded[window], padded_label[window]
        if self.flip and rng.random() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        return image, label


class SegmentationDataset(EpochDataset):
    """Random crops with their label maps: (3 x S x S float, S x S of `label_tensor`)."""

    def __init__(
        self, info: DatasetInfo, labels: dict[str, Path], crop: SegCrop,
        to_input: Callable[[np.ndarray], np.ndarray], bgr: bool, seed: int = 0,
    ):  # fmt: skip
        super().__init__(info, tuple(labels), seed)
        self.labels, self.crop, self.to_input, self.bgr = labels, crop, to_input, bgr

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, rng = self._draw(index, "segmentation")
        label = read_label_png(self.labels[self.image_ids[index]])
        image = image[..., ::-1] if self.bgr else image
        image, label = self.crop(image, label, rng)
        return torch.from_numpy(self.to_input(image)), label_tensor(label)
