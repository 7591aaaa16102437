"""misc/data/datasets.py on the synthetic sample: items of the loaders, and their draws."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from misc import imutils
from misc.data import datasets
from misc.data.segmentation import SegCrop, SegmentationDataset
from misc.errors import UserError
from misc.labels import save_label_png
from tests.misc.data.conftest import IDS
from tests.references import normalize


def test_read_image_is_rgb_or_names_a_bad_file(sample, tmp_path):
    image = datasets.read_image(sample.image_path(IDS[0]))
    assert image.dtype == np.uint8 and image.shape == (*sample.image_size(IDS[0]), 3)
    Image.new("L", (5, 4), 9).save(tmp_path / "grey.jpg")
    assert datasets.read_image(tmp_path / "grey.jpg").tolist() == np.full((4, 5, 3), 9).tolist()
    with pytest.raises(UserError, match="none.jpg: no such image"):
        datasets.read_image(tmp_path / "none.jpg")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(sample.image_path(IDS[0]).read_bytes()[:3000])
    with pytest.raises(UserError, match="cut.jpg: cannot be decoded"):
        datasets.read_image(cut)


@pytest.mark.parametrize("long_range", [(20, 30), (48, 64), (100, 120)])
def test_crops_are_bitwise_those_that_are_normalised_first(long_range):
    """Smaller than the crop on both sides, on one or on none; dark pixels are no padding."""
    images = np.random.default_rng(0).integers(0, 256, (6, 40, 61, 3), dtype=np.uint8)
    images[0] = 0
    drawn = [datasets.training_crop(image, long_range, 32, random.Random(7)) for image in images]
    for crop, image in zip(datasets.normalized(torch.stack(drawn), "cpu"), images, strict=True):
        rng = random.Random(7)
        image = normalize(imutils.random_resize_long(image, *long_range, rng))
        expected = imutils.random_crop(imutils.random_lr_flip(image, rng), 32, 0, rng)
        expected = np.ascontiguousarray(expected.transpose(2, 0, 1))
        assert np.array_equal(crop.numpy().view(np.int32), expected.view(np.int32))


def test_classification_crops(sample, labels):
    dataset = datasets.ClassificationDataset(sample, labels, (64, 96), 80, seed=3)
    for index in range(len(dataset)):
        crop, label = dataset[index]
        assert crop.shape == (80, 80, 3) and crop.dtype == torch.int16
        assert torch.equal(label, torch.from_numpy(labels[IDS[index]]))
        inside = (crop != datasets.OUTSIDE).all(dim=2).numpy()
        height, width = (np.ptp(inside.any(axis).nonzero()) + 1 for axis in (1, 0))
        assert 60 <= max(height, width) <= 80 and min(height, width) >= 35


def test_affinity_labels_stay_on_their_pixels(sample, tmp_path):
    """The label is made of the image itself, so the two can be compared after all changes."""
    image_id = IDS[0]
    height, width = sample.image_size(image_id)
    columns = np.arange(width) // 32 % 2 * 200
    pattern = np.broadcast_to(columns[None, :, None], (height, width, 3)).astype(np.uint8)
    info = replace(sample, image_dir=tmp_path, image_names=("{}.png",))
    Image.fromarray(pattern).save(info.image_path(image_id))
    label_dir = tmp_path / "labels"
    label_dir.mkdir()
    save_label_png(label_dir / f"{image_id}.png", (pattern[..., 0] > 100).astype(np.uint8))
    dataset = datasets.AffinityDataset(info, (image_id,), label_dir, 256)
    for epoch in range(4):
        dataset.set_epoch(epoch)
        crop, label = dataset[0]
        crop = datasets.normalized(crop[None], "cpu")[0]
        assert crop.shape == (3, 256, 256) and crop.dtype == torch.float32
        assert label.shape == (64, 64) and label.dtype == torch.uint8
        bright = crop[0].unfold(0, 4, 4).unfold(1, 4, 4)[..., 2, 2]
        decided = label != 255
        assert 0 < decided.float().mean() <= 1
        assert ((bright > 0) == (label == 1))[decided].float().mean() > 0.97
        padding = (crop == 0).all(dim=0).numpy()
        outside = padding.reshape(64, 4, 64, 4).all(axis=(1, 3))
        assert (label.numpy()[outside] == 255).all()


@pytest.mark.parametrize("kind", ["classification", "affinity", "segmentation"])
def test_draws_depend_on_seed_epoch_and_image_alone(sample, labels, kind):
    def item(position=1, seed=0, epoch=0, ids=IDS[:2]):
        if kind == "classification":
            dataset = datasets.ClassificationDataset(sample, labels.of(ids), (64, 96), 80, seed)
        elif kind == "segmentation":
            files, crop = {i: sample.mask_path(i) for i in ids}, SegCrop(64, (1.0, 2.0, 3.0))
            dataset = SegmentationDataset(sample, files, crop, np.copy, bgr=False, seed=seed)
        else:
            dataset = datasets.AffinityDataset(sample, ids, sample.mask_dirs[0], 64, seed)
        dataset.set_epoch(epoch)
        return dataset[position]

    def equal(one, other):
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    assert equal(item(), item()) and equal(item(), item(position=0, ids=IDS[1:2]))
    assert not equal(item(), item(seed=1)) and not equal(item(), item(epoch=1))


@pytest.mark.parametrize("max_long, long_side", [(None, 60), (60, 60), (100, 60), (30, 30)])
def test_multi_scale_pairs_are_mirrored_and_shrink_large_images_only(max_long, long_side):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    pairs = datasets.multi_scale_pairs(image, (1.0, 1.5), max_long)
    assert [pair.shape[-1] for pair in pairs] == [long_side, long_side * 3 // 2]
    assert pairs[0].shape == (2, 3, long_side * 2 // 3, long_side)
    assert all(torch.equal(pair[0], pair[1].flip(-1)) for pair in pairs)
    # Both factors in one resampling: the enlarged view is not made of the shrunk one.
    direct = imutils.pil_rescale(image, 1.5 * long_side / 60, 3)
    assert np.array_equal(pairs[1][0].numpy(), normalize(direct).transpose(2, 0, 1))


@pytest.mark.parametrize("canvas", [100, 400])
def test_an_image_on_a_canvas_is_normalised_as_alone(sample, canvas):
    image = normalize(datasets.read_image(sample.image_path(IDS[3]))).transpose(2, 0, 1)
    height, width = (min(side, canvas) for side in image.shape[1:])
    (placed,) = datasets.normalized(datasets.TopLeftDataset(sample, IDS, canvas)[3][None], "cpu")
    assert placed.shape == (3, canvas, canvas)
    assert np.array_equal(placed[:, :height, :width], image[:, :height, :width])
    assert not placed[:, height:].any() and not placed[:, :, width:].any()
