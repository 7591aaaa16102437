"""Arrays in files of other programs: .npy, .npz, .pt and .pth, also with tensors in a pickled dict.

No code of a file is run, and no size that it states is believed.
"""

import io
import math
import pickle
import re
import zipfile
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from misc.errors import UserError
from misc.storage.npydict import ArrayUnpickler, PickledArray, load_dict
from misc.storage.pickles import is_key
from misc.storage.torch_files import StoredNumbers, check_tensor, read_torch, torch_content
from misc.storage.untrusted import read_bytes, reason, require_unpacked_size

SUFFIXES = (".npy", ".npz", ".pt", ".pth")
Content = np.ndarray | dict[Hashable, np.ndarray]

_MAX_FILE = 4 << 30  # bytes, also of what a .npz unpacks to
_FIX = "make it again, or move it away"
# What np.save writes before an array of numbers, in any of its versions.
_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|[\x02\x03]\x00....)"
    rb"\{'descr': '([<>|=]?[biuf][1248])', 'fortran_order': (False|True), "
    rb"'shape': \(([\d, ]{0,80})\), \} *\n",
    re.DOTALL,
)


def read_arrays(path: Path, limit: int = _MAX_FILE) -> Content:
    """The array of a file, or its arrays by name; a dict that was saved with np.save or torch.save.

    Tensors come as arrays (bfloat16 as float32). limit: bytes that a .npz may unpack to. Raises
    UserError, naming the file, where it is missing or damaged, or holds anything but numbers.
    """
    if path.suffix in (".pt", ".pth"):
        return _from_torch(path)
    try:
        content = read_bytes(path, _MAX_FILE)
        if path.suffix == ".npz":
            return _archived(content, limit)
        if _HEADER.match(content):
            return _plain_array(content)
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; {_FIX}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_FIX}") from None
    except Exception as error:  # damaged archives raise almost anything
        raise UserError(f"{path}: cannot be read as arrays ({reason(error)}); {_FIX}") from None
    return load_dict(path, _FIX, _TensorUnpickler)


def _plain_array(content: bytes) -> np.ndarray:
    """The array of a .npy; ValueError where the bytes are not those that the header announces."""
    header = _HEADER.match(content)
    if not header:
        raise ValueError("not an array of numbers")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(side) for side in header[3].replace(b",", b" ").split())
    data = memoryview(content)[header.end() :]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of {shape}")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if header[2] == b"True" else "C")
    return np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape)


def _archived(content: bytes, limit: int) -> dict[str, np.ndarray]:
    require_unpacked_size(content, min(limit, _MAX_FILE))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {
            entry.filename.removesuffix(".npy"): _plain_array(archive.read(entry))
            for entry in archive.infolist()
        }


def _from_torch(path: Path) -> Content:
    content = read_torch(path, "maps")
    try:
        if isinstance(content, dict):
            return {key: _array(value) for key, value in content.items()}
        return _array(content)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as arrays ({reason(error)}); {_FIX}") from None


def _array(value: object) -> np.ndarray:
    """A tensor, or a list of whole numbers, as an array; ValueError for other values."""
    if isinstance(value, torch.Tensor) and not value.is_complex():
        value = value.float() if value.dtype is torch.bfloat16 else value
        return value.detach().contiguous().numpy()
    if isinstance(value, (list, tuple)) and all(type(one) is int for one in value):
        return np.array(value, dtype=np.int64)
    raise ValueError(f"an entry is a {type(value).__name__}")


class _Numbers:
    """The numbers of tensors as a plain pickle holds them: the bytes of a file of torch.save."""

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content


class _PickledTensor(PickledArray):
    """Stands for a tensor in a plain pickle."""

    __slots__ = ("numbers", "place")

    def __init__(self, numbers: _Numbers, *place: object) -> None:
        self.numbers, self.place = numbers, place[:3]  # offset, size, strides

    def nbytes(self) -> int:
        return 8 * math.prod(self.place[1])

    def numpy(self) -> np.ndarray:
        stored = torch_content(self.numbers.content)
        whole = torch.empty(0, dtype=stored.dtype).set_(stored)
        check_tensor(StoredNumbers("", whole.nbytes, whole.itemsize), *self.place)
        offset, size, strides = self.place
        return _array(whole.as_strided(size, strides, offset))


class _Items(PickledArray):
    """Stands for a list of whole numbers."""

    __slots__ = ("items",)

    def __init__(self, items: list) -> None:
        self.items = items

    def nbytes(self) -> int:
        return 8 * len(self.items)

    def numpy(self) -> np.ndarray:
        return _array(self.items)


def _ordered_dict(items: Iterable[Sequence] = ()) -> dict:
    if not all(is_key(key) for key, _ in items):
        raise pickle.UnpicklingError("a key of a wrong type")
    return dict(items)


class _TensorUnpickler(ArrayUnpickler):
    """Reads tensors and lists of whole numbers, too."""

    ADMITTED = {
        **ArrayUnpickler.ADMITTED,
        "collections.OrderedDict": _ordered_dict,
        "torch.storage._load_from_bytes": _Numbers,
        "torch._utils._rebuild_tensor": _PickledTensor,
        "torch._utils._rebuild_tensor_v2": _PickledTensor,
    }

    @staticmethod
    def array_of(entry: object) -> PickledArray:
        if isinstance(entry, (list, tuple)):
            return _Items(list(entry))
        return ArrayUnpickler.array_of(entry)
