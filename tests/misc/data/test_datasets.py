"""misc/data/datasets.py on the drawn sample: what loaders give, and what draws depend on."""

import contextlib
import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from misc import imutils
from misc.cams import save_label_dict
from misc.data import datasets
from misc.data.datasets import (
    AffinityDataset,
    ClassificationDataset,
    CropSource,
    RIBBatches,
    TopLeftDataset,
    load_labels,
    multi_scale_pairs,
    read_image,
)
from misc.data.image_cache import ImageCache
from misc.errors import UserError
from misc.palette import save_label_png
from misc.torchutils import worker_rng
from voc12.prepare import label_from_xml

IDS = tuple(f"2012_00000{n}" for n in range(1, 9))


@pytest.fixture(scope="module")
def labels(sample):
    paths = [sample.root / "Annotations" / f"{image_id}.xml" for image_id in IDS]
    return np.stack([label_from_xml(path, sample) for path in paths])


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


# --- batches of other images for RIB ------------------------------------------------------------


@pytest.fixture(scope="module")
def source(sample, labels):
    return CropSource(sample, IDS, labels, (48, 64), 32, 5, ImageCache(len(IDS), 1 << 24))


def batches_of(source, targets, lengths=(), iterations=3, workers=0, prob=1.0, size=3):
    """All batches of every target, of which each takes `lengths` (or all) before it ends."""
    batches = RIBBatches(source, targets, iterations, size, prob, workers)
    result = {}
    for target_id, length in itertools.zip_longest(targets, lengths, fillvalue=iterations):
        with contextlib.closing(batches.of(target_id)) as of_target:
            taken = itertools.islice(of_target, length)
            result[target_id] = [(crops.to("cpu"), labels) for crops, labels in taken]
    return result


def assert_same_batches(one, other):
    assert len(one) == len(other)
    for batch, same in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))


def all_targets(labels):
    return dict(zip(IDS, labels, strict=True))


def test_no_batch_shares_a_class_with_its_target(source, labels):
    for target_id, batches in batches_of(source, all_targets(labels), iterations=4).items():
        target = torch.from_numpy(all_targets(labels)[target_id])
        assert len(batches) == 4
        for images, batch_labels in batches:
            assert images.shape == (3, 3, 32, 32) and batch_labels.shape == (3, 20)
            assert not (batch_labels * target).any() and batch_labels.any(dim=1).all()


def test_batches_show_the_images_that_their_labels_are_of(source, labels):
    """Every crop is one that its row of the draw gives, of an image with that label."""
    target_id = IDS[0]
    batches = batches_of(source, {target_id: labels[0]})[target_id]
    for iteration, (images, batch_labels) in enumerate(batches):
        for row, (image, label) in enumerate(zip(images, batch_labels, strict=True)):
            candidates = np.flatnonzero((labels == label.numpy()).all(axis=1))
            drawn = [crop_by_hand(source, i, target_id, iteration, row) for i in candidates]
            assert any(torch.equal(image, crop) for crop in drawn)


def crop_by_hand(source, index, target_id, iteration, row):
    rng = worker_rng(source.seed, "RIB crop", target_id, iteration, row)
    image = read_image(source.info.image_path(source.image_ids[index]))
    image = imutils.normalize(imutils.random_resize_long(image, *source.long_range, rng=rng))
    image = imutils.random_crop(imutils.random_lr_flip(image, rng=rng), 32, 0, rng=rng)
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


@pytest.mark.parametrize("long_range", [(20, 30), (48, 64), (100, 120)])
def test_byte_crops_become_the_crops_of_the_classifier_to_the_bit(long_range):
    """Smaller than the crop on both sides, on one or on none; dark pixels are no padding."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 40, 61, 3), dtype=np.uint8)
    images[0] = 0
    drawn = [datasets.byte_crop(image, long_range, 32, random.Random(7)) for image in images]
    crops = datasets.Crops(*map(torch.stack, zip(*drawn, strict=True))).to("cpu")
    for crop, image in zip(crops, images, strict=True):
        expected = datasets.training_crop(image, long_range, 32, random.Random(7))
        assert np.array_equal(crop.numpy().view(np.int32), expected.numpy().view(np.int32))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_and_without_a_cache(source, labels, workers):
    targets = dict(itertools.islice(all_targets(labels).items(), 2))
    reference = batches_of(replace(source, cache=ImageCache(len(IDS), 0)), targets)
    half = sum(3 * np.prod(source.info.image_size(i)) for i in IDS) // 2
    filled = replace(source, cache=ImageCache(len(IDS), half))
    for _ in range(2):
        for target_id, batches in batches_of(filled, targets, workers=workers).items():
            assert_same_batches(batches, reference[target_id])


def test_draws_depend_on_seed_and_target_alone(source, labels):
    targets = all_targets(labels)
    reference = batches_of(source, targets)
    backwards = batches_of(source, dict(reversed(targets.items())))
    alone = batches_of(source, {IDS[4]: targets[IDS[4]]})
    for target_id in targets:
        assert_same_batches(reference[target_id], backwards[target_id])
    assert_same_batches(reference[IDS[4]], alone[IDS[4]])
    assert not torch.equal(reference[IDS[0]][0][0], reference[IDS[0]][1][0])
    other_seed = batches_of(replace(source, seed=6), targets)
    assert not torch.equal(reference[IDS[0]][0][0], other_seed[IDS[0]][0][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_early_ends_do_not_change_the_next_targets(source, labels, workers):
    """Batches that were read ahead for a target that ended early are left out."""
    targets = dict(itertools.islice(all_targets(labels).items(), 4))
    reference = batches_of(source, targets)
    early = batches_of(source, targets, lengths=(1, 0, 3, 2), workers=workers)
    for (target_id, batches), length in zip(early.items(), (1, 0, 3, 2), strict=True):
        assert_same_batches(batches, reference[target_id][:length])


def test_nothing_more_is_read_for_a_target_that_ended(source, labels, monkeypatch):
    read, crop = [], datasets.byte_crop
    monkeypatch.setattr(datasets, "byte_crop", lambda *given: read.append(0) or crop(*given))
    targets = dict(itertools.islice(all_targets(labels).items(), 2))
    batches_of(source, targets, lengths=(1, 2), iterations=5)
    assert len(read) == (1 + 2) * 3


def test_targets_of_the_same_classes_get_different_batches(source, labels):
    batches = RIBBatches(source, {}, 1, 3)
    drawn = [list(itertools.islice(batches.members(i, labels[0]), 4)) for i in IDS[:2]]
    assert drawn[0] != drawn[1]


def test_a_target_gets_as_many_batches_as_iterations(source, labels):
    """Asking for more does not take away the batches of the next target."""
    targets = dict(itertools.islice(all_targets(labels).items(), 2))
    batches = RIBBatches(source, targets, iterations=2, batch_size=3)
    assert [len(list(batches.of(target_id))) for target_id in targets] == [2, 2]


def members(source, label, batch_size, count, prob=1.0):
    batches = RIBBatches(source, {}, 1, batch_size, prob)
    return list(itertools.islice(batches.members("target", label), count))


def test_drawing_goes_on_in_shuffled_passes(source):
    """Three images are eligible, fewer than two batches of two; each pass takes each once."""
    source = replace(source, labels=np.repeat(np.eye(2, 20, dtype=np.float32), [5, 3], axis=0))
    drawn = members(source, source.labels[0], batch_size=2, count=60)
    assert all(len(batch) == 2 for batch in drawn)
    flat = sum(drawn, [])
    passes = [tuple(flat[i : i + 3]) for i in range(0, len(flat), 3)]
    assert all(sorted(one) == [5, 6, 7] for one in passes)
    assert len(set(passes)) == 6  # every order occurs


def test_batches_larger_than_the_eligible_images(source):
    source = replace(source, labels=np.repeat(np.eye(2, 20, dtype=np.float32), [6, 2], axis=0))
    (batch,) = members(source, source.labels[0], batch_size=5, count=1)
    assert len(batch) == 5 and sorted(set(batch)) == [6, 7]


@pytest.mark.parametrize("prob, low, high", [(1.0, 1, 1), (0.0, 0, 0), (0.5, 0.35, 0.65)])
def test_share_of_disjoint_batches(source, prob, low, high):
    labels = np.zeros((8, 20), dtype=np.float32)
    labels[:3, [1, 4]] = 1  # have all classes of the target
    labels[3:5, 1] = 1  # have one of them: never drawn
    labels[5:, 2] = 1  # disjoint
    drawn = members(replace(source, labels=labels), labels[0], 2, 200, prob)
    kinds = [{member // 5 for member in batch} for batch in drawn]
    assert all(len(kind) == 1 for kind in kinds) and not {3, 4} & set(sum(drawn, []))
    assert low <= np.mean([kind == {1} for kind in kinds]) <= high


def test_without_joint_images_disjoint_ones_are_drawn(source):
    labels = np.repeat(np.eye(2, 20, dtype=np.float32), [6, 2], axis=0)
    both = labels[0].copy()
    both[7] = 1  # no image has classes 0 and 7
    drawn = members(replace(source, labels=labels), both, 2, 5, prob=0.0)
    assert set(sum(drawn, [])) == {6, 7}
