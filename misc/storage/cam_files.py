"""Dicts in files of `np.save`, which numpy reads by running a pickle: the reader here runs none."""

import io
import math
import pickle
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from misc.errors import UserError
from misc.storage.checksums import Checksum, checksum_of
from misc.storage.files import read_bytes, reading
from misc.storage.images import MAX_PIXELS
from misc.storage.outputs import is_own, write_output

MAX_CLASSES = 65_534  # label = class + 1 of 16 bits, and 65535 means "ignored"
MAX_FILE = 4 << 30  # bytes; maps of ten classes on an image of 100 megapixels
_CAM_FIX = "run make_cam or make_recam_with_RIB first or set --cam_out_dir"
_IMPORT_FIX = "maps of other programs, also as tensors, are read by --import_maps DIR"
_SHARED = 64 << 20  # bytes; image-level labels that are equal may be stored once
_SLACK = 1e-3  # beyond 0..1, of maps that others have made in half precision
# What np.save writes before one object. numpy's own reader would parse it as Python.
DICT_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"(\{'descr': '\|O', 'fortran_order': (?:False|True), 'shape': \(\), \} *\n)",
    re.DOTALL,
)


def save_cam(path: str | Path, keys: np.ndarray, cam: np.ndarray, high_res: np.ndarray) -> None:
    """Write the CAMs of one image: classes (K,) from 0, K x h4 x w4 at stride 4 and K x H x W.

    Raises ValueError for values that are not finite or lie outside of 0..1.
    """
    maps = {"cam": cam, "high_res": high_res}
    maps = {name: np.ascontiguousarray(one, dtype=np.float32) for name, one in maps.items()}
    _check_range(maps)
    save_dict(path, {"keys": np.ascontiguousarray(keys, dtype=np.int64), **maps})


def load_cam(path: str | Path) -> dict[str, np.ndarray]:
    """Read what `save_cam` wrote: `keys` (K,) int64, `cam` and `high_res` float32 in 0..1.

    Raises UserError when it is missing, broken or something else.
    """
    own = not Path(path).is_file() or is_own(Path(path))
    fix = _CAM_FIX if own else _IMPORT_FIX
    content = load_dict(path, fix)
    try:
        return _checked_cam(content)
    except ValueError as error:
        raise UserError(f"{path} is not a CAM file ({error}); {fix}") from error


def _checked_cam(content: dict) -> dict[str, np.ndarray]:
    if set(content) == {"keys"} and content["keys"].size == 0:
        content = dict.fromkeys(("keys", "cam", "high_res"), np.zeros(0))
    if set(content) != {"keys", "cam", "high_res"}:
        raise ValueError("it should hold keys, cam and high_res")
    keys, maps = content["keys"], {name: content[name] for name in ("cam", "high_res")}
    if all(array.shape == (0,) for array in content.values()):
        keys, maps = np.zeros(0, np.int64), dict.fromkeys(maps, np.zeros((0, 0, 0)))
    if keys.dtype.kind not in "iu" or keys.ndim != 1:
        raise ValueError("keys are not a list of whole numbers")
    if any(array.dtype.kind != "f" or array.ndim != 3 for array in maps.values()):
        raise ValueError("maps are not K x H x W floats")
    if not len(keys) == len(maps["cam"]) == len(maps["high_res"]):
        raise ValueError(
            f"{len(keys)} keys, but {', '.join(str(len(m)) for m in maps.values())} maps"
        )
    if len(np.unique(keys)) < len(keys) or ((keys < 0) | (keys >= MAX_CLASSES)).any():
        raise ValueError("keys are not different class indices")
    if any(math.prod(array.shape[1:]) > MAX_PIXELS for array in maps.values()):
        raise ValueError(f"maps of more than {MAX_PIXELS} pixels")  # also where there is no map
    _check_range(maps)
    floats = {name: array.astype(np.float32, copy=False) for name, array in maps.items()}
    return {"keys": keys.astype(np.int64), **floats}


def _check_range(maps: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless all values are finite and in 0..1, up to a small slack."""
    for name, values in maps.items():
        # Written so that NaN, of which every comparison is false, does not pass.
        if values.size and not (values.min() >= -_SLACK and values.max() <= 1 + _SLACK):
            low, high = values.min(), values.max()
            raise ValueError(f"{name} has values from {low:.3g} to {high:.3g}, not in 0..1")


def save_label_dict(path: str | Path, labels: dict[int, np.ndarray]) -> None:
    """Write image-level labels: image number -> multi-hot vector (C,)."""
    save_dict(path, {int(i): np.array(row, dtype=np.float32) for i, row in labels.items()})


def save_dict(path: str | Path, content: Mapping[Hashable, np.ndarray]) -> None:
    """Write a dict of arrays as `np.save` does, with its checksum behind; numpy reads it too."""
    stream = io.BytesIO()
    np.save(stream, dict(content), allow_pickle=True)
    write_output(path, stream.getvalue())


def load_dict(
    path: str | Path, fix: str, names: Mapping[str, object] | None = None
) -> dict[Any, np.ndarray]:
    """Read a dict of arrays of numbers, together at most 64 MiB more than the file; run no code.

    fix: what to do about a bad file, for the message. names: what else `PlainUnpickler` admits.
    """
    with reading(path, "is not a dict of arrays", fix):
        content = read_bytes(path, MAX_FILE)
        found, header = checksum_of(content), DICT_HEADER.match(content)
        if not header or int.from_bytes(header[1], "little") != len(header[2]):
            raise ValueError("not a single object in a file of np.save")
        stream = io.BytesIO(content)  # shares the bytes
        stream.seek(header.end())
        state = PlainUnpickler(stream, {**_NAMES, **(names or {})}).load().state
        if found is Checksum.BROKEN or (found is Checksum.NONE and stream.read(1)):
            raise ValueError(Checksum.BROKEN.value)
        if state[1] != () or not isinstance(state[4][0], dict):
            raise ValueError("not a dict")
        arrays, left = {}, len(content) + _SHARED
        for key, value in state[4][0].items():
            if isinstance(value, (list, tuple)) and all(type(one) is int for one in value):
                arrays[key] = np.array(value, int)
            elif isinstance(value, StandIn):
                arrays[key] = value.array()
            else:
                raise ValueError(f"an entry is a {type(value).__name__}")
            left -= arrays[key].nbytes
            if left < 0:
                raise ValueError("entries that are larger than the file")
        return arrays


class StandIn:
    """Stands for an object of a pickle, which is not made."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, ()

    def numpy(self) -> np.dtype:
        """Return the type that numpy.dtype would make; ValueError unless it is of numbers."""
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", self.arguments[0]):
            raise ValueError(f"elements of type {self.arguments[0]!r}")
        return np.dtype((">" if self.state[1:2] == (">",) else "<") + self.arguments[0])

    def array(self) -> np.ndarray:
        """Return the array; numpy itself would believe a file's types and follow its pointers."""
        _, shape, dtype, fortran, data = self.state
        flat = _numbers(dtype, data, math.prod(shape))
        array = flat.reshape(shape, order="F" if fortran else "C")
        return np.array(array, dtype=flat.dtype.newbyteorder("="), order="C")


def _numbers(dtype: StandIn, data: bytes | str, count: int = 1) -> np.ndarray:
    if len(data) != count * dtype.numpy().itemsize:
        raise ValueError(f"{len(data)} bytes for {count} numbers")
    return np.frombuffer(as_bytes(data), dtype.numpy())


def as_bytes(data: bytes | str) -> bytes:
    """Return the bytes that an old pickle holds as text."""
    return data.encode("latin1") if isinstance(data, str) else data


def _text(text: str = "", encoding: str = "latin1") -> str:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding!r:.20}")
    return text


def plain_dict(items: Iterable[Sequence] = ()) -> dict:
    """Return a dict; UnpicklingError for keys whose hashes take long, or end Python."""
    made = {}
    for key, value in items:
        small = isinstance(key, int) and key.bit_length() <= 64
        if not (small or isinstance(key, (str, float, np.generic))):
            raise pickle.UnpicklingError(f"a key is a {type(key).__name__}")
        made[key] = value
    return made


_NAMES = {
    "numpy._core.multiarray._reconstruct": StandIn,  # numpy 2
    "numpy._core.multiarray.scalar": lambda dtype, data: _numbers(dtype, data)[0],
    "numpy.core.multiarray._reconstruct": StandIn,
    "numpy.core.multiarray.scalar": lambda dtype, data: _numbers(dtype, data)[0],
    "numpy.ndarray": None,  # only ever an argument of _reconstruct
    "numpy.dtype": StandIn,
    "_codecs.encode": _text,
    "__builtin__.bytes": _text,  # of an empty array
}
# What arrays are made of. Among the others are opcodes that reserve memory which the file does not
# fill (BYTEARRAY8) and those that make objects of any class.
_OPCODES = (
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "BINFLOAT", "BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BINUNICODE",
    "BINUNICODE8", "SHORT_BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "BINGET", "LONG_BINGET",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE",
)  # fmt: skip


# That in Python: the one in C reserves gigabytes for its memo where one byte is damaged.
class PlainUnpickler(pickle._Unpickler):
    """Reads numbers, text and containers; `names` has what is put in the place of other names.

    A name that is not among them is refused, and only a StandIn takes a state. The memory is at
    most some hundred bytes for each byte of the file.
    """

    def __init__(self, stream: io.BytesIO, names: Mapping[str, object]) -> None:
        super().__init__(stream)
        self.names = names

    def find_class(self, module: str, name: str) -> object:
        full_name = f"{module}.{name}"
        if full_name not in self.names:
            raise pickle.UnpicklingError(f"it refers to {full_name!a:.60}")
        return self.names[full_name]

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it holds more than plain values")

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, StandIn):
            raise pickle.UnpicklingError("it sets attributes")
        target.state = state

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1].update(plain_dict([(key, value)]))

    def _set_items(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(plain_dict(zip(items[::2], items[1::2], strict=True)))

    dispatch = defaultdict(lambda: PlainUnpickler._refuse)
    dispatch |= {code: pickle._Unpickler.dispatch[code]
                 for code in (getattr(pickle, name)[0] for name in _OPCODES)}  # fmt: skip
    dispatch |= {ord("b"): _build, ord("s"): _set_item, ord("u"): _set_items}
