"""misc/data/rib_batches.py: disjoint images against recorded lists; the batches."""

import contextlib
import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from misc import imutils
from misc.data import datasets, rib_batches
from misc.data.datasets import read_image
from misc.data.rib_batches import CropSource, DisjointIndex, RIBBatches
from misc.torchutils import worker_rng
from tests.misc.data.conftest import IDS


def by_definition(labels, label, kind):
    shared = [sum(a and b for a, b in zip(row, label, strict=True)) for row in labels.tolist()]
    wanted = {"disjoint": 0, "joint": int(sum(label))}[kind]
    return [position for position, count in enumerate(shared) if count == wanted]


@pytest.mark.parametrize("kind", ["disjoint", "joint"])
def test_lists_are_the_recorded_ones(golden, kind):
    data = golden("dataset_rib.npz")
    index = DisjointIndex(data["labels"])
    for row, target in enumerate(data["target_index"]):
        found = getattr(index, kind)(data["labels"][target])
        assert found.tolist() == data[kind][row].nonzero()[0].tolist()
        assert len(found) == data[f"n_{kind}"][row]


@pytest.mark.parametrize("kind", ["disjoint", "joint"])
@pytest.mark.parametrize("num_classes", [3, 80])
def test_lists_follow_the_definition(kind, num_classes):
    rng = np.random.default_rng(num_classes)
    labels = (rng.random((60, num_classes)) < 2 / num_classes).astype(np.float32)
    assert (labels.sum(axis=1) == 0).any() and (labels.sum(axis=1) > 1).any()
    index = DisjointIndex(labels)
    queries = np.concatenate([labels, rng.random((5, num_classes)) < 0.3])
    for label in queries:
        assert getattr(index, kind)(label).tolist() == by_definition(labels, label, kind)


def test_both_kinds_are_kept_apart():
    index = DisjointIndex(np.eye(3))
    label = np.array([1, 0, 0])
    for _ in range(2):  # the second answers are remembered ones
        assert index.disjoint(label).tolist() == [1, 2]
        assert index.joint(label).tolist() == [0]


def test_without_classes_every_image_is_eligible():
    labels = np.array([[1, 0], [0, 0], [1, 1]])
    nothing = np.zeros(2)
    assert DisjointIndex(labels).disjoint(nothing).tolist() == [0, 1, 2]
    assert DisjointIndex(labels).joint(nothing).tolist() == [0, 1, 2]


def test_no_image_may_be_eligible():
    labels = np.array([[1, 0], [1, 1]])
    found = DisjointIndex(labels).disjoint(np.array([1, 0]))
    assert found.shape == (0,) and found.dtype.kind == "i"
    assert DisjointIndex(labels).joint(np.array([0, 1])).tolist() == [1]


@pytest.fixture(scope="module")
def source(sample, labels):
    return CropSource(sample, IDS, labels, (48, 64), 32, 5)


def batches_of(source, targets, lengths=(), iterations=3, workers=0, prob=1.0, size=3, **options):
    """All batches of every target, of which each takes `lengths` (or all) before it ends."""
    batches = RIBBatches(source, targets, iterations, size, prob, workers, **options)
    result = {}
    for target_id, length in itertools.zip_longest(targets, lengths, fillvalue=iterations):
        with contextlib.closing(batches.of(target_id)) as of_target:
            taken = itertools.islice(of_target, length)
            result[target_id] = list(taken)
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


@pytest.mark.parametrize("at_once", [False, True])  # as on a processor, and as on a GPU
@pytest.mark.parametrize("long_range", [(20, 30), (48, 64), (100, 120)])
def test_byte_crops_become_the_crops_of_the_classifier_to_the_bit(long_range, at_once):
    """Smaller than the crop on both sides, on one or on none; dark pixels are no padding."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 40, 61, 3), dtype=np.uint8)
    images[0] = 0
    drawn = [datasets.byte_crop(image, long_range, 32, random.Random(7)) for image in images]
    crops = datasets.Crops(*map(torch.stack, zip(*drawn, strict=True))).to("cpu", at_once=at_once)
    for crop, image in zip(crops, images, strict=True):
        expected = datasets.training_crop(image, long_range, 32, random.Random(7))
        assert np.array_equal(crop.numpy().view(np.int32), expected.numpy().view(np.int32))


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
    monkeypatch.setattr(rib_batches, "byte_crop", lambda *given: read.append(0) or crop(*given))
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
