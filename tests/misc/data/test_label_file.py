"""misc/data/label_file.py: what a file may cost before it is refused."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from misc.data.label_file import load_label_file
from misc.data.label_rows import load_label_rows
from misc.errors import UserError


def swollen(path, mebibytes, *names):
    """Writes an archive of arrays of so many MiB in all, packed to less than one."""
    shape = ((mebibytes << 20) // len(names) // 8,)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": "<f8", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                block = bytes(8 << 20)
                for _ in range(8 * shape[0] // len(block)):
                    file.write(block)
    return path


def refused(read, path, words):
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=words):
            read(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_labels_that_unpack_to_too_much_are_refused_before_they_are_unpacked(sample, tmp_path):
    path = swollen(tmp_path / "labels.npz", 272, "ids", "labels")
    words = "labels.npz is not a label file .unpacks to 27. MiB, more than 256 MiB"
    assert refused(lambda path: load_label_file(path, sample), path, words) < 64 << 20
    rows = swollen(tmp_path / "rows.npz", 272, "names", "starts", "classes", "num_classes")
    words = "rows.npz is not a label file .unpacks to 2.. MiB, more than"
    assert refused(load_label_rows, rows, words) < 64 << 20
