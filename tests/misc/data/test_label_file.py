"""misc/data/label_file.py: rows in memory and in a file, and the cost of a file that is refused."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from misc.data.label_file import labels_from, load_label_file, load_labels, save_labels
from misc.errors import UserError
from misc.storage.cam_files import save_label_dict

CLASSES = [[0, 2], [], [1], [2], [3, 0]]
DENSE = np.array([[n in classes for n in range(5)] for classes in CLASSES], np.float32)


class Five:
    """A dataset of five classes whose images are known by their names."""

    name, num_classes, label_key = "five", 5, str


def test_labels_are_the_rows_of_the_whole_array():
    labels = labels_from(dict(zip("abcde", CLASSES, strict=True)), 5)
    assert np.array_equal(np.stack(list(labels.values())), DENSE) and len(labels) == 5
    assert labels["a"].dtype == np.float32 and labels.classes_of("e").tolist() == [0, 3]
    some = labels.of("ed")
    assert list(some) == ["e", "d"] and np.array_equal(some.rows.toarray(), DENSE[[4, 3]])


def test_a_file_holds_them(tmp_path):
    path, names = tmp_path / "labels.npz", ["a", "ä%20", "c", "d", "e"]
    save_labels(path, labels_from(dict(zip(names, CLASSES, strict=True)), 5))
    with np.load(path) as file:
        kinds = {name: array.dtype.str for name, array in file.items()}
    assert kinds == {"names": "|u1", "starts": "<i8", "classes": "<i4", "num_classes": "<i8"}
    found = load_label_file(path, Five)
    assert list(found) == names and np.array_equal(found.rows.toarray(), DENSE)
    content = path.read_bytes()
    for position in (40, len(content) // 2, len(content) - 30):
        spoilt = bytearray(content)
        spoilt[position] ^= 4
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match="labels.npz is not a label file"):
            load_label_file(path, Five)


def test_labels_in_the_order_of_the_ids(sample, labels, tmp_path):
    path, ids = tmp_path / "cls_labels.npy", list(labels)
    save_label_dict(path, {sample.label_key(i): row for i, row in labels.items()})
    found = load_labels(path, ids[::-1], sample)
    assert list(found) == ids[::-1]
    assert np.array_equal(found.rows.toarray(), labels.rows.toarray()[::-1])
    with pytest.raises(UserError, match="(?s)npy: .* 2012_100001;.* 2012_100002;.*2 problems"):
        load_labels(path, (*ids, "2012_100001", "2012_100002"), sample)
    with pytest.raises(UserError, match="vectors of 20 classes, voc12 has 3"):
        load_labels(path, ids, replace(sample, class_names=("a", "b", "c")))


def swollen(path, mebibytes, *names):
    """Write an archive of arrays of so many MiB in all, packed to less than one."""
    np.savez_compressed(path, **dict.fromkeys(names, np.zeros((mebibytes << 17) // len(names))))
    return path


def refused(read, path, words):
    """Memory that `read` takes, in bytes, until it refuses a file."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=words):
            read(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("names", ["ids labels", "names starts classes num_classes"])
def test_labels_that_unpack_to_too_much_are_refused_packed(sample, tmp_path, names, monkeypatch):
    monkeypatch.setattr("misc.data.label_file._MAX_FILE", 16 << 20)
    path = swollen(tmp_path / "labels.npz", 24, *names.split())
    words = "labels.npz is not a label file .unpacks to 2. MiB, more than 16 MiB"
    assert refused(lambda path: load_label_file(path, sample), path, words) < 4 << 20
