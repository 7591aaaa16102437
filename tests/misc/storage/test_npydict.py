"""misc/storage/npydict.py: dicts of arrays come back; a file of anything else does nothing."""

import builtins
import codecs
import io
import os
import pickle
import random
import tracemalloc

import numpy as np
import pytest
import torch

from misc.errors import UserError
from misc.storage.cam_files import load_dict, save_dict

RECONSTRUCT = np.zeros(1).__reduce__()[0]  # its module differs between numpy 1 and 2


class Reduced:
    """Is pickled as the given call, and the given state set on its result."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def pickled_object(value, protocol=4):
    """What np.save puts behind the header of a file with one object."""
    outer = np.empty((), dtype=object)
    outer[()] = value
    return pickle.dumps(outer, protocol=protocol)


def write_file(path, content, descr="|O", shape=()):
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    path.write_bytes(stream.getvalue() + content)


@pytest.mark.parametrize("dtype", ["?", "u1", "i4", "<i8", ">i8", "f2", "<f4", ">f4", "f8"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3, 4), (2, 3), (2, 3, 4)])
def test_arrays_come_back(tmp_path, dtype, shape):
    array = np.asarray(np.random.RandomState(0).randint(0, 2, shape), dtype=dtype)
    save_dict(tmp_path / "a.npy", {"a": array, 7: np.array(array, order="F")})
    loaded = load_dict(tmp_path / "a.npy", "fix it")
    assert set(loaded) == {"a", 7}
    for result in loaded.values():
        np.testing.assert_array_equal(result, array)
        assert result.shape == shape
        assert result.dtype == array.dtype.newbyteorder("=") and result.dtype.isnative
        assert result.flags.writeable and result.flags.c_contiguous


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_files_of_all_numpy_versions_are_read(tmp_path, protocol, package):
    value = {np.int64(5): np.arange(200, dtype=np.float32)}
    pickled = pickled_object(value, protocol)
    written_by = RECONSTRUCT.__module__.encode()
    reader = package + b".multiarray"
    # Protocol 4 writes the length of a name before it, the older ones end it by a line break.
    pickled = pickled.replace(bytes([len(written_by)]) + written_by, bytes([len(reader)]) + reader)
    pickled = pickled.replace(b"c" + written_by + b"\n", b"c" + reader + b"\n")
    assert reader in pickled and (protocol == 4 or b"\x95" not in pickled[:4])
    write_file(tmp_path / "a.npy", without_frames(pickled) if protocol == 4 else pickled)
    loaded = load_dict(tmp_path / "a.npy", "fix it")
    np.testing.assert_array_equal(loaded[5], value[5])


@pytest.mark.parametrize("protocol", [2, 4])
def test_empty_arrays_of_all_protocols_are_read(tmp_path, protocol):
    write_file(tmp_path / "a.npy", pickled_object({"a": np.zeros((0, 3), np.float32)}, protocol))
    assert load_dict(tmp_path / "a.npy", "fix it")["a"].shape == (0, 3)


def without_frames(pickled):
    """The same pickle without its first frame mark, whose length has to fit."""
    assert pickled[2:3] == pickle.FRAME
    return pickled[:2] + pickled[11:]


def test_malicious_files_run_nothing(tmp_path):
    harm = tmp_path / "harm"
    command, code = f"touch {harm}", f"open({str(harm)!r}, 'w')"
    storage = io.BytesIO()
    torch.save(Reduced(os.system, command), storage)
    attacks = {
        "system": Reduced(os.system, command),
        "exec": Reduced(builtins.exec, code),
        "entry": {"keys": Reduced(builtins.eval, code)},
        "key": {Reduced(builtins.eval, code): np.zeros(3)},
        "getattr": Reduced(getattr, "", "join"),
        "torch": {"keys": Reduced(torch.storage._load_from_bytes, storage.getvalue())},
        "tensor": {"keys": torch.arange(3)},
        "subclass": {"keys": Reduced(RECONSTRUCT, np.memmap, (0,), b"b")},
        "codec": {"keys": Reduced(codecs.decode, b"a", "rot13")},
    }
    path = tmp_path / "a.npy"
    for name, attack in attacks.items():
        for protocol in (2, 4):
            write_file(path, pickled_object(attack, protocol))
            with pytest.raises(UserError, match=f"{path} is not a dict .*refers to.*; fix it"):
                load_dict(path, "fix it")
            assert not harm.exists(), name
    # The files are live: read without protection, one does its harm.
    write_file(path, pickled_object(attacks["system"]))
    np.load(path, allow_pickle=True)
    assert harm.exists()


def crafted_array(code="f4", flags=0, shape=(2,), data=b"A" * 8):
    array_type = Reduced(
        np.dtype, code, False, True, state=(3, "<", None, None, None, -1, -1, flags)
    )
    return Reduced(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, shape, array_type, False, data))


def test_crafted_arrays_can_be_good(tmp_path):
    write_file(tmp_path / "a.npy", pickled_object({"a": crafted_array()}))
    array = load_dict(tmp_path / "a.npy", "fix it")["a"]
    assert array.tobytes() == b"A" * 8 and array.shape == (2,)


@pytest.mark.parametrize(
    "crafted",
    [
        {"code": "O8", "shape": (1,)},  # numpy would follow these bytes as a pointer
        {"code": "O8", "flags": 63, "shape": (1,), "data": [{}]},
        {"code": "V8", "shape": (1,)},
        {"code": "f4,f4", "shape": (1,)},
        {"code": "S8", "shape": (1,)},
        {"shape": (3,)},
        {"shape": (10**12,)},
        {"shape": (10**30,)},
        {"shape": (0, 10**30)},
        {"shape": (-1,)},
        {"shape": 2},
        {"data": "AAAAAAAA"},
        {"data": b"A" * 7},
    ],
)
def test_crafted_arrays_are_refused(tmp_path, crafted):
    write_file(tmp_path / "a.npy", pickled_object({"a": crafted_array(**crafted)}))
    with pytest.raises(UserError, match="a.npy is not a dict of arrays"):
        load_dict(tmp_path / "a.npy", "fix it")


def test_a_file_cannot_change_the_reader(tmp_path):
    sets_attribute = b"\x80\x02cnumpy\ndtype\nN}X\x05\x00\x00\x00_callNs\x86b."
    write_file(tmp_path / "a.npy", sets_attribute)
    with pytest.raises(UserError, match="sets attributes"):
        load_dict(tmp_path / "a.npy", "fix it")
    test_crafted_arrays_can_be_good(tmp_path)


@pytest.mark.parametrize("value", [[1, 2], None, {"a": 3}, {"a": [1.0]}, {"a": np.array(["b"])}])
def test_other_objects_are_refused(tmp_path, value):
    write_file(tmp_path / "a.npy", pickled_object(value))
    with pytest.raises(UserError, match="a.npy is not a dict of arrays"):
        load_dict(tmp_path / "a.npy", "fix it")


def test_plain_arrays_and_foreign_files_are_refused(tmp_path):
    np.save(tmp_path / "plain.npy", np.zeros(3))
    np.save(tmp_path / "list.npy", np.array([{}, {}]))
    (tmp_path / "text.npy").write_text("keys")
    (tmp_path / "empty.npy").touch()
    write_file(tmp_path / "header.npy", b"")
    long_header = b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65535
    (tmp_path / "long.npy").write_bytes(long_header)
    for name in ("plain", "list", "text", "empty", "header", "long"):
        with pytest.raises(UserError, match=f"{name}.npy is not a dict of arrays") as raised:
            load_dict(tmp_path / f"{name}.npy", "fix it")
        assert "\n" not in str(raised.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="a.npy is missing; fix it"):
        load_dict(tmp_path / "a.npy", "fix it")
    with pytest.raises(UserError, match="cannot be read"):
        load_dict(tmp_path, "fix it")


def test_a_damaged_file_does_not_take_memory(tmp_path):
    write_file(
        tmp_path / "a.npy", b"\x80\x02]r\xff\xff\xff\x00."
    )  # a list "remembered as no. 2^24"
    tracemalloc.start()
    with pytest.raises(UserError):
        load_dict(tmp_path / "a.npy", "fix it")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # numpy parses the damaged header
def test_damaged_files_are_refused_or_read(tmp_path):
    path = tmp_path / "a.npy"
    save_dict(path, {"keys": np.arange(3), "cam": np.zeros((3, 2, 2), dtype=np.float32)})
    whole = path.read_bytes()
    unsealed = len(whole) - len(b"RIB crc32 00000000\n")
    for length in {*range(len(whole))} - {unsealed}:  # there it is what numpy writes
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            load_dict(path, "fix it")
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            loaded = load_dict(path, "fix it")
        except UserError:
            continue
        assert all(type(array) is np.ndarray for array in loaded.values())
