"""Image-level labels from files: the field's dict of vectors, and the forms that others write."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from misc.data.dataset_info import DatasetInfo
from misc.data.folder.classes import shown
from misc.data.folder.table import Table
from misc.errors import UserError
from misc.storage.cam_files import load_dict
from misc.storage.files import read_bytes, reason, require_unpacked_size

_MAX_FILE = 256 << 20  # bytes, also of what a .npz unpacks to
_EXPECTED = (
    "expected is a .npy dict of image id to multi-hot vector, a .npz (ids and labels, or a vector "
    "by id), or a .csv (a table with a line image,labels)"
)


def load_label_file(path: Path, info: DatasetInfo) -> dict[int, np.ndarray]:
    """Multi-hot vectors (C,) float32 of 0 and 1, by `info.label_key` of their image.

    path: `cls_labels.npy` as the project writes it, the same with ids as text or with a column for
    the background, a .npz or a .csv. No code in the file is run. Raises UserError, with what was
    found, for anything that cannot be read in one way only.
    """
    try:
        readers = {".csv": _from_csv, ".npz": _from_npz}
        by_id = readers.get(Path(path).suffix.lower(), _from_npy)(Path(path), info)
        rows = _without_background(np.stack(list(by_id.values())), info)
        keys = [_key(image_id, info) for image_id in by_id]
        _require_labels(rows, list(by_id))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; give the label file with --cls_labels") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check --cls_labels") from None
    except ValueError as error:
        raise UserError(f"{path} is not a label file ({error}); {_EXPECTED}") from None
    return dict(zip(keys, rows.astype(np.float32), strict=True))


def _from_npy(path: Path, info: DatasetInfo) -> Mapping[object, np.ndarray]:
    return _vectors(load_dict(path, _EXPECTED))


def _from_npz(path: Path, info: DatasetInfo) -> Mapping[object, np.ndarray]:
    content = read_bytes(path, _MAX_FILE)
    try:
        require_unpacked_size(content, _MAX_FILE)
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # damaged archives raise almost anything
        raise ValueError(reason(error)) from None
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("it holds other files than arrays")
    if set(arrays) == {"ids", "labels"} and arrays["labels"].ndim == 2:
        ids, labels = arrays["ids"], arrays["labels"]
        if ids.shape != labels.shape[:1] or ids.dtype.kind not in "USiu":
            raise ValueError(f"{ids.shape} ids of {ids.dtype} and {labels.shape} labels")
        names = (i.decode("latin1") if isinstance(i, bytes) else i for i in ids.tolist())
        return _vectors(dict(zip(names, labels, strict=True)))
    return _vectors(arrays)


def _from_csv(path: Path, info: DatasetInfo) -> Mapping[object, np.ndarray]:
    table = Table(path)
    by_id: dict[object, np.ndarray] = {}
    for line, cells in table.rows():
        where = table.place(line, cells)
        try:
            indices = [_class_index(name, info) for name in (*table.classes, *table.labels(cells))]
        except ValueError as error:
            raise UserError(f"{where}: {error}. {table.form}") from None
        image_id = cells[table.image].strip()
        if image_id in by_id:
            raise UserError(f"{where}: {reason(image_id)!r} is there already; keep one of the two")
        by_id[image_id] = np.zeros(info.num_classes)
        by_id[image_id][indices[len(table.classes) :]] = 1
    return _vectors(by_id)


def _class_index(name: str, info: DatasetInfo) -> int:
    names = [class_name.lower() for class_name in info.class_names]
    if name.lower() not in names:
        raise ValueError(f"{shown(name)} is not a class of {info.name}")
    return names.index(name.lower())


def _vectors(by_id: Mapping[object, object]) -> dict[object, np.ndarray]:
    if not by_id:
        raise ValueError("it is empty")
    for image_id, row in by_id.items():
        fits = isinstance(row, np.ndarray) and row.ndim == 1 and row.dtype.kind in "biuf"
        if not fits:
            shape = row.shape if isinstance(row, np.ndarray) else type(row).__name__
            raise ValueError(f"the entry {reason(image_id)} is {shape} and not a vector")
    sizes = {row.size for row in by_id.values()}
    if len(sizes) > 1:
        raise ValueError(f"vectors of different lengths: {sorted(sizes)[:3]}")
    return dict(by_id)


def _without_background(rows: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """N x C of N x C, or of N x C + 1 whose first column is the background."""
    if rows.shape[1] == info.num_classes:
        return rows
    if rows.shape[1] == info.num_classes + 1:
        # The background is in every image, or is never set. In the last column it would look alike.
        first, last = (set(column.tolist()) for column in (rows[:, 0], rows[:, -1]))
        if first in ({0}, {1}) and last != first:
            return rows[:, 1:]
    raise ValueError(f"vectors of {rows.shape[1]} classes, {info.name} has {info.num_classes}")


def _require_labels(rows: np.ndarray, image_ids: Iterable[object]) -> None:
    wrong = [reason(i) for i, row in zip(image_ids, rows, strict=True) if not _is_multi_hot(row)]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"values other than 0 and 1 for {', '.join(wrong[:3])}{more}")


def _is_multi_hot(row: np.ndarray) -> bool:
    return bool(np.isin(row, (0, 1)).all())


def _key(image_id: object, info: DatasetInfo) -> int:
    """The number of an image, from a number or a name with or without folder and suffix."""
    if isinstance(image_id, (int, np.integer)):
        return int(image_id)
    name = info.id_in(image_id) if isinstance(image_id, str) else ""
    if info.is_id(name):
        return info.label_key(name)
    if isinstance(image_id, str) and image_id.isascii() and image_id.isdigit():
        return int(image_id[:20])
    raise ValueError(f"{reason(image_id)!r} is not an image id of {info.name}")
