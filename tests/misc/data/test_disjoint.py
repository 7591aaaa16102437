"""misc/data/disjoint.py against recorded lists and the definition."""

import numpy as np
import pytest

from misc.data.disjoint import DisjointIndex


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
