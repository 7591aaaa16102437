"""Files that hold a dict of arrays, the `.npy` exchange format of the field.

`np.save` writes such a dict as a pickle, and numpy reads it back by running what the pickle says,
which in a foreign file may be anything. The reader here runs nothing.
"""

import io
import math
import pickle
import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from misc.errors import UserError
from misc.storage.outputs import write_output
from misc.storage.pickles import PlainUnpickler
from misc.storage.seals import Seal, seal_of
from misc.storage.untrusted import read_bytes, reason

_MAX_FILE = 4 << 30  # bytes; maps of ten classes on an image of 100 megapixels
_SHARED = 64 << 20  # bytes; image-level labels that are equal may be stored once
_MAX_LENGTH = 1 << 40  # of an axis, also where another one is 0

# What np.save writes before one object. numpy's own reader would parse it as Python.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"(\{'descr': '\|O', 'fortran_order': (?:False|True), 'shape': \(\), \} *\n)",
    re.DOTALL,
)


def save_dict(path: str | Path, content: Mapping[Hashable, np.ndarray]) -> None:
    """Writes a dict of arrays as `np.save` does, with its checksum behind; numpy reads it too."""
    stream = io.BytesIO()
    np.save(stream, dict(content), allow_pickle=True)
    write_output(path, stream.getvalue())


def load_dict(
    path: str | Path, fix: str, unpickler: "type[ArrayUnpickler] | None" = None
) -> dict[Any, np.ndarray]:
    """Reads a dict of arrays of numbers without running code from the file.

    All arrays together have at most 64 MiB more than the file, also where entries share an array.
    fix: what to do about a bad file, for the message of the UserError that is raised when the file
    is missing or damaged (where it has a seal, also by a single bit), or holds anything but a dict
    of such arrays. unpickler: one that reads more than these.
    """
    unpickler = unpickler or ArrayUnpickler
    try:
        content = read_bytes(path, _MAX_FILE)
        seal, stream = seal_of(content), _behind_header(content)
        entries = _only_dict(unpickler(stream).load())
        if seal is Seal.BROKEN or (seal is Seal.NONE and stream.read(1)):  # a seal that was cut
            raise ValueError(Seal.BROKEN.value)
        return _arrays(entries, len(content) + _SHARED, unpickler.array_of)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {fix}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {fix}") from error
    except Exception as error:  # broken pickles raise almost any kind of exception
        raise UserError(f"{path} is not a dict of arrays ({reason(error)}); {fix}") from error


def _behind_header(content: bytes) -> io.BytesIO:
    """What follows the header, which has to announce a single object."""
    header = _HEADER.match(content)
    if not header or int.from_bytes(header[1], "little") != len(header[2]):
        raise ValueError("not a single object in a file of np.save")
    stream = io.BytesIO(content)
    stream.seek(header.end())
    return stream


class _PickledType:
    """Stands for `numpy.dtype`: a number type or, for the array around the dict, object."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple) -> None:
        # Further entries (fields, flags) say nothing about a number type and are not looked at.
        if state[1] in ("<", ">"):
            self.order = state[1]

    def numpy(self) -> np.dtype:
        """The type; ValueError unless it is a plain number type."""
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", self.code):
            raise ValueError(f"elements of type {self.code!r}")
        return np.dtype(self.order + self.code)


class _Latin1:
    """Bytes as pickles of protocol 2 hold them, which old numpy wrote; encoded where needed."""

    __slots__ = ("text",)

    def __init__(self, text: str, encoding: str) -> None:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"text in {encoding!r:.20}")
        self.text = text

    def __len__(self) -> int:
        return len(self.text)


class PickledArray:
    """Stands for `numpy.ndarray` and holds the parts of a pickled array.

    numpy's own functions are no option: they trust the flags of a pickled type, by which the bytes
    of an array could be passed off as pointers to objects.
    """

    __slots__ = ("shape", "type", "fortran", "data")

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.type, self.fortran, self.data = state

    def nbytes(self) -> int:
        """Size of the array; ValueError where its shape is not valid."""
        if not all(type(length) is int and 0 <= length < _MAX_LENGTH for length in self.shape):
            raise ValueError("an array whose shape is not valid")
        return math.prod(self.shape) * self.type.numpy().itemsize

    def numpy(self) -> np.ndarray:
        """The array; an error when the shape asks for other than the bytes that are there."""
        flat = np.frombuffer(_bytes(self.data, self.nbytes()), self.type.numpy())
        array = flat.reshape(self.shape, order="F" if self.fortran else "C")
        return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _bytes(data: bytes | _Latin1, count: int) -> bytes:
    if len(data) != count:
        raise ValueError(f"{len(data)} bytes where {count} are needed")
    return data.text.encode("latin1") if isinstance(data, _Latin1) else data


def _rebuild_array(subtype: object, shape: object, code: object) -> PickledArray:
    return PickledArray()


def _rebuild_type(code: str, align: object = False, copy: object = True) -> _PickledType:
    return _PickledType(code)


def _rebuild_scalar(scalar_type: _PickledType, data: bytes | _Latin1) -> np.generic:
    dtype = scalar_type.numpy()
    return np.frombuffer(_bytes(data, dtype.itemsize), dtype)[0]


def _no_bytes() -> bytes:
    """How pickles of protocol 2 hold the bytes of an empty array."""
    return b""


class ArrayUnpickler(PlainUnpickler):
    """Reads arrays of numbers, too; `array_of` gives the array of an entry, or a ValueError."""

    ADMITTED = {
        "numpy._core.multiarray._reconstruct": _rebuild_array,  # numpy 2
        "numpy._core.multiarray.scalar": _rebuild_scalar,
        "numpy.core.multiarray._reconstruct": _rebuild_array,
        "numpy.core.multiarray.scalar": _rebuild_scalar,
        "numpy.ndarray": None,  # only ever an argument of _reconstruct
        "numpy.dtype": _rebuild_type,
        "_codecs.encode": _Latin1,
        "__builtin__.bytes": _no_bytes,
    }
    STATEFUL = (PickledArray, _PickledType)

    @staticmethod
    def array_of(entry: object) -> PickledArray:
        """An entry of the dict, which has to be an array."""
        if not isinstance(entry, PickledArray):
            raise ValueError(f"an entry is a {type(entry).__name__}")
        return entry


def _only_dict(outer: object) -> dict:
    """The dict of the array without axes in which np.save wraps it."""
    if not isinstance(outer, PickledArray) or outer.shape != ():
        raise ValueError("not a single object")
    (content,) = outer.data
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}")
    return content


def _arrays(
    entries: dict, limit: int, array_of: Callable[[object], PickledArray]
) -> dict[Any, np.ndarray]:
    """The arrays of numbers; ValueError for other entries, and above `limit` bytes in all."""
    arrays = {}
    for key, value in entries.items():
        array = array_of(value)
        limit -= array.nbytes()
        if limit < 0:
            raise ValueError("entries that are larger than the file")
        arrays[key] = array.numpy()
    return arrays
