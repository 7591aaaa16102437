"""Files of torch.save, and arrays and tensors in files of other tools; no code in them is run."""

import io
import math
import pickletools
import zipfile
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from misc.errors import UserError
from misc.storage.cam_files import DICT_HEADER, MAX_FILE, StandIn, as_bytes, load_dict, plain_dict
from misc.storage.files import read_bytes, reading, reason, require_regular, require_unpacked_size
from misc.storage.outputs import open_output

SUFFIXES = (".npy", ".npz", ".pt", ".pth")
Content = np.ndarray | dict[Hashable, np.ndarray]

_FIX = "make it again, or move it away"
_LEGACY_PARTS = 5  # pickles of the older format: magic number, protocol, machine, content, storages
_TYPES = "Double Float Half BFloat16 Long Int Short Char Byte Bool".split()
# Other names that torch admits can take any memory (bytearray) or are no plain tensors.
_REBUILD = [f"torch._utils _rebuild_{name}" for name in ("parameter", "tensor", "tensor_v2")]
_ADMITTED = {"collections OrderedDict", "torch Size", *_REBUILD}
_ADMITTED |= {f"torch {name}Storage" for name in _TYPES}
_MAX_TUPLES = 30_000  # four for each tensor; to hash a key of 100,000 nested ones ends Python


def read_torch(path: Path, kind: str = "network weights") -> Any:
    """Return the content of a file of tensors and plain values, on the CPU; UserError of others."""
    if not path.is_file():
        problem = "is not a file" if path.exists() else "is missing"
        raise UserError(f"{path} {problem}; give the path of a checkpoint, with .pth if it has it")
    fix = "it is damaged, or holds more than tensors and plain values; give another file"
    with reading(path, f"cannot be read as {kind}", fix):
        require_regular(path)
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # by these torch tells its formats apart
        if not is_zip:
            return _read_legacy(read_bytes(path, MAX_FILE))
        _check_archive(path)
        # Mapped, a tensor can have no bytes but those of the file, whatever size it states.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return _checked(content, path.stat().st_size)


def write_torch(path: Path, content: dict) -> None:
    """Write what `read_torch` reads; no signal may interrupt it, torch takes that for an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # An opened file: torch would note the name, which is another one in every run.
        with open_output(path) as stream:
            torch.save(content, stream)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        said = f"{path} cannot be written ({reason(error)}); free or change the place"
        raise UserError(said) from error


def _check_archive(path: Path) -> None:
    """Raise ValueError where torch's newer format is damaged, or unpacks to more than its size."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("compressed entries")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("entries that are larger than the file")
        if archive.testzip() or len(set(archive.namelist())) < len(entries):
            raise ValueError("entries are damaged")
        folder = entries[0].filename.split("/")[0]
        _check_pickle(io.BytesIO(archive.read(f"{folder}/data.pkl")), MAX_FILE)


def _read_legacy(content: bytes) -> Any:
    """Return the content of torch's older format, in which no number is above the file's size."""
    stream = io.BytesIO(content)
    _check_pickle(stream, 1 << 80)  # the magic number
    for _ in range(_LEGACY_PARTS - 1):
        _check_pickle(stream, max(len(content), 1 << 16))
    # From memory: torch would take a file that is neither for a tar archive and unpack it.
    loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return _checked(loaded, len(content))


def _check_pickle(stream: io.BytesIO, largest: int) -> None:
    """Read a pickle without making anything; ValueError for what costs torch memory or its end."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(stream):
        tuples += opcode.name.startswith("TUPLE")
        if opcode.name == "GLOBAL" and argument not in _ADMITTED:
            raise ValueError(f"it refers to {argument!a:.60}")
        if tuples > _MAX_TUPLES or (isinstance(argument, int) and argument > largest):
            raise ValueError("more numbers than a file of this size has")


def _checked(content: Any, size: int) -> Any:
    """Return the content; ValueError where tensors are larger than their storages or the file."""
    storages = {}
    for tensor in _tensors(content):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if tensor.nbytes > storage.nbytes() or sum(storages.values()) > size:
            raise ValueError("tensors that are larger than the file")
    return content


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, (dict, list, tuple)):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _tensors(part)


class _Tensor(StandIn):
    """Stands for a tensor in a plain pickle, which holds the bytes of a file of torch.save."""

    def array(self) -> np.ndarray:
        storage, offset, size, strides = self.arguments[:4]
        stored = _read_legacy(as_bytes(storage.arguments[0]))
        numbers = torch.empty(0, dtype=stored.dtype).set_(stored)
        if math.prod(size) > numbers.numel():
            raise ValueError("a tensor that is larger than the file")
        return _numbers(numbers.as_strided(size, strides, offset))


_TENSOR_NAMES = {
    "collections.OrderedDict": plain_dict,
    "torch.storage._load_from_bytes": StandIn,
    "torch._utils._rebuild_tensor": _Tensor,
    "torch._utils._rebuild_tensor_v2": _Tensor,
}


def read_arrays(path: Path, limit: int = MAX_FILE) -> Content:
    """Return the array of a file, or its arrays by name; UserError unless it holds numbers alone.

    Tensors come as arrays (bfloat16 as float32). limit: bytes that a .npz may unpack to.
    """
    loaded = read_torch(path, "maps") if path.suffix in (".pt", ".pth") else None
    with reading(path, "cannot be read as arrays", _FIX):
        if loaded is None:
            content = read_bytes(path, MAX_FILE)
            if DICT_HEADER.match(content):
                return load_dict(path, _FIX, _TENSOR_NAMES)
            if path.suffix == ".npz":
                require_unpacked_size(content, min(limit, MAX_FILE))
            loaded = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(loaded, (dict, np.lib.npyio.NpzFile)):
            return {name: _numbers(value) for name, value in loaded.items()}
        return _numbers(loaded)


def _numbers(value: object) -> np.ndarray:
    """Return a tensor, an array or a list of whole numbers as an array; ValueError for others."""
    if isinstance(value, torch.Tensor) and not value.is_complex():
        value = value.detach().contiguous()
        value = (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    elif isinstance(value, (list, tuple)) and all(type(one) is int for one in value):
        value = np.array(value, dtype=np.int64)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise ValueError(f"an entry is a {type(value).__name__}")
    return np.array(value, value.dtype.newbyteorder("="), order="C")
