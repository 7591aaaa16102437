import numpy as np
import pytest

from misc.data.label_rows import LabelsById, load_label_rows, rows_of, save_label_rows
from misc.data.rib_batches import DisjointIndex
from misc.errors import UserError

CLASSES = [[0, 2], [], [1], [2], [3, 0]]


@pytest.fixture
def rows():
    return rows_of(CLASSES, 5)


@pytest.fixture
def dense():
    labels = np.zeros((5, 5), np.float32)
    for row, classes in enumerate(CLASSES):
        labels[row, classes] = 1
    return labels


def test_rows_are_those_of_the_whole_array(rows, dense):
    assert rows.shape == dense.shape and np.array_equal(np.stack(list(rows)), dense)
    assert np.array_equal(rows[-1], dense[-1]) and rows[0].dtype == np.float32
    assert np.array_equal(np.stack(list(rows[1:4])), dense[1:4])
    assert np.array_equal(np.stack(list(rows.take([4, 0]))), dense[[4, 0]])
    assert {*zip(*map(list, rows.nonzero()), strict=True)} == {*zip(*dense.nonzero(), strict=True)}
    with pytest.raises(IndexError):
        rows[5]


def test_batches_of_rib_come_from_the_same_images(rows, dense):
    one, other = DisjointIndex(rows), DisjointIndex(dense)
    for label in (*dense, np.ones(5), np.zeros(5)):
        for kind in ("disjoint", "joint"):
            assert np.array_equal(getattr(one, kind)(label), getattr(other, kind)(label))


def test_labels_by_id(rows, dense):
    labels = LabelsById("abcde", rows)
    assert np.array_equal(labels["d"], dense[3]) and list(labels) == list("abcde")
    assert list(labels.with_classes("edb")) == ["e", "d"]
    assert np.array_equal(labels.with_classes("edb")["d"], dense[3])


def test_a_file_holds_them(tmp_path, rows, dense):
    names = ["a", "ä%20", "c", "d", "e"]
    save_label_rows(tmp_path / "labels.npz", names, rows)
    found, loaded = load_label_rows(tmp_path / "labels.npz")
    assert found == names and np.array_equal(np.stack(list(loaded)), dense)
    np.savez(tmp_path / "other.npz", ids=["a"], labels=dense[:1])
    assert load_label_rows(tmp_path / "other.npz") is None


def test_a_damaged_file_is_named(tmp_path, rows):
    path = tmp_path / "labels.npz"
    save_label_rows(path, list("abcde"), rows)
    content = bytearray(path.read_bytes())
    for position in (40, len(content) // 2, len(content) - 30):
        spoilt = bytearray(content)
        spoilt[position] ^= 4
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match="labels.npz"):
            load_label_rows(path)
