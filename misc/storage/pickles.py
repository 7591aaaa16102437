"""What is left of the pickle format when nothing in a file may do harm."""

import pickle

import numpy as np

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
