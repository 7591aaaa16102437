"""Image-level labels of many images and classes: only what is there takes memory."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from misc.errors import UserError
from misc.storage.checksums import Checksum, checksum_of
from misc.storage.files import read_bytes, reason, require_unpacked_size
from misc.storage.outputs import write_output

_MAX_FILE = 1 << 30  # bytes
_ARRAYS = {"names", "starts", "classes", "num_classes"}


class LabelRows(Sequence):
    """Multi-hot labels, N rows of length C, of which the indices of the ones are kept.

    A row is an array (C,) float32, made when it is asked for.
    """

    def __init__(self, starts: np.ndarray, classes: np.ndarray, num_classes: int):
        self._starts, self._classes, self.num_classes = starts, classes, num_classes

    @property
    def shape(self) -> tuple[int, int]:
        """(N, C)."""
        return len(self), self.num_classes

    def __len__(self) -> int:
        return len(self._starts) - 1

    def classes_of(self, row: int) -> np.ndarray:
        """Indices of the classes of a row, ascending."""
        return self._classes[self._starts[row] : self._starts[row + 1]]

    def __getitem__(self, row: int | slice) -> "np.ndarray | LabelRows":
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        label = np.zeros(self.num_classes, dtype=np.float32)
        label[self.classes_of(range(len(self))[row])] = 1
        return label

    def take(self, rows: np.ndarray) -> "LabelRows":
        """Some of the rows, in this order."""
        chosen = [self.classes_of(row) for row in rows]
        return rows_of(chosen, self.num_classes)

    def nonzero(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and class of every one, as NumPy's nonzero gives them."""
        counts = np.diff(self._starts)
        return np.repeat(np.arange(len(self)), counts), self._classes


def rows_of(classes: Sequence[Sequence[int]], num_classes: int) -> LabelRows:
    """Rows from the class indices of every image."""
    counts = [len(of_image) for of_image in classes]
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    joined = [np.sort(np.asarray(of_image, dtype=np.int32)) for of_image in classes]
    return LabelRows(starts, np.concatenate([np.empty(0, np.int32), *joined]), num_classes)


class LabelsById(Mapping):
    """Rows (C,) by image id; each is made when it is asked for."""

    def __init__(self, image_ids: Sequence[str], rows: "np.ndarray | LabelRows"):
        self._row = dict(zip(image_ids, range(len(rows)), strict=True))
        self._rows = rows

    def __getitem__(self, image_id: str) -> np.ndarray:
        return self._rows[self._row[image_id]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def with_classes(self, image_ids: Sequence[str]) -> "LabelsById":
        """Those of the images, in this order, that have any class."""
        kept = [i for i in image_ids if self[i].any()]
        rows = np.array([self._row[i] for i in kept], dtype=np.int64)
        taken = self._rows[rows] if isinstance(self._rows, np.ndarray) else self._rows.take(rows)
        return LabelsById(kept, taken)


def save_label_rows(path: Path, image_ids: Sequence[str], rows: LabelRows) -> None:
    """Write labels as .npz; `load_label_rows` reads them.

    names: UTF-8 bytes of the ids, a line each. starts (N + 1,), classes: the classes of image n
    are classes[starts[n]:starts[n + 1]]. num_classes: C.
    """
    stream = io.BytesIO()
    names = np.frombuffer("\n".join(image_ids).encode(), np.uint8)
    starts, classes = rows._starts, rows._classes
    np.savez(stream, names=names, starts=starts, classes=classes, num_classes=rows.num_classes)
    write_output(path, stream.getvalue())


def load_label_rows(path: Path) -> tuple[list[str], LabelRows] | None:
    """Ids and rows of what `save_label_rows` wrote; None for another kind of file.

    Raises UserError for one that is damaged.
    """
    if Path(path).suffix != ".npz" or not Path(path).is_file():
        return None
    try:
        content = read_bytes(path, _MAX_FILE)
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            if set(file.files) != _ARRAYS:
                return None
            require_unpacked_size(content, len(content))  # own files are not compressed
            if checksum_of(content) is Checksum.BROKEN:
                raise ValueError(Checksum.BROKEN.value)
            arrays = {name: file[name] for name in file.files}
        return _checked(arrays)
    except Exception as error:  # damaged archives raise almost anything
        raise UserError(
            f"{path} is not a label file ({reason(error)}); remove it to have it made again"
        ) from None


def _checked(arrays: dict[str, np.ndarray]) -> tuple[list[str], LabelRows]:
    names = arrays["names"].astype(np.uint8).tobytes().decode().split("\n")
    starts, classes, count = arrays["starts"], arrays["classes"], int(arrays["num_classes"])
    if starts.ndim != 1 or classes.ndim != 1 or len(starts) != len(names) + 1:
        raise ValueError(f"{len(names)} names and {starts.shape} starts")
    if starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] != len(classes):
        raise ValueError("its starts do not ascend to the number of its classes")
    if len(classes) and not 0 <= classes.min() <= classes.max() < count:
        raise ValueError(f"it has classes outside of 0..{count - 1}")
    return names, LabelRows(starts.astype(np.int64), classes.astype(np.int32), count)
