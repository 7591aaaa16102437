"""Views that are resized and cut later, on a device: the bits of PIL and of `byte_crop`."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from misc.data.datasets import Crops, byte_crop
from misc.data.resampling import UncutViews, _as_pil, columns_first, is_exact


def drawn(rng, size):
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return image if rng.random() < 0.7 else image // 128 * 255  # where PIL has to clip


@pytest.mark.parametrize("largest", [4, 40, 130])
def test_pils_bicubic_to_the_last_bit(largest):
    """Up and down, along one axis or both, tiny images too."""
    rng = np.random.default_rng(largest)
    for number in range(120):
        image = drawn(rng, rng.integers(1, largest, 2))
        target = tuple(rng.integers(1, largest, 2).tolist())
        if number % 5 == 0:
            target = (image.shape[0], target[1])
        expected = Image.fromarray(image).resize(target[::-1], Image.Resampling.BICUBIC)
        across = columns_first(image.shape[:2], target)
        assert np.array_equal(_as_pil(image, target, across), np.asarray(expected)), image.shape
    assert is_exact()


def test_views_cut_later_are_byte_crops():
    """Images of many sizes in a batch: enlarged, shrunk, mirrored, cut, padded."""
    rng, views, crops = np.random.default_rng(0), [], []
    sizes = [(75, 100), (100, 60), (30, 40), (99, 20), (8, 9), (1, 3), (50, 50), (140, 21)]
    for number, size in enumerate(4 * sizes):
        image = drawn(rng, size)
        for kind, made in ((UncutViews.drawn, views), (byte_crop, crops)):
            made.append(kind(image, (24, 110), 64, random.Random(number)))
    expected = Crops(*map(torch.stack, zip(*crops, strict=True))).to("cpu")
    for at_once in (False, True):
        found = UncutViews.joined(views).to("cpu", at_once=at_once)
        assert torch.equal(found, expected)
