"""Files that hold a dict of arrays, the `.npy` exchange format of the field.

`np.save` writes such a dict as a pickle, and numpy reads it back by running what the pickle says,
which in a foreign file may be anything. The reader here runs nothing.
"""

import io
import pickle
import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from misc.errors import UserError
from misc.files import atomic_path


def save_dict(path: str | Path, content: Mapping[Hashable, np.ndarray]) -> None:
    """Writes a dict of arrays as `np.save` does: `load_dict` reads it, and so does numpy."""
    with atomic_path(path) as temporary:
        # Opened here because np.save appends .npy to names that end otherwise.
        with temporary.open("wb") as stream:
            np.save(stream, dict(content), allow_pickle=True)


def load_dict(path: str | Path, fix: str) -> dict[Any, np.ndarray]:
    """Reads a dict of arrays of numbers without running code from the file.

    fix: what to do about a bad file, for the message of the UserError that is raised when the file
    is missing or broken, or holds anything but a dict of such arrays.
    """
    try:
        stream = io.BytesIO(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {fix}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {fix}") from error
    try:
        _check_header(stream)
        content = _only_dict(_ArrayUnpickler(stream).load())
        return {key: _numbers(value) for key, value in content.items()}
    except Exception as error:  # broken pickles raise almost any kind of exception
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a dict of arrays ({reason}); {fix}") from error


def _check_header(stream: io.BytesIO) -> None:
    """Goes to the end of the header, which has to announce a single object."""
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):  # the later ones are for types with many fields or names beyond Latin-1
        raise ValueError(f"an array file of version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if shape != () or dtype.kind != "O":
        raise ValueError(f"an array of {dtype}")


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


class _PickledArray:
    """Stands for `numpy.ndarray` and holds the parts of a pickled array.

    numpy's own functions are no option: they trust the flags of a pickled type, by which the bytes
    of an array could be passed off as pointers to objects.
    """

    __slots__ = ("shape", "type", "fortran", "data")

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.type, self.fortran, self.data = state

    def numpy(self) -> np.ndarray:
        """The array; an error when the shape asks for other than the bytes that are there."""
        if min(self.shape, default=0) < 0:  # reshape would take it for "whatever fits"
            raise ValueError(f"an array of shape {self.shape}")
        flat = np.frombuffer(self.data, self.type.numpy())
        array = flat.reshape(self.shape, order="F" if self.fortran else "C")
        return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


class _Function:
    """Makes a function callable from a pickle without letting the pickle change its attributes."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable) -> None:
        object.__setattr__(self, "_call", call)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError("a file that sets attributes")

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


def _rebuild_array(subtype: object, shape: object, code: object) -> _PickledArray:
    return _PickledArray()


def _rebuild_type(code: str, align: object = False, copy: object = True) -> _PickledType:
    return _PickledType(code)


def _rebuild_scalar(scalar_type: _PickledType, data: bytes) -> np.generic:
    return np.frombuffer(data, scalar_type.numpy(), count=1)[0]


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2, which old numpy wrote, hold bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


# Not pickle.Unpickler: one damaged byte can make it reserve gigabytes for its table of objects.
class _ArrayUnpickler(pickle._Unpickler):
    """Reads arrays of numbers and the built-in containers; any other name is refused."""

    ADMITTED = {
        "numpy._core.multiarray._reconstruct": _Function(_rebuild_array),  # numpy 2
        "numpy._core.multiarray.scalar": _Function(_rebuild_scalar),
        "numpy.core.multiarray._reconstruct": _Function(_rebuild_array),
        "numpy.core.multiarray.scalar": _Function(_rebuild_scalar),
        "numpy.ndarray": None,  # only ever an argument of _reconstruct
        "numpy.dtype": _Function(_rebuild_type),
        "_codecs.encode": _Function(_encode),
    }

    def find_class(self, module: str, name: str) -> object:
        full_name = f"{module}.{name}"
        if full_name not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it refers to {full_name}")
        return self.ADMITTED[full_name]


def _only_dict(outer: object) -> dict:
    """The dict of the array without axes in which np.save wraps it."""
    if not isinstance(outer, _PickledArray) or outer.shape != ():
        raise ValueError("not a single object")
    (content,) = outer.data
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}")
    return content


def _numbers(value: object) -> np.ndarray:
    if not isinstance(value, _PickledArray):
        raise ValueError(f"an entry is a {type(value).__name__}")
    return value.numpy()
