"""misc/storage/cam_files.py: dicts of arrays come back; a file of anything else does nothing."""

import builtins
import codecs
import io
import os

import numpy as np
import pytest
import torch

from misc.errors import UserError
from misc.storage.cam_files import load_dict, save_dict
from tests.tools.fuzz_inputs import npy, npy_of_pickle
from tests.tools.hostile import RECONSTRUCT, Reduced, crafted_array


def refused(path, content=None):
    """The message about a file, which has to be one line."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} .*; fix it") as refusal:
        load_dict(path, "fix it")
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("dtype", ["?", "u1", "i4", "<i8", ">i8", "f2", "<f4", ">f4", "f8"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3, 4), (2, 3), (2, 3, 4)])
def test_arrays_come_back(tmp_path, dtype, shape):
    array = np.asarray(np.random.RandomState(0).randint(0, 2, shape), dtype=dtype)
    save_dict(tmp_path / "a.npy", {"a": array, 7: np.array(array, order="F")})
    loaded = load_dict(tmp_path / "a.npy", "fix it")
    assert set(loaded) == {"a", 7}
    for result in loaded.values():
        np.testing.assert_array_equal(result, array)
        assert result.shape == shape and result.dtype == array.dtype.newbyteorder("=")
        assert result.flags.writeable and result.flags.c_contiguous


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_files_of_all_numpy_versions_are_read(tmp_path, protocol, package):
    value = {np.int64(5): np.arange(200, dtype=np.float32), "b": np.zeros((0, 3), np.float32)}
    content = npy(value, protocol)
    old, new = RECONSTRUCT.__module__.encode(), package + b".multiarray"
    # Protocol 4 writes the length of a name before it, the older ones end it by a line break.
    content = content.replace(bytes([len(old)]) + old, bytes([len(new)]) + new)
    content = content.replace(b"c" + old + b"\n", b"c" + new + b"\n")
    frame = content.find(b"\x80\x04\x95")  # its length has to fit
    content = content[: frame + 2] + content[frame + 11 :] if protocol == 4 else content
    assert new in content
    (tmp_path / "a.npy").write_bytes(content)
    loaded = load_dict(tmp_path / "a.npy", "fix it")
    np.testing.assert_array_equal(loaded[5], value[5])
    assert loaded["b"].shape == (0, 3)


def test_malicious_files_run_nothing(tmp_path):
    harm, storage = tmp_path / "harm", io.BytesIO()
    command, code = f"touch {harm}", f"open({str(harm)!r}, 'w')"
    torch.save(Reduced(os.system, command), storage)
    attacks = {
        "system": Reduced(os.system, command),
        "entry": {"keys": Reduced(builtins.eval, code)},
        "key": {Reduced(builtins.eval, code): np.zeros(3)},
        "torch": {"keys": Reduced(torch.storage._load_from_bytes, storage.getvalue())},
        "tensor": {"keys": torch.arange(3)},
        "subclass": {"keys": Reduced(RECONSTRUCT, np.memmap, (0,), b"b")},
        "codec": {"keys": Reduced(codecs.decode, b"a", "rot13")},
    }
    for name, attack in attacks.items():
        for protocol in (2, 4):
            said = refused(tmp_path / "a.npy", npy(attack, protocol))
            assert "is not a dict of arrays (it refers to" in said and not harm.exists(), name
    # The files are live: read without protection, one does its harm.
    (tmp_path / "a.npy").write_bytes(npy(attacks["system"]))
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert harm.exists()


CRAFTED = [
    {"code": "O8", "shape": (1,)},  # numpy would follow these bytes as a pointer
    {"code": "O8", "flags": 63, "shape": (1,), "data": [{}]},
    *({"code": code, "shape": (1,)} for code in ("V8", "f4,f4", "S8")),
    *({"shape": shape} for shape in ((3,), (10**12,), (10**30,), (0, 10**30), (-1,), 2)),
    {"data": b"A" * 7},
]


@pytest.mark.parametrize("crafted", CRAFTED)
def test_crafted_arrays_are_refused(tmp_path, crafted):
    sets_attribute = b"\x80\x02cnumpy\ndtype\nN}X\x05\x00\x00\x00_callNs\x86b."
    assert "sets attributes" in refused(tmp_path / "a.npy", npy_of_pickle(sets_attribute))
    refused(tmp_path / "a.npy", npy({"a": crafted_array(**crafted)}))
    (tmp_path / "a.npy").write_bytes(npy({"a": crafted_array()}))  # no file changes the reader
    array = load_dict(tmp_path / "a.npy", "fix it")["a"]
    assert array.tobytes() == b"A" * 8 and array.shape == (2,)


def test_other_objects_and_files_are_refused(tmp_path):
    for value in ([1, 2], None, {"a": 3}, {"a": [1.0]}, {"a": np.array(["b"])}):
        refused(tmp_path / "a.npy", npy(value))
    for array in (np.zeros(3), np.array([{}, {}])):
        np.save(tmp_path / "a.npy", array)
        refused(tmp_path / "a.npy")
    long_header = b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65535
    for content in (b"keys", b"", npy_of_pickle(b""), long_header):
        refused(tmp_path / "a.npy", content)
    assert "is missing" in refused(tmp_path / "none.npy")
    assert "cannot be read" in refused(tmp_path)
