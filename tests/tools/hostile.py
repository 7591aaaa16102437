"""Small files that would run code, fill the memory or end Python, if their reader let them."""

import _codecs
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch

from misc.storage.images import MAX_PIXELS
from tests.tools.fuzz_inputs import coco_content, npy, npy_of_pickle, picture, png_of, torch_file

RECONSTRUCT = np.zeros(1).__reduce__()[0]  # its module differs between numpy 1 and 2


class Reduced:
    """Is pickled as the given call, and the given state set on its result."""

    def __init__(self, function: Callable, *arguments: object, state: object = None):
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.reduced


def crafted_array(code="f4", flags=0, shape=(2,), data: object = b"A" * 8) -> Reduced:
    """A pickled array whose parts need not fit each other."""
    state = (3, "<", None, None, None, -1, -1, flags)
    array_type = Reduced(np.dtype, code, False, True, state=state)
    return Reduced(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, shape, array_type, False, data))


def _shared(data: list, protocol: int) -> bytes:
    """Thousand arrays of 1 MB that have their bytes in common."""
    return npy({i: crafted_array("u1", 0, (1 << 20,), data[i % len(data)]) for i in range(1000)},
               protocol)  # fmt: skip


def _empty_maps() -> bytes:
    """No map, but of a size that a map of labels would get."""
    maps = crafted_array("f4", 0, (0, 1 << 20, 1 << 20), b"")
    return npy({"keys": np.zeros(0, int), "cam": maps, "high_res": maps})


TEXT = "\0" * (1 << 20)
PICKLES = {
    "a byte array of 8 GiB": ("npy", lambda: npy_of_pickle(
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b".")),
    "a memo of 2^31 places": ("npy", lambda: npy_of_pickle(b"\x80\x02]r\xff\xff\xff\x7f.")),
    "a deeply nested key": ("npy", lambda: npy_of_pickle(  # to hash it ends Python
        b"\x80\x04}N" + b"\x85" * 300_000 + b"Ns.")),
    "a header that is Python": ("npy", lambda: b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10000 + b"N."),
    "an array in all entries": ("labels", lambda: npy(
        dict.fromkeys(range(1000), np.zeros(1 << 17)))),
    "bytes in all entries": ("npy", lambda: _shared([bytes(1 << 20)], 4)),
    "text in all entries": ("npy", lambda: _shared(
        [Reduced(_codecs.encode, TEXT, "latin1") for _ in range(1000)], 2)),  # of Python 2
    "keys of one hash": ("labels", lambda: npy(
        {i * (2**61 - 1): np.zeros(1) for i in range(1, 6_000)})),
    "huge maps of no class": ("cam", _empty_maps),
}  # fmt: skip


def rezipped(data: bytes, *pairs: tuple[bytes, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with opcodes of its pickle replaced by others, or compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", method) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, replaced(content, *pairs) if name.endswith("data.pkl") else content)
    return stream.getvalue()


def weights(tensor: torch.Tensor, legacy: bool = False) -> bytes:
    """A file with this tensor as the weights of a network."""
    return torch_file({"conv1.weight": tensor}, legacy)


def replaced(data: bytes, *pairs: tuple[bytes, bytes]) -> bytes:
    """With each of these opcodes, which have to be there once, replaced by the other."""
    for old, new in pairs:
        assert data.count(old) == 1, old
        data = data.replace(old, new)
    return data


MANY = b"J\0\0\0\x10"  # the opcode of 2^28


def legacy_of(content: bytes) -> bytes:
    """The older format of torch around a pickled content without storages."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(p, 2) for p in parts) + content + pickle.dumps([], 2)


def doubling_text() -> bytes:
    """Text that is written in hexadecimal digits 40 times over."""
    inner = b"c_codecs\nencode\n" * 40 + b"X\x02\x00\x00\x00ab" + b"X\x03\x00\x00\x00hex\x86R" * 40
    return legacy_of(b"\x80\x02}X\x01\x00\x00\x00a" + inner + b"s.")


def tar_archive() -> bytes:
    """The oldest format of torch, which it would unpack to the disk."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return stream.getvalue()


THREE = torch.zeros(3)
CHECKPOINTS = {
    "compressed weights": lambda: rezipped(
        weights(torch.zeros(1 << 25)), method=zipfile.ZIP_DEFLATED),
    "weights that are one number": lambda: weights(torch.zeros(1).half().expand(1 << 34)),
    "many names of one tensor": lambda: torch_file(
        dict.fromkeys(map(str, range(9999)), torch.zeros(1 << 17).half())),
    "more numbers than bytes": lambda: rezipped(
        weights(THREE), (b"K\x03tq", MANY + b"tq"), (b"K\x03\x85q", MANY + b"\x85q")),
    "more numbers than bytes, legacy": lambda: replaced(
        weights(THREE.half(), legacy=True), (b"K\x03Ntq", MANY + b"Ntq"),
        (b"K\x03\x85q", MANY + b"\x85q")),
    "elements far apart": lambda: rezipped(
        weights(THREE), (b"K\x03\x85q\x08K\x01\x85", b"K\x03\x85q\x08" + MANY + b"\x85")),
    "doubling text": doubling_text,
    "deeply nested items": lambda: legacy_of(
        b"\x80\x02ccollections\nOrderedDict\n]N" + b"\x85" * 300_000 + b"N\x86a\x85R."),
    "a byte array of 8 GiB": lambda: legacy_of(
        b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x02\x85Rs."),
    "a tar archive": tar_archive,
    "a sparse tensor": lambda: weights(torch.zeros(2, 2).to_sparse()),
    "a tensor without content": lambda: weights(torch.empty(1 << 20, 1 << 20, device="meta")),
    "a network of a million channels": lambda: weights(torch.zeros(10**6, 0)),
}  # fmt: skip


def entities(encoding: str) -> bytes:
    """Entities that stand for ten of the one before."""
    lines = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    return (
        f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY a0 "ab">{lines}]>'
        "<a><object><name>&a9;</name></object></a>"
    ).encode(encoding)


EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "{}">]><a><object><name>&x;</name></object></a>'
XML = {
    "entities of entities": entities("utf-8"),
    "entities of entities in UTF-16": entities("utf-16"),
    "a file as entity": EXTERNAL.format("file:///etc/passwd").encode(),
    "a DTD elsewhere": b'<!DOCTYPE a SYSTEM "http://127.0.0.1/a"><a/>',
    "an encoding that is none": b"<?xml version='1.0' encoding='os'?><a/>",
    "a codec": b"<?xml version='1.0' encoding='bz2'?><a/>",
    "deeply nested elements": b"<a>" * 100_000,
    "more than an annotation": b"<a>" + b" " * (1 << 20) + b"</a>",
    "a long name": b"<a><object><name>" + b"\xe2\x80\xa8x" * 9999 + b"</name></object></a>",
}


def changed_coco(table: str, **change: object) -> bytes:
    """An instances file whose first entry of a table is changed."""
    content = coco_content([])
    content[table][0].update(change)
    return json.dumps(content).encode()


ANNOTATIONS = {
    "a long polygon": [[-1e5, -1e5, 1e5, 1e5] * 500],
    "a far point": [[1e300, 1, 9, 1, 9, 9]],
    "a point that is none": [[float("nan"), 1, 9, 1, 9, 9]],
}
RUNS = {
    "runs beyond the image": [0, 2**32 - 1],
    "runs that overflow": [0] + [2**31] * 2 + [768],
    "text without an end": "T3d0Xd0o",  # pycocotools would read on behind it
    "text that overflows": "ooooooooooooooO",
    "text of negative runs": "N",
}
ANNOTATIONS |= {name: {"counts": runs, "size": [24, 32]} for name, runs in RUNS.items()}
COCO = {
    "deeply nested JSON": b'{"images":' + b"[" * 100_000,
    "an image of 4 gigapixels": changed_coco("images", height=65535, width=65535),
    "a category deeply nested": b'{"images":[],"annotations":[],"categories":[' + b"[" * 900
    + b"]" * 900 + b"]}",
    "an id that is a path": changed_coco("images", id="../../../../tmp/a"),
    "a category of many lines": changed_coco("categories", name="a\n" * 9999),
    **{name: json.dumps(coco_content([one])).encode() for name, one in ANNOTATIONS.items()},
}  # fmt: skip
MANIFESTS = {
    "nested settings": b'{"step":' + b"[" * 900 + b"]" * 900 + b"}",
    "deeply nested settings": b"[" * 100_000,
    "a setting of many digits": b'{"step":' + b"9" * 5000 + b"}",
    "inputs that are a number": b'{"inputs": 5}',
    "more than settings": b" " * (1 << 20) + b"{}",
}
LISTS = {
    "a path behind an id": "2012_000001/../../x",
    "a suffix in the middle": "2012_000001.jpg/x",
    "digits of another script": "2012_00000\u0661",
    "a zero byte": "2012_000001\0",
    "half a character": "2012_000001\ufeff",
}


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG file of this size with these chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return png_of([(b"IHDR", header), *chunks, (b"IEND", b"")])


def flat_png(width: int, height: int) -> bytes:
    """A PNG file of one grey."""
    return png(width, height, (b"IDAT", zlib.compress((bytes(width + 1)) * height, 9)))


IMAGES = {
    "a program": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "4 gigapixels": lambda: png(65535, 65535, (b"IDAT", zlib.compress(bytes(9)))),
    "a pixel too much": lambda: flat_png(MAX_PIXELS + 1, 1),
    "half an image": lambda: flat_png(300, 300)[:-60],
    "text of 100 MB": lambda: png(2, 2, (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 9)),
                                  (b"IDAT", zlib.compress(bytes(6)))),
    "a chunk of 4 GiB": lambda: replaced(
        flat_png(900, 900)[:-200], (flat_png(900, 900)[33:41], b"\xff\xff\xff\xffIDAT")),
    "another format": lambda: picture("GIF", "P"),
    "no pixels": lambda: png(0, 0, (b"IDAT", b"")),
}  # fmt: skip

TEXTS = {"xml": XML, "coco": COCO, "manifest": MANIFESTS,
         "list": {name: line.encode() for name, line in LISTS.items()},
         "mask": {"colours": picture("PNG", "RGB"), "lossy": picture("JPEG", "L")}}  # fmt: skip
# The name of a reader of fuzz.py and what makes the file.
HOSTILE = dict(PICKLES)
HOSTILE |= {f"{name} as weights": ("checkpoint", one) for name, one in CHECKPOINTS.items()}
HOSTILE |= {f"{name} as {reader}": (reader, one)
            for reader in ("image", "mask") for name, one in IMAGES.items()}  # fmt: skip
HOSTILE |= {f"{name} as {reader}": (reader, partial(bytes, content))
            for reader, files in TEXTS.items() for name, content in files.items()}  # fmt: skip
HOSTILE = {name: (reader, cache(build)) for name, (reader, build) in HOSTILE.items()}
