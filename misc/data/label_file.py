"""Image-level labels: sparse in memory, and in the files of this project and of other tools."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from scipy.sparse import csr_array

from misc.data.dataset_info import DatasetInfo, Keys, joined, photograph_keys
from misc.data.folder.names import shown
from misc.data.folder.table import Table
from misc.errors import UserError, raise_problems, some
from misc.storage.cam_files import load_dict
from misc.storage.checksums import Checksum, checksum_of
from misc.storage.files import read_bytes, reading, reason, require_unpacked_size
from misc.storage.outputs import write_output

_MAX_FILE = 256 << 20  # bytes, also of what a .npz unpacks to
_MAX_OWN = 1 << 30  # bytes of a .npz, which is not compressed where this project wrote it
_EXPECTED = (
    "give one with --cls_labels: a .npy dict of image id to multi-hot vector, a .npz (ids and "
    "labels, or a vector by id), or a .csv (a table with a line image,labels)"
)


class Labels(Mapping):
    """Multi-hot labels (C,) float32 by image; rows: N x C sparse, in the order of the images."""

    def __init__(self, image_ids: Iterable, rows: csr_array):
        self.rows, self._row = rows, {image_id: n for n, image_id in enumerate(image_ids)}

    def __getitem__(self, image_id: str | int) -> np.ndarray:
        label = np.zeros(self.rows.shape[1], dtype=np.float32)
        label[self.classes_of(image_id)] = 1
        return label

    def __iter__(self) -> Iterator:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def classes_of(self, image_id: str | int) -> np.ndarray:
        start, end = self.rows.indptr[self._row[image_id] :][:2]
        return self.rows.indices[start:end]

    def of(self, image_ids: Iterable) -> "Labels":
        image_ids = list(image_ids)
        return Labels(image_ids, self.rows[np.array([self._row[i] for i in image_ids], int)])


def labels_from(classes: Mapping[str, Iterable[int]], num_classes: int) -> Labels:
    ends = np.cumsum([0, *map(len, classes.values())])
    indices = np.array([index for of in classes.values() for index in sorted(of)], np.int32)
    shape = (len(classes), num_classes)
    return Labels(classes, csr_array((np.ones_like(indices), indices, ends), shape))


def save_labels(path: Path, labels: Labels) -> None:
    """Write labels as .npz: the classes of image n are classes[starts[n]:starts[n + 1]]."""
    stream, rows = io.BytesIO(), labels.rows
    names = np.frombuffer("\n".join(labels).encode(), np.uint8)
    starts, classes = rows.indptr.astype(np.int64), rows.indices.astype(np.int32)
    np.savez(stream, names=names, starts=starts, classes=classes, num_classes=rows.shape[1])
    write_output(path, stream.getvalue())


def load_labels(path: Path, image_ids: Iterable[str], info: DatasetInfo) -> Labels:
    """Labels of the images from a label file; UserError where any has none there."""
    known, keys = load_label_file(path, info), {i: info.label_key(i) for i in image_ids}
    advice = "give the label file of this dataset with --cls_labels"
    missing = [image_id for image_id, key in keys.items() if key not in known]
    raise_problems("label", [f"{path}: missing label for image {i}; {advice}" for i in missing])
    return Labels(keys, known.of(keys.values()).rows)


def known_classes(
    path: Path, image_ids: Iterable[str], info: DatasetInfo
) -> dict[str, frozenset[int]]:
    """Indices of the classes of those images that a label file has; of none without one."""
    try:
        known = load_label_file(path, info)
    except UserError:
        return {}
    keys = {image_id: info.label_key(image_id) for image_id in image_ids}
    return {i: frozenset(known.classes_of(k).tolist()) for i, k in keys.items() if k in known}


def labelled_keys(args: SimpleNamespace, image_ids: Sequence[str]) -> Keys:
    """Hashes of the photographs, with the classes of their labels. args: the options of a run."""
    known = known_classes(args.cls_labels, image_ids, args.info)
    classes = {i: ",".join(map(str, sorted(known.get(i, ())))) for i in image_ids}
    return joined(photograph_keys(args, image_ids), classes)


def load_label_file(path: Path, info: DatasetInfo) -> Labels:
    """All labels of a file, by `info.label_key` of their image; UserError with what was found.

    path: as the project writes them, also with a column for the background, of other tools or .csv.
    """
    suffix = Path(path).suffix.lower()
    with reading(path, "is not a label file", _EXPECTED):
        if suffix == ".csv":
            return _from_csv(path, info)
        npz = suffix == ".npz"
        return _from_npz(path, info) if npz else _from_vectors(load_dict(path, _EXPECTED), info)


def _from_npz(path: Path, info: DatasetInfo) -> Labels:
    content = read_bytes(path, _MAX_OWN)
    require_unpacked_size(content, max(_MAX_FILE, len(content)))
    if checksum_of(content) is Checksum.BROKEN:
        raise ValueError(f"{Checksum.BROKEN.value}, remove it to have it made again")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if set(arrays) == {"names", "starts", "classes", "num_classes"}:
        names = arrays["names"].astype(np.uint8).tobytes().decode().split("\n")
        ones = np.ones_like(arrays["classes"])
        shape = len(names), arrays["num_classes"]
        rows = csr_array((ones, arrays["classes"], arrays["starts"]), shape)
        rows.check_format(full_check=True)
        return Labels(names, _of_classes(rows, info))
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("it holds other files than arrays")
    if set(arrays) == {"ids", "labels"} and arrays["labels"].ndim == 2:
        ids, labels = arrays["ids"], arrays["labels"]
        if ids.shape != labels.shape[:1] or ids.dtype.kind not in "USiu":
            raise ValueError(f"{ids.shape} ids of {ids.dtype} and {labels.shape} labels")
        text = ids.astype(ids.dtype.newbyteorder("=")) if ids.dtype.kind == "U" else np.array("")
        if (text.view(np.uint32) > 0x10FFFF).any():  # numpy makes text of any numbers
            raise ValueError("ids that are not text")
        names = (i.decode("latin1") if isinstance(i, bytes) else i for i in ids.tolist())
        arrays = dict(zip(names, labels, strict=True))
    return _from_vectors(arrays, info)


def _of_classes(rows: np.ndarray | csr_array, info: DatasetInfo) -> np.ndarray | csr_array:
    if rows.shape[1] != info.num_classes:
        raise ValueError(f"vectors of {rows.shape[1]} classes, {info.name} has {info.num_classes}")
    return rows


def _from_csv(path: Path, info: DatasetInfo) -> Labels:
    table, by_id = Table(path), {}
    names = [class_name.lower() for class_name in info.class_names]
    for where, image_id, own in table.rows():
        if unknown := [name for name in (*table.classes, *own) if name.lower() not in names]:
            what = f"{shown(unknown[0])} is not a class of {info.name}"
            raise UserError(f"{where}: {what}. {table.form}")
        if image_id.strip() in by_id:
            raise UserError(f"{where}: {reason(image_id)!r} is there already; keep one of the two")
        by_id[image_id.strip()] = {names.index(name.lower()) for name in own}
    if not by_id:
        raise ValueError("it is empty")
    classes = {_key(image_id, info): of for image_id, of in by_id.items()}
    return labels_from(classes, info.num_classes)


def _from_vectors(by_id: Mapping[object, np.ndarray], info: DatasetInfo) -> Labels:
    """Labels from vectors (C,) of 0 and 1, or (C + 1,) whose first entry is the background."""
    for image_id, row in by_id.items():
        if row.ndim != 1 or row.dtype.kind not in "biuf":
            raise ValueError(f"the entry {reason(image_id)} is {row.shape} and not a vector")
    sizes = sorted({row.size for row in by_id.values()})
    if len(sizes) != 1:
        raise ValueError(f"vectors of different lengths: {sizes[:3]}" if sizes else "it is empty")
    rows = np.stack(list(by_id.values()))
    if sizes[0] == info.num_classes + 1:
        # The background is in every image or never set. In the last column it would look alike.
        first, last = (set(column.tolist()) for column in (rows[:, 0], rows[:, -1]))
        rows = rows[:, 1:] if first in ({0}, {1}) and last != first else rows
    keys = [_key(image_id, info) for image_id in by_id]
    rows = _of_classes(rows, info)
    valid = np.isin(rows, (0, 1)).all(axis=1)
    if wrong := [reason(i) for i, fits in zip(by_id, valid, strict=True) if not fits]:
        raise ValueError(f"values other than 0 and 1 for {some(wrong)}")
    return Labels(keys, csr_array(rows))


def _key(image_id: object, info: DatasetInfo) -> int | str:
    if isinstance(image_id, (int, np.integer)):
        return int(image_id)
    name = info.id_in(image_id) if isinstance(image_id, str) else ""
    if info.is_id(name):
        return info.label_key(name)
    if isinstance(image_id, str) and image_id.isascii() and image_id.isdigit():
        return int(image_id[:20])
    raise ValueError(f"{reason(image_id)!r} is not an image id of {info.name}")
