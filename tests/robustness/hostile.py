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
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from misc.storage.images import MAX_PIXELS
from tests.robustness.fuzz_inputs import coco_content, npy, npy_of_pickle, torch_file

RECONSTRUCT = np.zeros(1).__reduce__()[0]  # its module differs between numpy 1 and 2


class Reduced:
    """Is pickled as the given call, and the given state set on its result."""

    def __init__(self, function: Callable, *arguments: object, state: object = None):
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.reduced


class Hostile(NamedTuple):
    """A file for one of the readers of tests/robustness/fuzz.py."""

    reader: str
    build: Callable[[], bytes]


def crafted_array(code="f4", flags=0, shape=(2,), data: object = b"A" * 8) -> Reduced:
    """A pickled array whose parts need not fit each other."""
    array_type = Reduced(
        np.dtype, code, False, True, state=(3, "<", None, None, None, -1, -1, flags)
    )
    return Reduced(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, shape, array_type, False, data))


# --- pickles ------------------------------------------------------------------------------------


def shared_bytes() -> bytes:
    """Thousand arrays of 1 MB that have their bytes in common."""
    data = bytes(1 << 20)
    return npy({i: crafted_array("u1", 0, (1 << 20,), data) for i in range(1000)})


def shared_text() -> bytes:
    """The same in the form of Python 2, where each array decodes the text once more."""
    text = "\0" * (1 << 20)
    encoded = (Reduced(_codecs.encode, text, "latin1") for _ in range(1000))
    arrays = (crafted_array("u1", 0, (1 << 20,), data) for data in encoded)
    return npy(dict(enumerate(arrays)), 2)


def equal_hashes() -> bytes:
    """Keys that dicts cannot tell apart but by comparing all of them."""
    return npy({i * (2**61 - 1): np.zeros(1) for i in range(1, 20_000)})


def empty_maps() -> bytes:
    """No map, but of a size that a map of labels would get."""
    maps = crafted_array("f4", 0, (0, 1 << 20, 1 << 20), b"")
    return npy({"keys": np.zeros(0, int), "cam": maps, "high_res": maps})


PICKLES = {
    "a byte array of 8 GiB": Hostile(
        "npy", lambda: npy_of_pickle(b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b".")
    ),
    "a deeply nested key": Hostile(  # to hash it ends Python
        "npy", lambda: npy_of_pickle(b"\x80\x04}N" + b"\x85" * 300_000 + b"Ns.")
    ),
    "a header that is Python": Hostile(
        "npy", lambda: b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10000 + b"N."
    ),
    "an array in all entries": Hostile(
        "labels", lambda: npy(dict.fromkeys(range(1000), np.zeros(1 << 17)))
    ),
    "bytes in all entries": Hostile("npy", shared_bytes),
    "text in all entries": Hostile("npy", shared_text),
    "keys of one hash": Hostile("labels", equal_hashes),
    "huge maps of no class": Hostile("cam", empty_maps),
}


# --- checkpoints --------------------------------------------------------------------------------


def rezipped(
    data: bytes, change: Callable[[bytes], bytes] = bytes, method: int = zipfile.ZIP_STORED
) -> bytes:
    """The archive with its pickle changed, or compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", method) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
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


def more_numbers_than_bytes() -> bytes:
    """A storage that is said to have 2^28 numbers, of which three are there."""
    size, shape = (b"K\x03tq", MANY + b"tq"), (b"K\x03\x85q", MANY + b"\x85q")
    return rezipped(weights(torch.zeros(3)), lambda pickled: replaced(pickled, size, shape))


def legacy_numbers() -> bytes:
    """The same in the older format."""
    pairs = [(b"K\x03Ntq", MANY + b"Ntq"), (b"K\x03\x85q", MANY + b"\x85q")]
    return replaced(weights(torch.zeros(3).half(), legacy=True), *pairs)


def far_elements() -> bytes:
    """A tensor whose second element is 2^28 numbers behind the first."""
    step = (b"K\x03\x85q\x08K\x01\x85", b"K\x03\x85q\x08" + MANY + b"\x85")
    return rezipped(weights(torch.zeros(3)), lambda pickled: replaced(pickled, step))


def legacy_of(content: bytes) -> bytes:
    """The older format of torch around a pickled content without storages."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(p, 2) for p in parts) + content + pickle.dumps([], 2)


def doubling_text() -> bytes:
    """Text that is written in hexadecimal digits 40 times over."""
    call = b"c_codecs\nencode\n"
    inner = b"X\x02\x00\x00\x00ab"
    for _ in range(40):
        inner = call + inner + b"X\x03\x00\x00\x00hex\x86R"
    return legacy_of(b"\x80\x02}X\x01\x00\x00\x00a" + inner + b"s.")


def deep_items() -> bytes:
    """An ordered dict with a deeply nested key."""
    return legacy_of(b"\x80\x02ccollections\nOrderedDict\n]N" + b"\x85" * 300_000 + b"N\x86a\x85R.")


def tar_archive() -> bytes:
    """The oldest format of torch, which it would unpack to the disk."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return stream.getvalue()


CHECKPOINTS = {
    "compressed weights": Hostile(
        "checkpoint", lambda: rezipped(weights(torch.zeros(1 << 25)), method=zipfile.ZIP_DEFLATED)
    ),
    "weights that are one number": Hostile(
        "checkpoint", lambda: weights(torch.zeros(1).half().expand(1 << 34))
    ),
    "many names of one tensor": Hostile(
        "checkpoint",
        lambda: torch_file(dict.fromkeys(map(str, range(9999)), torch.zeros(1 << 17).half())),
    ),
    "more numbers than bytes": Hostile("checkpoint", more_numbers_than_bytes),
    "more numbers than bytes, legacy": Hostile("checkpoint", legacy_numbers),
    "elements far apart": Hostile("checkpoint", far_elements),
    "doubling text": Hostile("checkpoint", doubling_text),
    "deeply nested items": Hostile("checkpoint", deep_items),
    "a tar archive": Hostile("checkpoint", tar_archive),
    "a sparse tensor": Hostile("checkpoint", lambda: weights(torch.zeros(2, 2).to_sparse())),
    "a tensor without content": Hostile(
        "checkpoint", lambda: weights(torch.empty(1 << 20, 1 << 20, device="meta"))
    ),
    "a network of a million channels": Hostile(
        "checkpoint", lambda: weights(torch.zeros(10**6, 0))
    ),
}


# --- text ---------------------------------------------------------------------------------------


def entities(encoding: str) -> bytes:
    """Entities that stand for ten of the one before."""
    lines = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    return (
        f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY a0 "ab">{lines}]>'
        "<a><object><name>&a9;</name></object></a>"
    ).encode(encoding)


def annotated(segmentation: object, **size: int) -> Hostile:
    """An instances file of an image with this annotation."""
    return Hostile("coco", lambda: json.dumps(coco_content([segmentation], **size)).encode())


def changed_coco(table: str, **change: object) -> Hostile:
    """An instances file whose first entry of a table is changed."""

    def build() -> bytes:
        content = coco_content([[[1, 1, 9, 1, 9, 9]]])
        content[table][0].update(change)
        return json.dumps(content).encode()

    return Hostile("coco", build)


def runs(counts: object) -> Hostile:
    """An annotation of these runs in an image of 24 x 32."""
    return annotated({"counts": counts, "size": [24, 32]})


EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "{}">]><a><object><name>&x;</name></object></a>'
XML = {
    "entities of entities": Hostile("xml", lambda: entities("utf-8")),
    "entities of entities in UTF-16": Hostile("xml", lambda: entities("utf-16")),
    "a file as entity": Hostile("xml", lambda: EXTERNAL.format("file:///etc/passwd").encode()),
    "an address as entity": Hostile("xml", lambda: EXTERNAL.format("http://127.0.0.1/").encode()),
    "a DTD elsewhere": Hostile("xml", lambda: b'<!DOCTYPE a SYSTEM "http://127.0.0.1/a"><a/>'),
    "an encoding that is none": Hostile("xml", lambda: b"<?xml version='1.0' encoding='os'?><a/>"),
    "a codec": Hostile("xml", lambda: b"<?xml version='1.0' encoding='bz2'?><a/>"),
    "deeply nested elements": Hostile("xml", lambda: b"<a>" * 100_000),
    "more than an annotation": Hostile("xml", lambda: b"<a>" + b" " * (1 << 20) + b"</a>"),
    "a long name": Hostile(
        "xml", lambda: b"<a><object><name>" + b"\xe2\x80\xa8x" * 9999 + b"</name></object></a>"
    ),
}
JSON = {
    "an image of 4 gigapixels": annotated([[1, 1, 9, 1, 9, 9]], height=65535, width=65535),
    "a long outline": annotated([[-1e5, -1e5, 1e5, 1e5] * 500]),
    "many long outlines": annotated([[-1e5, 0, 1e5, 0, 0, 1]] * 50),
    "a far point": annotated([[1e300, 1, 9, 1, 9, 9]]),
    "an endless point": annotated([[float("inf"), 1, 9, 1, 9, 9]]),
    "a point that is none": annotated([[float("nan"), 1, 9, 1, 9, 9]]),
    "runs beyond the image": runs([0, 2**32 - 1]),
    "runs that overflow": runs([0] + [2**31] * 2 + [768]),
    "text without an end": runs("T3d0Xd0o"),  # pycocotools would read on behind it
    "text of wrong letters": runs("\x01\x7f\xff"),
    "text that overflows": runs("ooooooooooooooO"),
    "text of negative runs": runs("N"),
    "runs of another size": annotated({"counts": [768], "size": [32, 24]}),
    "deeply nested JSON": Hostile("coco", lambda: b'{"images":' + b"[" * 100_000),
    "a category deeply nested": Hostile(
        "coco",
        lambda: b'{"images":[],"annotations":[],"categories":[' + b"[" * 900 + b"]" * 900 + b"]}",
    ),
    "a number of many digits": changed_coco("images", id=int("9" * 4000)),
    "text of many digits": changed_coco("images", id="9" * 9999),
    "an id that is a path": changed_coco("images", id="../../../../tmp/a"),
    "a category of many lines": changed_coco("categories", name="a\n" * 9999),
    "nested settings": Hostile("manifest", lambda: b'{"step":' + b"[" * 900 + b"]" * 900 + b"}"),
    "deeply nested settings": Hostile("manifest", lambda: b"[" * 100_000),
    "a setting of many digits": Hostile("manifest", lambda: b'{"step":' + b"9" * 5000 + b"}"),
    "a setting of many lines": Hostile("manifest", lambda: b'{"a\\nb":"' + b"c\\n" * 9999 + b'"}'),
    "inputs that are a number": Hostile("manifest", lambda: b'{"inputs": 5}'),
    "more than settings": Hostile("manifest", lambda: b" " * (1 << 20) + b"{}"),
}
LISTS = {
    name: Hostile("list", line.encode)
    for name, line in {
        "a path": "../../../etc/passwd",
        "a path behind an id": "2012_000001/../../x",
        "a suffix in the middle": "2012_000001.jpg/x",
        "digits of another script": "2012_00000\u0661",
        "a zero byte": "2012_000001\0",
        "a letter too much": "2012_000001x",
        "half a character": "2012_000001\ufeff",
    }.items()
}


# --- images -------------------------------------------------------------------------------------


def png(width: int, height: int, *chunks: tuple[bytes, bytes], colour: int = 0) -> bytes:
    """A PNG file of this size with these chunks; grey, of 8 bits, or of another kind of colour."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        made += struct.pack(">I", len(content)) + kind + content
        made += struct.pack(">I", zlib.crc32(kind + content))
    return made


def flat_png(width: int, height: int) -> bytes:
    """A PNG file of one grey."""
    return png(width, height, (b"IDAT", zlib.compress((bytes(width + 1)) * height, 9)))


def chunk_without_end() -> bytes:
    """A PNG file whose pixels are said to be in 4 GiB."""
    data = flat_png(900, 900)
    start = data.index(b"IDAT") - 4
    return data[:start] + b"\xff\xff\xff\xff" + data[start + 4 : -200]


def zeros_chunk(kind: bytes) -> bytes:
    """A PNG file with a chunk that becomes 100 MB."""
    return png(
        2, 2, (kind, b"a\0\0" + zlib.compress(bytes(10**8), 9)), (b"IDAT", zlib.compress(bytes(6)))
    )


def saved(form: str, mode: str) -> bytes:
    """An image of 4 x 4 pixels."""
    stream = io.BytesIO()
    Image.new(mode, (4, 4)).save(stream, form)
    return stream.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
IMAGES = {
    f"{name} as {reader}": Hostile(reader, build)
    for reader in ("image", "mask")
    for name, build in {
        "a program": lambda: POSTSCRIPT,
        "4 gigapixels": lambda: png(65535, 65535, (b"IDAT", zlib.compress(bytes(9)))),
        "a pixel too much": lambda: flat_png(MAX_PIXELS + 1, 1),
        "half an image": lambda: flat_png(300, 300)[:-60],
        "text of 100 MB": lambda: zeros_chunk(b"zTXt"),
        "a chunk of 4 GiB": chunk_without_end,
        "another format": lambda: saved("GIF", "P"),
        "no pixels": lambda: png(0, 0, (b"IDAT", b"")),
    }.items()
}
IMAGES["colours as mask"] = Hostile("mask", lambda: saved("PNG", "RGB"))
IMAGES["a lossy mask"] = Hostile("mask", lambda: saved("JPEG", "L"))

HOSTILE = {**PICKLES, **CHECKPOINTS, **XML, **JSON, **LISTS, **IMAGES}
