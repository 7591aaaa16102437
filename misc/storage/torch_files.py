"""Files of `torch.save` from untrusted sources: checked before torch reads them.

With `weights_only` torch runs no code of a file, but it trusts the sizes written in it. Here
the file is read once without making a tensor, and tensors that it does not hold are refused.
"""

import io
import math
import pickle
import re
import zipfile
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from misc.errors import UserError
from misc.storage.cam_files import ArrayUnpickler, PickledArray, PlainUnpickler, is_key, load_dict
from misc.storage.files import read_bytes, reason, require_unpacked_size
from misc.storage.outputs import open_output

MAX_FILE = 4 << 30  # bytes
_ZIP = b"PK\x03\x04"  # by these bytes torch tells its newer format from the older one
_LEGACY_PARTS = 5  # pickles of the older format: magic number, protocol, machine, content, storages

_ITEM_SIZES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1,
    "Byte": 1, "Bool": 1,
}  # fmt: skip


def read_torch(path: Path, kind: str = "network weights") -> Any:
    """The content of a file of tensors and plain values, on the CPU; no code of it is run.

    Raises UserError where it is missing, damaged, or holds anything else. kind: what the file
    should be, for the message.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "is missing"
        longer = path.with_name(f"{path.name}.pth")
        advice = "give the path of a ResNet-50 checkpoint"
        if longer.is_file():
            advice = f"{longer.name} is there: give that name"
        raise UserError(f"{path} {problem}; {advice}")
    try:
        return torch_content(read_bytes(path, MAX_FILE))
    except Exception as error:  # damaged bytes can raise almost anything in an unpickler
        raise UserError(
            f"{path} cannot be read as {kind} ({reason(error)}): it is damaged, "
            "of another kind, or holds more than tensors and plain values; give another file"
        ) from error


def torch_content(content: bytes) -> Any:
    """What `read_torch` makes of the bytes of a file; almost any error where they are damaged."""
    check = _checked_archive if content.startswith(_ZIP) else _checked_legacy
    # Not the path: torch would take a file that is neither for a tar archive and unpack it.
    return torch.load(io.BytesIO(check(content)), map_location="cpu", weights_only=True)


def write_torch(path: Path, content: dict) -> None:
    """Writes what `read_torch` reads; UserError where that cannot be done.

    No signal may interrupt it: torch takes an exception out of its own writing for an error.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # An opened file: torch would note the name, which is another one in every run.
        with open_output(path) as stream:
            torch.save(content, stream)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise UserError(
            f"{path} cannot be written ({reason(error)}); free or change the place"
        ) from error


def _checked_archive(content: bytes) -> bytes:
    """The archive written anew from what was checked, so that torch can find nothing else in it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("compressed entries")
        if sum(entry.file_size for entry in entries.values()) > len(content):
            raise ValueError("entries that are larger than the file")
        folder = next(iter(entries)).split("/")[0]
        outline = _Outline(archive.read(f"{folder}/data.pkl"))
        outline.load()
        parts = ["version", "data.pkl", *(f"data/{key}" for key in outline.sizes)]
        parts += ["byteorder"] if f"{folder}/byteorder" in entries else []
        checked = io.BytesIO()
        with zipfile.ZipFile(checked, "w") as copy:
            for part in parts:
                data = archive.read(f"{folder}/{part}")
                # torch may read on behind the end of a storage.
                if len(data) != outline.sizes.get(part.removeprefix("data/"), len(data)):
                    raise ValueError(f"{part} has another size than it should")
                copy.writestr(f"archive/{part}", data)
    return checked.getvalue()


def _checked_legacy(content: bytes) -> bytes:
    outline = _Outline(content)
    for _ in range(_LEGACY_PARTS):
        keys = outline.load()
    # torch would leave a storage that is not listed as it was in memory.
    if sorted(map(str, keys)) != sorted(outline.sizes):
        raise ValueError("storages that are not listed")
    if sum(outline.sizes.values()) > len(content):
        raise ValueError("storages that are larger than the file")
    return content


class StoredNumbers(NamedTuple):
    """What is known of the numbers of tensors before they are read."""

    key: str
    size: int  # bytes
    item_size: int


class _Stub:
    """Stands for a tensor, a parameter or an OrderedDict with its attributes."""

    __slots__ = ()

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _stub(*_: object) -> _Stub:
    return _Stub()


def _ordered_dict(items: Iterable[Sequence] = ()) -> _Stub:
    """As pickles of Python 2 make it: from its items."""
    if not all(is_key(key) for key, _ in items):
        raise pickle.UnpicklingError("a key of a wrong type")
    return _Stub()


def check_tensor(
    storage: StoredNumbers, offset: int, size: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Stub:
    """Refuses a tensor that reaches beyond its storage, or is larger, as `expand` makes them."""
    if not all(type(number) is int and number >= 0 for number in (offset, *size, *strides)):
        raise pickle.UnpicklingError("a tensor whose shape is not valid")
    elements, count = storage.size // storage.item_size, math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, strides, strict=True))
    if offset > elements or count > elements or (count > 0 and last >= elements):
        raise pickle.UnpicklingError("a tensor that is larger than its storage")
    return _Stub()


class _Outline(PlainUnpickler):
    """Reads a file of torch without its tensors; `sizes` has the bytes of each storage by key."""

    ADMITTED = {
        "collections.OrderedDict": _ordered_dict,
        "torch.Size": _stub,
        "torch._utils._rebuild_parameter": _stub,
        "torch._utils._rebuild_tensor": check_tensor,
        "torch._utils._rebuild_tensor_v2": check_tensor,
        **{f"torch.{name}Storage": size for name, size in _ITEM_SIZES.items()},
    }
    STATEFUL = (_Stub,)

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.sizes: dict[str, int] = {}

    def persistent_load(self, pid: tuple) -> StoredNumbers:
        """("storage", type, key, place, number of elements), in the older format and None."""
        kind, item_size, key, _, count, *view = pid
        plain = kind == "storage" and type(item_size) is int and type(key) is str and key.isalnum()
        if not plain or type(count) is not int or count < 0 or any(view):
            raise pickle.UnpicklingError("a storage that is not valid")
        size = count * item_size
        if self.sizes.setdefault(key, size) != size:
            raise pickle.UnpicklingError(f"two sizes of storage {key}")
        return StoredNumbers(key, size, item_size)


SUFFIXES = (".npy", ".npz", ".pt", ".pth")
Content = np.ndarray | dict[Hashable, np.ndarray]

_FIX = "make it again, or move it away"
# What np.save writes before an array of numbers, in any of its versions.
_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|[\x02\x03]\x00....)"
    rb"\{'descr': '([<>|=]?[biuf][1248])', 'fortran_order': (False|True), "
    rb"'shape': \(([\d, ]{0,80})\), \} *\n",
    re.DOTALL,
)


def read_arrays(path: Path, limit: int = MAX_FILE) -> Content:
    """The array of a file, or its arrays by name; a dict that was saved with np.save or torch.save.

    Tensors come as arrays (bfloat16 as float32). limit: bytes that a .npz may unpack to. Raises
    UserError, naming the file, where it is missing or damaged, or holds anything but numbers.
    """
    if path.suffix in (".pt", ".pth"):
        return _from_torch(path)
    try:
        content = read_bytes(path, MAX_FILE)
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
    require_unpacked_size(content, min(limit, MAX_FILE))
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


def _plain_dict(items: Iterable[Sequence] = ()) -> dict:
    if not all(is_key(key) for key, _ in items):
        raise pickle.UnpicklingError("a key of a wrong type")
    return dict(items)


class _TensorUnpickler(ArrayUnpickler):
    """Reads tensors and lists of whole numbers, too."""

    ADMITTED = {
        **ArrayUnpickler.ADMITTED,
        "collections.OrderedDict": _plain_dict,
        "torch.storage._load_from_bytes": _Numbers,
        "torch._utils._rebuild_tensor": _PickledTensor,
        "torch._utils._rebuild_tensor_v2": _PickledTensor,
    }

    @staticmethod
    def array_of(entry: object) -> PickledArray:
        if isinstance(entry, (list, tuple)):
            return _Items(list(entry))
        return ArrayUnpickler.array_of(entry)
