"""misc/data/rib_batches.py: disjoint images against recorded lists; the batches."""

import contextlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from misc.data.datasets import normalized, read_image, training_crop
from misc.data.label_file import Labels
from misc.data.rib_batches import CropSource, RIBBatches, disjoint, joint
from misc.torchutils import worker_rng
from tests.misc.data.conftest import IDS

KINDS = {"disjoint": disjoint, "joint": joint}


@pytest.mark.parametrize("kind", KINDS)
def test_lists_are_the_recorded_ones(golden, kind):
    data = golden("dataset_rib.npz")
    for row, target in enumerate(data["target_index"]):
        found = KINDS[kind](data["labels"], data["labels"][target])
        assert found.tolist() == data[kind][row].nonzero()[0].tolist()
        assert len(found) == data[f"n_{kind}"][row]


@pytest.fixture(scope="module")
def source(sample, labels):
    return CropSource(sample, labels, (48, 64), 32, 5)


def batches_of(source, targets, lengths=(), iterations=3, workers=0):
    """All batches of every target, of which each takes `lengths` (or all) before it ends."""
    batches = RIBBatches(source, targets, iterations, 3, 1.0, workers)
    result = {}
    for target_id, length in itertools.zip_longest(targets, lengths):
        with contextlib.closing(batches.of(target_id)) as of_target:
            result[target_id] = list(itertools.islice(of_target, length))
    return result


def assert_same_batches(one, other):
    assert len(one) == len(other)
    for batch, same in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))


def test_no_batch_shares_a_class_with_its_target(source, labels):
    """Asking for more batches than iterations does not take away those of the next target."""
    for target_id, batches in batches_of(source, labels, iterations=4).items():
        assert len(batches) == 4
        for images, batch_labels in batches:
            assert images.shape == (3, 3, 32, 32) and batch_labels.shape == (3, 20)
            assert not (batch_labels.numpy() * labels[target_id]).any()
            assert batch_labels.any(dim=1).all()


def test_batches_show_the_images_that_their_labels_are_of(source, labels):
    """Every crop is one that its row of the draw gives, of an image with that label."""

    def crop_by_hand(image_id, iteration, row):
        rng = worker_rng(source.seed, "RIB crop", IDS[0], iteration, row)
        image = read_image(source.info.image_path(image_id))
        return normalized(training_crop(image, source.long_range, 32, rng)[None], "cpu")[0]

    for iteration, batch in enumerate(batches_of(source, labels.of(IDS[:1]))[IDS[0]]):
        for row, (image, label) in enumerate(zip(*batch, strict=True)):
            alike = [i for i in labels if np.array_equal(labels[i], label)]
            assert any(torch.equal(image, crop_by_hand(i, iteration, row)) for i in alike)


def test_draws_depend_on_seed_and_target_alone(source, labels):
    reference, backwards = batches_of(source, labels), batches_of(source, labels.of(IDS[::-1]))
    for target_id in labels:
        assert_same_batches(reference[target_id], backwards[target_id])
    assert not torch.equal(reference[IDS[0]][0][0], reference[IDS[0]][1][0])
    other_seed = batches_of(replace(source, seed=6), labels.of(IDS[:1]))
    assert not torch.equal(reference[IDS[0]][0][0], other_seed[IDS[0]][0][0])
    batches = RIBBatches(source, labels.of([]), 1, 3)
    drawn = [list(itertools.islice(batches.members(i, labels[IDS[0]]), 4)) for i in IDS[:2]]
    assert drawn[0] != drawn[1]  # of the same classes


@pytest.mark.parametrize("workers", [0, 2])
def test_early_ends_do_not_change_the_next_targets(source, labels, workers):
    """Batches that were read ahead for a target that ended early are left out."""
    targets = labels.of(IDS[:4])
    reference = batches_of(source, targets)
    early = batches_of(source, targets, lengths=(1, 0, 3, 2), workers=workers)
    for (target_id, batches), length in zip(early.items(), (1, 0, 3, 2), strict=True):
        assert_same_batches(batches, reference[target_id][:length])


def members(source, rows, label, batch_size, count, prob=1.0):
    """Drawn positions in images of the labels 8 x 20."""
    source = replace(source, labels=Labels(IDS, csr_array(np.asarray(rows, np.float32))))
    batches = RIBBatches(source, source.labels.of([]), 1, batch_size, prob)
    return list(itertools.islice(batches.members("target", np.float32(label)), count))


def test_drawing_goes_on_in_shuffled_passes(source):
    """Three images are eligible, fewer than two batches of two; each pass takes each once."""
    rows = np.repeat(np.eye(2, 20), [5, 3], axis=0)
    drawn = members(source, rows, rows[0], batch_size=2, count=60)
    assert all(len(batch) == 2 for batch in drawn)
    flat = sum(drawn, [])
    passes = [tuple(flat[i : i + 3]) for i in range(0, len(flat), 3)]
    assert all(sorted(one) == [5, 6, 7] for one in passes)
    assert len(set(passes)) == 6  # every order occurs
    (batch,) = members(source, rows, rows[0], batch_size=5, count=1)
    assert len(batch) == 5 and sorted(set(batch)) == [5, 6, 7]  # larger than there are images


@pytest.mark.parametrize("prob, low, high", [(1.0, 1, 1), (0.0, 0, 0), (0.5, 0.35, 0.65)])
def test_fraction_of_disjoint_batches(source, prob, low, high):
    rows = np.zeros((8, 20))
    rows[:3, [1, 4]] = 1  # have all classes of the target
    rows[3:5, 1] = 1  # have one of them: never drawn
    rows[5:, 2] = 1  # disjoint
    drawn = members(source, rows, rows[0], 2, 200, prob)
    kinds = [{member // 5 for member in batch} for batch in drawn]
    assert all(len(kind) == 1 for kind in kinds) and not {3, 4} & set(sum(drawn, []))
    assert low <= np.mean([kind == {1} for kind in kinds]) <= high


def test_without_joint_images_disjoint_ones_are_drawn(source):
    rows = np.repeat(np.eye(2, 20), [6, 2], axis=0)
    both = rows[0] + np.eye(20)[7]  # no image has classes 0 and 7
    assert set(sum(members(source, rows, both, 2, 5, prob=0.0), [])) == {6, 7}
