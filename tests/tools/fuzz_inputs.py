"""Inputs for tests/tools/fuzz.py: small valid files of every kind, and ways to spoil them."""

import contextlib
import io
import json
import pickle
import pickletools
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from coco14.dataset import CATEGORY_IDS, CLASS_NAMES
from net.resnet50_cam import Net

MAX_INPUT = 1 << 20  # bytes
Mutator = Callable[[random.Random, bytes], bytes]
EXTREMES = [0, 1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1,
            2**64 - 1, 10**6, 65500, 89_478_486]  # fmt: skip
# Complete opcodes, among them those that reserve memory, call, import, or only serve to be nested.
OPCODES = [code + struct.pack("<Q", n) for code in (b"\x96", b"\x8e", b"\x8d", b"\x95")
           for n in (0, 9, 2**33, 2**63 - 1)]  # fmt: skip
OPCODES += [code + struct.pack("<I", n) for code in (b"B", b"X", b"T", b"r", b"j", b"\x8b")
            for n in (0, 2, 2**24, 2**32 - 1)]  # fmt: skip
OPCODES += [f"c{name}\n".encode() for name in (
    "os\nsystem", "builtins\nexec", "builtins\nbytearray", "_codecs\nencode", "numpy\nndarray",
    "numpy\ndtype", "torch\nFloatStorage", "torch._utils\n_rebuild_tensor_v2",
    "collections\nOrderedDict")]  # fmt: skip
OPCODES += [b"\x8c\x02os\x8c\x06system\x93", b"ios\nsystem\n", b"I" + b"9" * 5000 + b"\n",
            b"X\x03\x00\x00\x00hex", b"C\x04AAAA", b"\x8a\xff" + b"\x7f" * 255,
            b"J\xff\xff\xff\x7f", b"K\xff", b"G\x7f\xf8" + bytes(6), b"F1e999\n"]  # fmt: skip
SIGNS = b"R\x81\x92bsuae(t\x85\x86\x87]})N\x88\x8f\x90\x9102dlo\x94Q.\x97\x98"
OPCODES += [bytes([sign]) for sign in SIGNS]
OPCODES += [code + bytes([n]) for code in (b"q", b"h", b"\x82") for n in (0, 1, 255)]
TOKENS = [*map(str, EXTREMES), "-1", "1e999", "NaN", "-Infinity", "9" * 5000, "0.5", "null", "true",
          '"a"', "[", "]", "{", "}", ",", ":", '{"segmentation":', '"counts":', "\0", "\\ud800",
          "\u0661", "\ufeff", "../", "/etc/passwd", "<", "</", ">", "/>", "<a>", "&amp;", "&x;",
          "<!DOCTYPE a>", '<!ENTITY x "y">', "<![CDATA[", "]]>", "<?xml encoding='utf-7'?>",
          "\u2028", "\n", "\t", '"', "2012_000001", "000000000009", "oZP0"]  # fmt: skip


def npy(content: object, protocol: int = 4) -> bytes:
    """A file of np.save that holds one object."""
    outer = np.empty((), dtype=object)
    outer[()] = content
    return npy_of_pickle(pickle.dumps(outer, protocol=protocol))


def npy_of_pickle(pickled: bytes) -> bytes:
    """The header of a file with one object, and this behind it."""
    stream = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + pickled


def npy_seeds() -> list[bytes]:
    """Maps of images with two classes and none, of tensors, and image-level labels."""
    maps = {"keys": np.array([3, 9]), "cam": np.zeros((2, 2, 2), np.float32),
            "high_res": np.zeros((2, 8, 8), np.float32)}  # fmt: skip
    empty = {name: array[:0] for name, array in maps.items()}
    tensors = {name: torch.from_numpy(array) for name, array in maps.items()}
    labels = {2012000001: np.eye(20, dtype=np.float32)[3], np.int64(9): np.zeros(20, np.float32)}
    return [npy(content, p) for content in (maps, empty, tensors, labels) for p in (2, 4)]


def npz_seeds() -> list[bytes]:
    """Labels in rows and by id."""
    row, streams = np.eye(20, dtype=np.float32)[3], [io.BytesIO(), io.BytesIO()]
    np.savez(streams[0], ids=np.array(["2012_000001"]), labels=row[None])
    np.savez(streams[1], **{"2012_000001": row})
    return [stream.getvalue() for stream in streams]


def torch_file(content: object, legacy: bool = False) -> bytes:
    """A file as torch.save writes it."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def checkpoint_seeds() -> list[bytes]:
    """A whole classifier, and small files in both formats of torch."""
    state = {"conv1.weight": torch.zeros(1, 3, 7, 7).half(), "bn1.weight": torch.ones(1)}
    small = {"arch": {"stem": 1}, "state_dict": state, "settings": {"lr": 0.1, "n": (1, None)}}
    model = Net(20, width=1, stem=1)
    whole = {"arch": model.arch, "state_dict": model.state_dict()}
    return [torch_file(whole), *[torch_file(small), torch_file(small, legacy=True)] * 3]


def coco_content(segmentations: list, height: int = 24, width: int = 32) -> dict:
    """An instances file of one image with these annotations."""
    one = {"image_id": 9, "category_id": 1, "area": 9.5}
    categories = zip(CATEGORY_IDS, CLASS_NAMES, strict=True)
    return {
        "images": [{"id": 9, "height": height, "width": width}],
        "annotations": [{**one, "id": 70 + i, "iscrowd": i % 2, "segmentation": segmentation}
                        for i, segmentation in enumerate(segmentations)],
        "categories": [{"id": i, "name": n} for i, n in categories],
    }  # fmt: skip


def coco_seeds() -> list[bytes]:
    """Polygons and both kinds of runs, with all categories and with few."""
    runs = [{"counts": counts, "size": [24, 32]} for counts in ([100, 20, 648], "T3d0Xd0")]
    content = coco_content([[[1, 1, 20.5, 1, 9, 9], [2, 2, 3, 2, 3, 9, 1, 1]], *runs])
    few = {**content, "categories": content["categories"][:2]}
    return [json.dumps(c).encode() for c in (content, few)]


def picture(form: str, mode: str, **options: object) -> bytes:
    """A photograph that can be a mask too."""
    noise = np.random.RandomState(0).randint(0, 21, (16, 24, 3)).astype(np.uint8)
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turned
    Image.fromarray(noise).convert(mode).save(stream, form, exif=exif, **options)
    return stream.getvalue()


def image_seeds() -> list[bytes]:
    """Photographs in the usual formats."""
    kinds = [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "RGBA")]
    return [picture("JPEG", "RGB", progressive=True), *(picture(*kind) for kind in kinds)]


_XML = """<annotation><folder>VOC2012</folder>
<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>
<object><name>dog</name><part><name>head</name></part></object></annotation>"""
XML = [_XML.encode(), *(f'<?xml version="1.0" encoding="{code}"?>{_XML}'.encode(code)
                        for code in ("utf-8", "utf-16", "latin1"))]  # fmt: skip
LISTS = [
    b"2012_000001\n/JPEGImages/2012_000002.jpg /SegmentationClassAug/2012_000002.png",
    b"000000000009\nCOCO_train2014_000000000010 1",
]
MANIFESTS = [b'{"step": "make_cam", "scales": [1.0, 0.5], "inputs": {"classifier": "12ab"}}']
TABLES = [
    b"image,labels\n2012_000001,cat;dog\n2012_000002,\n",
    b"image;cat;dog\n2012_000001;1;0\n2012_000002;1;1\n",
]


def _spoil_parts(rng: random.Random, parts: list, new: list, spoil: Callable) -> list:
    """Replaces, adds, removes, repeats, nests or spoils some of the parts of a file."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        parts = parts or [new[0]]
        i, kind = rng.randrange(len(parts)), rng.randrange(5)
        some = parts[i : i + rng.choice([1, 2, 5, 30])]
        times = min(rng.choice([1, 2, 50, 5000, 100_000]), MAX_INPUT // (1 + sum(map(len, some))))
        if kind == 0:
            parts[i : i + rng.randrange(2)] = [rng.choice(new)]
        elif kind == 1:
            del parts[i : i + len(some) - 1]
        elif kind == 2:
            parts[i:i] = some * times
        elif kind == 3:
            parts[i] = parts[i] * times
        else:
            parts[i] = spoil(rng, parts[i])
    return parts


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flips bits, cuts or repeats a range, or puts an extreme number somewhere."""
    data = bytearray(data)
    start, kind = rng.randrange(len(data) + 1), rng.randrange(4)
    end = min(len(data), start + rng.choice([1, 2, 4, 8, 64, 1000]))
    if kind == 0 and data:
        for _ in range(rng.choice([1, 1, 2, 8, 30])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[start : rng.choice([end, len(data)])]
    elif kind == 2:
        data[start:start] = data[start:end] * rng.choice([1, 2, 100, 2000])
    else:
        size, order = rng.choice([1, 2, 4, 8]), rng.choice(["little", "big"])
        data[start : start + size] = (rng.choice(EXTREMES) % 256**size).to_bytes(size, order)
    return bytes(data[:MAX_INPUT])


def spoil_tokens(rng: random.Random, data: bytes) -> bytes:
    """Spoils the words, numbers and signs of a text."""
    tokens = re.findall(r"\d+(?:\.\d+)?|\w+|\s+|.", data.decode("utf-8", "replace"), re.DOTALL)
    text = "".join(_spoil_parts(rng, tokens, TOKENS, lambda rng, token: token[::-1]))[:MAX_INPUT]
    encoding = rng.choice(["utf-8"] * 8 + ["utf-16", "utf-32"])
    return text.encode(encoding, "surrogatepass")[:MAX_INPUT]


def spoil_pickle(rng: random.Random, data: bytes) -> bytes:
    """Spoils the opcodes of a file that is one pickle after another, and keeps what follows."""
    parts, end, stream = [], 0, io.BytesIO(data)
    with contextlib.suppress(Exception):  # what follows is no pickle
        while stream.tell() < len(data):
            positions = [position for _, _, position in pickletools.genops(stream)]
            bounds = zip(positions, [*positions[1:], stream.tell()], strict=True)
            parts += [data[a:b] for a, b in bounds]
            end = stream.tell()
    parts = _spoil_parts(rng, parts or [data], OPCODES, lambda r, p: p[:1] + spoil_bytes(r, p[1:]))
    return (b"".join(parts) + data[end:])[:MAX_INPUT]


def spoil_npy(rng: random.Random, data: bytes) -> bytes:
    """Spoils the opcodes behind the header."""
    header = data.find(b"\n") + 1
    return data[:header] + spoil_pickle(rng, data[header:])


def spoil_archive(rng: random.Random, data: bytes) -> bytes:
    """Spoils one entry of a zip archive, or how it is stored, with valid checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
            assert entries
    except Exception:  # torch's older format, or spoilt before
        return spoil_pickle(rng, data)
    i, kind = 0 if rng.random() < 0.7 else rng.randrange(len(entries)), rng.randrange(10)
    name, content = entries.pop(i)
    if kind == 1:
        entries.append((rng.choice(["../a", name + "x", "a/constants.pkl"]), content))
    elif kind:
        spoil = spoil_pickle if name.endswith("pkl") else spoil_bytes
        entries.insert(i, (name, spoil(rng, content)))
    stream = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", method) as archive:
        for entry in dict(entries).items():
            archive.writestr(*entry)
    return stream.getvalue()[:MAX_INPUT]


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of these chunks, with valid checksums."""
    made = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        size, checksum = len(content), zlib.crc32(kind + content)
        made += struct.pack(">I", size) + kind + content + struct.pack(">I", checksum)
    return made


def spoil_png(rng: random.Random, data: bytes) -> bytes:
    """Spoils a chunk of a PNG file and gives it a valid checksum; other files as bytes."""
    chunks, at = [], 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return spoil_bytes(rng, data)
    i, action = rng.randrange(len(chunks)), rng.randrange(4)
    kind, content = chunks[i]
    if action == 1:
        chunks[i:i] = [chunks[i]] * rng.choice([1, 2, 500])
    elif action == 2:
        content = b"a\0\0" + zlib.compress(bytes(rng.choice([10, 10**6, 10**7])), 9)
        chunks.insert(i, (rng.choice([b"zTXt", b"iCCP", b"IDAT", b"PLTE", b"acTL"]), content))
    else:
        chunks[i] = (kind, spoil_bytes(rng, content))
    return png_of(chunks)[:MAX_INPUT]
