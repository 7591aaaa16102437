"""misc/data/datasets.py on the drawn sample: what loaders give, and what draws depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from misc import imutils
from misc.data.datasets import (
    AffinityDataset,
    ClassificationDataset,
    Crops,
    TopLeftDataset,
    load_labels,
    multi_scale_pairs,
    read_image,
)
from misc.errors import UserError
from misc.labels import save_label_png
from misc.storage.cam_files import save_label_dict
from tests.misc.data.conftest import IDS


def zero_colour(images):
    """Whether pixels are the mean colour, which padding is: ... x 3 x H x W -> ... x H x W."""
    return (images == 0).all(axis=-3)


# --- images and labels --------------------------------------------------------------------------


def test_read_image_is_rgb_whatever_the_file(sample, tmp_path):
    image = read_image(sample.image_path(IDS[0]))
    assert image.dtype == np.uint8 and image.shape == (*sample.image_size(IDS[0]), 3)
    Image.new("L", (5, 4), 9).save(tmp_path / "grey.jpg")
    assert read_image(tmp_path / "grey.jpg").tolist() == np.full((4, 5, 3), 9).tolist()


def test_read_image_names_a_bad_file(sample, tmp_path):
    with pytest.raises(UserError, match="none.jpg: no such image"):
        read_image(tmp_path / "none.jpg")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(sample.image_path(IDS[0]).read_bytes()[:3000])
    with pytest.raises(UserError, match="cut.jpg: cannot be decoded"):
        read_image(cut)


def test_load_labels_in_the_order_of_the_ids(sample, labels, tmp_path):
    path = tmp_path / "cls_labels.npy"
    save_label_dict(path, {sample.label_key(i): row for i, row in zip(IDS, labels, strict=True)})
    assert np.array_equal(load_labels(path, IDS[::-1], sample), labels[::-1])
    with pytest.raises(UserError, match="(?s)npy: .* 2012_100001;.* 2012_100002;.*2 problems"):
        load_labels(path, (*IDS, "2012_100001", "2012_100002"), sample)
    with pytest.raises(UserError, match="vectors of 20 classes, voc12 has 3"):
        load_labels(path, IDS, replace(sample, class_names=("a", "b", "c")))


# --- views for the networks ---------------------------------------------------------------------


def test_classification_crops(sample, labels):
    dataset = ClassificationDataset(sample, IDS, labels, (64, 96), 80, seed=3)
    assert len(dataset) == len(IDS)
    for index in range(len(IDS)):
        crop, label = dataset[index]
        assert crop.shape == (3, 80, 80) and crop.dtype == torch.float32
        assert torch.equal(label, torch.from_numpy(labels[index]))
        inside = ~zero_colour(crop.numpy())
        height, width = (np.ptp(inside.any(axis).nonzero()) + 1 for axis in (1, 0))
        assert 60 <= max(height, width) <= 80 and min(height, width) >= 35


def test_classification_draws_depend_on_seed_epoch_and_image_alone(sample, labels):
    def crop(position=2, seed=0, epoch=0, ids=IDS):
        dataset = ClassificationDataset(sample, ids, labels, (64, 96), 80, seed)
        dataset.set_epoch(epoch)
        return dataset[position][0]

    assert torch.equal(crop(), crop())
    assert torch.equal(crop(), crop(position=0, ids=IDS[2:]))
    assert not torch.equal(crop(), crop(seed=1))
    assert not torch.equal(crop(), crop(epoch=1))


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
    dataset = AffinityDataset(info, (image_id,), label_dir, 256)
    for epoch in range(4):
        dataset.set_epoch(epoch)
        crop, label = dataset[0]
        assert crop.shape == (3, 256, 256) and crop.dtype == torch.float32
        assert label.shape == (64, 64) and label.dtype == torch.uint8
        bright = crop[0].unfold(0, 4, 4).unfold(1, 4, 4)[..., 2, 2]
        decided = label != 255
        assert 0 < decided.float().mean() <= 1
        assert ((bright > 0) == (label == 1))[decided].float().mean() > 0.97
        outside = zero_colour(crop.numpy()).reshape(64, 4, 64, 4).all(axis=(1, 3))
        assert (label.numpy()[outside] == 255).all()


def test_affinity_draws_depend_on_seed_epoch_and_image_alone(sample, tmp_path):
    for image_id in IDS[:2]:
        labels = np.arange(np.prod(sample.image_size(image_id))) % 200
        labels = labels.reshape(sample.image_size(image_id)).astype(np.uint8)
        save_label_png(tmp_path / f"{image_id}.png", labels)

    def item(position=1, seed=0, epoch=0, ids=IDS[:2]):
        dataset = AffinityDataset(sample, ids, tmp_path, 64, seed)
        dataset.set_epoch(epoch)
        return dataset[position]

    def equal(one, other):
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    assert equal(item(), item()) and equal(item(), item(position=0, ids=IDS[1:2]))
    assert not equal(item(), item(seed=1)) and not equal(item(), item(epoch=1))


def test_training_views_as_bytes_have_the_same_bits(sample, labels, tmp_path):
    """A batch of them, put on the device as the trainings do it for a GPU."""
    for image_id in IDS:
        size = sample.image_size(image_id)
        save_label_png(tmp_path / f"{image_id}.png", np.ones(size, dtype=np.uint8))
    for cls, given, side in ((ClassificationDataset, (labels, (64, 200)), 80),
                             (AffinityDataset, (tmp_path,), 256)):  # fmt: skip
        batches = []
        for as_bytes in (False, True):
            dataset = cls(sample, IDS, *given, side, seed=1, as_bytes=as_bytes)
            (batch,) = DataLoader(dataset, len(IDS))
            batches.append([part.to("cpu", non_blocking=True) for part in batch])
            assert as_bytes == isinstance(batch[0], Crops) and len(batch[-1]) == len(IDS)
        assert all(map(torch.equal, *batches))


@pytest.mark.parametrize("canvas", [100, 400])
def test_top_left_canvas(sample, canvas):
    dataset = TopLeftDataset(sample, IDS, canvas)
    image = imutils.normalize(read_image(sample.image_path(IDS[3]))).transpose(2, 0, 1)
    height, width = (min(side, canvas) for side in image.shape[1:])
    placed = dataset[3].numpy()
    assert len(dataset) == len(IDS) and placed.shape == (3, canvas, canvas)
    assert np.array_equal(placed[:, :height, :width], image[:, :height, :width])
    assert not placed[:, height:].any() and not placed[:, :, width:].any()


def test_multi_scale_pairs():
    image = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    pairs = multi_scale_pairs(image, (1.0, 0.5, 2.0))
    assert [tuple(pair.shape) for pair in pairs] == [
        (2, 3, 40, 61), (2, 3, 20, 30), (2, 3, 80, 122),
    ]  # fmt: skip
    assert all(torch.equal(pair[0], pair[1].flip(-1)) for pair in pairs)
    assert np.array_equal(pairs[0][0].numpy(), imutils.normalize(image).transpose(2, 0, 1))


@pytest.mark.parametrize("max_long, long_side", [(None, 60), (60, 60), (100, 60), (30, 30)])
def test_multi_scale_pairs_shrink_large_images_only(max_long, long_side):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    pairs = multi_scale_pairs(image, (1.0, 1.5), max_long)
    assert [pair.shape[-1] for pair in pairs] == [long_side, long_side * 3 // 2]
    assert pairs[0].shape[-2] == long_side * 2 // 3
    # Both factors in one resampling: the enlarged view is not made of the shrunk one.
    direct = imutils.pil_rescale(image, 1.5 * long_side / 60, 3)
    assert np.array_equal(pairs[1][0].numpy(), imutils.normalize(direct).transpose(2, 0, 1))
