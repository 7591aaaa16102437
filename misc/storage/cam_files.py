"""The dict files of the field: maps of an image, and image-level labels."""

import io
import math
import pickle
import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from misc.errors import UserError
from misc.storage.checksums import Checksum, checksum_of
from misc.storage.files import read_bytes, reason
from misc.storage.images import MAX_PIXELS
from misc.storage.outputs import is_own, write_output

CAM_FIX = "run make_cam or make_recam_with_RIB first or set --cam_out_dir"
_IMPORT_FIX = "maps of other programs, also as tensors, are read by --import_maps DIR"
LABEL_FIX = "make the label file again or check its path"

MAX_CLASSES = 65_534  # label = class + 1 of 16 bits, and 65535 means "ignored"
_SLACK = 1e-3  # beyond 0..1, of maps that others have made in half precision


def save_cam(path: str | Path, keys: np.ndarray, cam: np.ndarray, high_res: np.ndarray) -> None:
    """Writes the CAMs of one image; `load_cam` reads them.

    keys: (K,) 0-based classes, saved as int64. cam: K x h4 x w4 at stride 4 and high_res:
    K x H x W at full size, saved as float32. With K = 0 all three are saved empty.
    Raises ValueError for values that are not finite or lie outside of 0..1.
    """
    content = {
        "keys": np.ascontiguousarray(keys, dtype=np.int64),
        "cam": np.ascontiguousarray(cam, dtype=np.float32),
        "high_res": np.ascontiguousarray(high_res, dtype=np.float32),
    }
    _check_range(content)
    save_dict(path, content)


def load_cam(path: str | Path) -> dict[str, np.ndarray]:
    """Reads what `save_cam` wrote: `keys` (K,) int64, `cam` and `high_res` float32 in 0..1.

    An older file of an image without classes, which holds `keys` alone, gives 0 x 0 x 0 maps. No
    code in the file is run. Raises UserError when it is missing, broken or something else.
    """
    try:
        return _checked_cam(load_dict(path, CAM_FIX))
    except (UserError, ValueError) as error:
        said = error if isinstance(error, UserError) else f"{path} is not a CAM file ({error})"
        fix = _IMPORT_FIX if Path(path).is_file() and not is_own(Path(path)) else CAM_FIX
        raise UserError(f"{str(said).removesuffix(f'; {CAM_FIX}')}; {fix}") from error


def save_label_dict(path: str | Path, labels: dict[int, np.ndarray]) -> None:
    """Writes image-level labels: image number -> multi-hot vector (C,), saved as float32."""
    content = {int(image): np.array(row, dtype=np.float32) for image, row in labels.items()}
    save_dict(path, content)


def load_label_dict(path: str | Path) -> dict[int, np.ndarray]:
    """Reads what `save_label_dict` wrote: image number -> multi-hot vector (C,) float32.

    No code in the file is run. Raises UserError when it is missing, broken or something else.
    """
    content = load_dict(path, LABEL_FIX)
    try:
        labels = {_integer(image): _check(row, "biuf", 1) for image, row in content.items()}
        if len({row.size for row in labels.values()}) > 1:
            raise ValueError("vectors of different lengths")
    except ValueError as error:
        raise UserError(f"{path} is not a label file ({error}); {LABEL_FIX}") from error
    return {image: row.astype(np.float32) for image, row in labels.items()}


def _checked_cam(content: dict) -> dict[str, np.ndarray]:
    """The three arrays of a CAM file; ValueError says what does not fit."""
    if set(content) == {"keys"} and content["keys"].size == 0:
        content = dict.fromkeys(("keys", "cam", "high_res"), np.zeros(0))
    if set(content) != {"keys", "cam", "high_res"}:
        raise ValueError("it should hold keys, cam and high_res")
    if all(array.shape == (0,) for array in content.values()):
        no_maps = np.zeros((0, 0, 0), dtype=np.float32)
        return {"keys": np.zeros(0, dtype=np.int64), "cam": no_maps, "high_res": no_maps.copy()}
    keys = _check(content["keys"], "iu", 1)
    maps = {name: _check(content[name], "f", 3) for name in ("cam", "high_res")}
    if not len(keys) == len(maps["cam"]) == len(maps["high_res"]):
        counts = f"{len(maps['cam'])} and {len(maps['high_res'])}"
        raise ValueError(f"{len(keys)} keys, but {counts} maps")
    if len(np.unique(keys)) < len(keys) or ((keys < 0) | (keys >= MAX_CLASSES)).any():
        raise ValueError("keys are not different class indices")
    if any(math.prod(array.shape[1:]) > MAX_PIXELS for array in maps.values()):
        raise ValueError(f"maps of more than {MAX_PIXELS} pixels")  # also where there is no map
    _check_range(maps)
    floats = {name: array.astype(np.float32, copy=False) for name, array in maps.items()}
    return {"keys": keys.astype(np.int64), **floats}


def _check_range(content: Mapping[str, np.ndarray]) -> None:
    """ValueError unless the values of all maps are finite and in 0..1, up to a small slack."""
    for name in ("cam", "high_res"):
        values = content[name]
        # Written so that NaN, of which every comparison is false, does not pass.
        if values.size and not (values.min() >= -_SLACK and values.max() <= 1 + _SLACK):
            low, high = values.min(), values.max()
            raise ValueError(f"{name} has values from {low:.3g} to {high:.3g}, not in 0..1")


def _check(array: np.ndarray, kinds: str, ndim: int) -> np.ndarray:
    """The array itself; ValueError unless its type is one of `kinds` and it has `ndim` axes."""
    if array.dtype.kind not in kinds or array.ndim != ndim:
        raise ValueError(f"an entry is {array.ndim}-dimensional of {array.dtype}")
    return array


def _integer(value: object) -> int:
    if not isinstance(value, (int, np.integer)):
        raise ValueError(f"an image number is a {type(value).__name__}")
    return int(value)


# What files of arrays and of network weights are made of. Among the others are those that reserve
# memory which the file does not fill (BYTEARRAY8) and those that make objects of any class.
_OPCODES = (
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "BINFLOAT", "BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BINUNICODE",
    "BINUNICODE8", "SHORT_BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS",
    "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL",
    "REDUCE", "BUILD", "BINPERSID",
)  # fmt: skip


class _Dispatch(dict):
    def __missing__(self, code: int) -> None:
        raise pickle.UnpicklingError(f"it has the opcode {code}, which is not needed")


# Not pickle.Unpickler: one damaged byte can make it reserve gigabytes for its table of objects.
class PlainUnpickler(pickle._Unpickler):
    """Reads numbers, text and the built-in containers.

    Every name that a file refers to is refused, unless a subclass ADMITs it: what it names is
    put in its place. STATEFUL are the types whose `__setstate__` a file may call. The memory is at
    most some 200 bytes for each byte of the file.
    """

    ADMITTED: dict[str, object] = {}
    STATEFUL: tuple[type, ...] = ()

    dispatch = _Dispatch()
    for _name in _OPCODES:
        _code = getattr(pickle, _name)[0]
        dispatch[_code] = pickle._Unpickler.dispatch[_code]

    def find_class(self, module: str, name: str) -> object:
        full_name = f"{module}.{name}"
        if full_name not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it refers to {full_name!a:.60}")
        return self.ADMITTED[full_name]

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, self.STATEFUL):
            raise pickle.UnpicklingError("it sets attributes")
        target.__setstate__(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list) -> None:
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_key(key):
                raise pickle.UnpicklingError(f"a key is a {type(key).__name__}")
            target[key] = value

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


def is_key(value: object) -> bool:
    """Whether a dict may have such a key.

    To hash a deeply nested tuple ends Python, and many large integers have the same hash.
    """
    if isinstance(value, int):
        return value.bit_length() <= 64
    return isinstance(value, (str, float, np.generic))


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
        seal, stream = checksum_of(content), _behind_header(content)
        entries = _only_dict(unpickler(stream).load())
        if seal is Checksum.BROKEN or (
            seal is Checksum.NONE and stream.read(1)
        ):  # a seal that was cut
            raise ValueError(Checksum.BROKEN.value)
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
