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
from functools import cache

import numpy as np
import torch
from PIL import Image

from coco14.dataset import CATEGORY_IDS, CLASS_NAMES
from misc.storage.manifest import settings_of
from net.resnet50_cam import Net

_ORIENTATION = 0x0112  # tag of EXIF
MAX_INPUT = 1 << 20  # bytes
Mutator = Callable[[random.Random, bytes], bytes]

EXTREMES = [0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1]
EXTREMES += [2**64 - 1, 10**6, 65500, 89_478_486]

# Complete opcodes, among them those that reserve memory, call, import, or only serve to be nested.
OPCODES = [b"\x96", b"\x8e", b"\x8d", b"\x95"]
OPCODES = [code + struct.pack("<Q", n) for code in OPCODES for n in (0, 9, 2**33, 2**63 - 1)]
OPCODES += [code + struct.pack("<I", n) for code in (b"B", b"X", b"T", b"r", b"j", b"\x8b")
            for n in (0, 2, 2**24, 2**31 - 1, 2**32 - 1)]  # fmt: skip
OPCODES += [b"cos\nsystem\n", b"cbuiltins\nexec\n", b"cbuiltins\nbytearray\n",
            b"c_codecs\nencode\n",
            b"\x8c\x02os\x8c\x06system\x93", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n",
            b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ios\nsystem\n",
            b"ccollections\nOrderedDict\n", b"P1\n", b"I" + b"9" * 5000 + b"\n", b"I0\n", b"L1L\n",
            b"\x8c\x04data", b"X\x03\x00\x00\x00hex", b"\x8c\x0cimport os\nos.", b"C\x04AAAA",
            b"\x8a\xff" + b"\x7f" * 255, b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"J\xff\xff\xff\x7f",
            b"J\xff\xff\xff\xff", b"K\xff", b"M\xff\xff", b"G\x7f\xf8" + bytes(6),
            b"F1e999\n"]  # fmt: skip
OPCODES += [
    bytes([n]) for n in b"R\x81\x92bsuae(t\x85\x86\x87]})N\x88\x89\x8f\x90\x91012dlo\x94Q.\x97\x98"
]
OPCODES += [code + bytes([n]) for code in (b"q", b"h", b"\x82") for n in (0, 1, 5, 255)]

TOKENS = [str(n) for n in EXTREMES] + ["-1", "1e999", "NaN", "-Infinity", "9" * 5000, "0.5", "null"]
TOKENS += ["true", '"a"', "[", "]", "{", "}", ",", ":", "[[", '{"segmentation":', '"counts":', "\0"]
TOKENS += [
    "\\ud800",
    "\u0661",
    "\ufeff",
    "../",
    "/etc/passwd",
    "<",
    "</",
    ">",
    "/>",
    "<a>",
    "&amp;",
]
TOKENS += ["&x;", "<!DOCTYPE a>", '<!ENTITY x "y">', "<![CDATA[", "]]>", "<?xml encoding='utf-7'?>"]
TOKENS += ["\u2028", "\x85", "\n", "\t", '"', "'", "2012_000001", "000000000009", "oZP0"]


# --- valid files --------------------------------------------------------------------------------


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
    """Maps of images with two classes and none, and image-level labels."""
    maps = {
        "keys": np.array([3, 9]),
        "cam": np.zeros((2, 2, 2), np.float32),
        "high_res": np.zeros((2, 8, 8), np.float32),
    }
    empty = {name: array[:0] for name, array in maps.items()}
    labels = {2012000001: np.eye(20, dtype=np.float32)[3], np.int64(9): np.zeros(20, np.float32)}
    return [npy(content, p) for content in (maps, empty, labels) for p in (2, 4)]


def checkpoint_seeds() -> list[bytes]:
    """A whole classifier, and small files in both formats of torch."""
    state = {"conv1.weight": torch.zeros(1, 3, 7, 7).half(), "bn1.weight": torch.ones(1)}
    small = {"arch": {"stem": 1}, "state_dict": state, "settings": {"lr": 0.1, "n": (1, None)}}
    model = Net(20, width=1, stem=1)
    whole = {"arch": model.arch, "state_dict": model.state_dict()}
    return [torch_file(whole), *[torch_file(small), torch_file(small, legacy=True)] * 3]


def torch_file(content: object, legacy: bool = False) -> bytes:
    """What torch.save writes."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def xml_seeds() -> list[bytes]:
    """An annotation of two objects."""
    objects = "<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>"
    objects += "<object><name>dog</name><part><name>head</name></part></object>"
    text = f"<annotation><folder>VOC2012</folder>{objects}</annotation>"
    declared = '<?xml version="1.0" encoding="{}"?>'
    seeds = [text.encode()]
    return seeds + [(declared.format(e) + text).encode(e) for e in ("utf-8", "utf-16", "latin1")]


def coco_content(segmentations: list, height: int = 24, width: int = 32) -> dict:
    """An instances file of one image with these annotations."""
    return {
        "images": [{"id": 9, "height": height, "width": width}],
        "annotations": [
            {"id": 70 + i, "image_id": 9, "category_id": 1, "area": 9.5, "iscrowd": i % 2,
             "segmentation": segmentation}
            for i, segmentation in enumerate(segmentations)
        ],
        "categories": [
            {"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)
        ],
    }  # fmt: skip


def coco_seeds() -> list[bytes]:
    """Polygons and both kinds of runs, with all categories and with few."""
    runs = {"counts": [100, 20, 648], "size": [24, 32]}
    text = {"counts": "T3d0Xd0", "size": [24, 32]}
    content = coco_content([[[1, 1, 20.5, 1, 9, 9], [2, 2, 3, 2, 3, 9, 1, 1]], runs, text])
    few = {**content, "categories": content["categories"][:2]}
    return [json.dumps(c).encode() for c in (content, few)]


def image_seeds() -> list[bytes]:
    """Photographs and masks in the usual forms."""
    noise = np.random.RandomState(0).randint(0, 256, (16, 24, 4)).astype(np.uint8)
    kinds = [("JPEG", "RGB", {}), ("JPEG", "L", {}), ("JPEG", "RGB", {"progressive": True})]
    kinds += [("JPEG", "CMYK", {}), ("PNG", "P", {}), ("PNG", "L", {}), ("PNG", "RGBA", {})]
    seeds = []
    for form, mode, options in kinds:
        stream = io.BytesIO()
        exif = Image.Exif()
        exif[_ORIENTATION] = 6
        image = Image.fromarray(noise).convert("RGB").convert(mode)
        image.save(stream, form, exif=exif, **options)
        seeds.append(stream.getvalue())
    return seeds


def mask_seeds() -> list[bytes]:
    """Palette and grey PNG of valid labels."""
    labels = np.random.RandomState(0).randint(0, 21, (16, 24)).astype(np.uint8)
    seeds = []
    for mode in ("P", "L"):
        stream = io.BytesIO()
        image = Image.fromarray(labels)
        if mode == "P":
            image.putpalette(bytes(range(256)) * 3)
        image.save(stream, "PNG")
        seeds.append(stream.getvalue())
    return seeds


def list_seeds() -> list[bytes]:
    """Lists of both datasets, with folders and further columns."""
    lines = ["2012_000001", "/JPEGImages/2012_000002.jpg /SegmentationClassAug/2012_000002.png"]
    coco = ["000000000009", "COCO_train2014_000000000010 1"]
    return ["\n".join(part).encode() for part in (lines, coco)]


def manifest_seeds() -> list[bytes]:
    """The settings of a step."""
    settings = settings_of({"step": "make_cam", "scales": [1.0, 0.5]}, {"classifier": "12ab"})
    return [json.dumps(settings).encode()]


def csv_seeds() -> list[bytes]:
    """Labels by name and by column."""
    tables = ["image,labels\n2012_000001,cat;dog\n2012_000002,\n", "2012_000001\tcat\n"]
    return [t.encode() for t in (*tables, "image;cat;dog\n2012_000001;1;0\n2012_000002;1;1\n")]


def npz_seeds() -> list[bytes]:
    """Labels in rows and by id."""
    row = np.eye(20, dtype=np.float32)[3]
    return [npz(ids=np.array(["2012_000001"]), labels=row[None]), npz(**{"2012_000001": row})]


def npz(**arrays: np.ndarray) -> bytes:
    """What np.savez writes."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


# --- whole files of any values ------------------------------------------------------------------

VALUES = [0, 1, 1, 0, -1, 2, 0.5, 1 + 1e-9, -0.0, 1e-30, 1e30, 255, np.nan, np.inf, -np.inf]
KEYS = [2012000001, "2012_000001", "2012_000001.jpg", "000000000009", 9, -1, 2**70, "cat", "", 0.5]
DTYPES = ["f4", "f8", "f2", "i8", "u1", "?", "i4", "c8", "U3", "O"]


def _array(rng: random.Random, shape: tuple[int, ...]) -> np.ndarray:
    """Mostly zeros and ones, at times other values, of some type."""
    generator = np.random.default_rng(rng.getrandbits(32))
    array = generator.integers(0, 2, shape).astype(float)
    if rng.random() < 0.6 and array.size:
        array.flat[rng.randrange(array.size)] = rng.choice(VALUES)
    with np.errstate(all="ignore"), contextlib.suppress(ValueError, TypeError, OverflowError):
        return array.astype(rng.choice(DTYPES[:2] if rng.random() < 0.7 else DTYPES))
    return array


def _length(rng: random.Random) -> int:
    return rng.choice([20, 20, 20, 20, 21, 21, 80, 1, 0])


def label_values(rng: random.Random, data: bytes) -> bytes:
    """Labels of a few images, whose values, types, lengths and keys are any."""
    length = _length(rng)
    content = {
        rng.choice(KEYS): _array(rng, (length,) if rng.random() < 0.9 else (2, length))
        for _ in range(rng.randint(0, 4))
    }
    return npy(content, rng.choice([2, 4]))


def npz_values(rng: random.Random, data: bytes) -> bytes:
    """The same as an archive."""
    length, count = _length(rng), rng.randint(0, 3)
    ids = np.array([str(rng.choice(KEYS)) for _ in range(count)])
    if rng.random() < 0.5:
        labels = _array(rng, (rng.choice([count, count, 1]), length))
        return npz(ids=ids, labels=np.asarray(labels, dtype=labels.dtype.str.replace("O", "f8")))
    arrays = {name or "a": _array(rng, (length,)) for name in ids.tolist()}
    return npz(**{n: a.astype(float) if a.dtype == object else a for n, a in arrays.items()})


def csv_values(rng: random.Random, data: bytes) -> bytes:
    """Tables by name or by column with any cells."""
    mark = rng.choice([",", ";", "\t"])
    names = [rng.choice(["cat", "dog", "Sheep", "unicorn", "", "1"]) for _ in range(3)]
    cells = ["0", "1", "1.0", "nan", "inf", "-1", "", "cat", "cat;dog", "x", "1e999", '"', "\0"]
    rows = [[rng.choice(["image", "2012_000009"]), *names]]
    for _ in range(rng.randint(0, 4)):
        rows.append([str(rng.choice(KEYS)), *(rng.choice(cells) for _ in range(rng.randint(0, 4)))])
    return "\n".join(mark.join(row) for row in rows).encode("utf-8", "replace")


def cam_values(rng: random.Random, data: bytes) -> bytes:
    """Maps whose values, types and numbers are any."""
    count = rng.randint(0, 3)
    keys = np.array([rng.choice([0, 3, 19, 3, -1, 254, 2**40]) for _ in range(count)], dtype=int)
    maps = {
        name: _array(rng, (rng.choice([count] * 4 + [1]), 2, 3)) for name in ("cam", "high_res")
    }
    return npy({"keys": keys, **maps}, rng.choice([2, 4]))


def list_values(rng: random.Random, data: bytes) -> bytes:
    """Lines of ids as they come from anywhere."""
    ids = [f"2012_{rng.choice([1, 2, 3, 999999, 1000000]):06}" for _ in range(rng.randint(0, 5))]
    before = ["", "", "/a/JPEGImages/", "..\\", "C:\\", "./", " ", "\ufeff", "#"]
    after = ["", "", ".jpg", ".JPEG", " 1", " -1", " 0", "# cat", ".png", "\t/x.png", "\u2028"]
    ends = ["\n", "\n", "\r\n", "\r", "\n\n"]
    lines = (rng.choice(before) + i + rng.choice(after) + rng.choice(ends) for i in ids)
    return "".join(lines).encode(rng.choice(["utf-8"] * 9 + ["utf-16"]))


def image_values(rng: random.Random, data: bytes) -> bytes:
    """Photographs of any size, mode and orientation, whole or cut."""
    size = (rng.choice([1, 2, 7, 40]), rng.choice([1, 3, 16, 60]))
    modes = [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("I;16", "PNG")]
    mode, form = rng.choice([*modes, ("1", "PNG"), ("P", "PNG"), ("LA", "PNG")])
    image = Image.new(mode, size)
    exif = Image.Exif()
    exif[_ORIENTATION] = rng.choice([0, 1, 6, 8, 99])
    stream = io.BytesIO()
    image.save(stream, form, exif=exif)
    content = stream.getvalue()
    return content[: rng.randrange(1, len(content))] if rng.random() < 0.3 else content


# --- ways to spoil a file -----------------------------------------------------------------------


def repeated(parts: list, times: int) -> list:
    """The parts as often as that, or as fit into an input."""
    return parts * min(times, MAX_INPUT // (1 + sum(map(len, parts))))


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flips bits, cuts, doubles or moves a range, or puts an extreme number somewhere."""
    data = bytearray(data)
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice([1, 2, 4, 8, 64, 1000]))
    kind = rng.randrange(7)
    if kind == 0:
        for _ in range(rng.choice([1, 1, 2, 8, 30])):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[start:]
    elif kind == 2:
        del data[start:end]
    elif kind == 3:
        data[start:start] = data[start:end] * rng.choice([1, 2, 100, 2000])
    elif kind == 4:
        other = rng.randrange(len(data) + 1)
        data[start:end] = data[other : other + rng.choice([1, 8, 64, 1000])]
    elif kind == 5:
        data[start:end] = rng.randbytes(end - start)
    else:
        size, order = rng.choice([1, 2, 4, 8]), rng.choice(["little", "big"])
        number = rng.choice(EXTREMES) % 256**size
        data[start : start + size] = number.to_bytes(size, order)
    return bytes(data[:MAX_INPUT])


def spoil_tokens(rng: random.Random, data: bytes) -> bytes:
    """Changes, removes, doubles, swaps or nests the words, numbers and signs of a text."""
    tokens = re.findall(r"\d+(?:\.\d+)?|\w+|\s+|.", data.decode("utf-8", "replace"), re.DOTALL)
    tokens = tokens or [""]
    for _ in range(rng.choice([1, 1, 2, 5])):
        i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        kind = rng.randrange(6)
        if kind == 0:
            tokens[i] = rng.choice(TOKENS)
        elif kind == 1:
            tokens.insert(i, rng.choice(TOKENS))
        elif kind == 2:
            tokens[i], tokens[j] = tokens[j], tokens[i]
        elif kind == 3:
            del tokens[i : i + rng.choice([0, 1, 10])]
            tokens = tokens or [""]
        elif kind == 4:
            tokens[i] = "".join(repeated([tokens[i]], rng.choice([2, 100, 30000])))
        else:
            tokens[i:i] = repeated(tokens[i : i + rng.choice([2, 20])], rng.choice([1, 2, 300]))
    text = "".join(tokens)[:MAX_INPUT]
    return text.encode(rng.choice(["utf-8"] * 8 + ["utf-16", "utf-32"]), "surrogatepass")[
        :MAX_INPUT
    ]


def spoil_pickle(rng: random.Random, data: bytes) -> bytes:
    """Changes the opcodes of a file that is one pickle after another, and keeps what follows."""
    parts, end = [], 0
    stream = io.BytesIO(data)
    try:
        while stream.tell() < len(data):
            positions = [position for _, _, position in pickletools.genops(stream)]
            bounds = zip(positions, [*positions[1:], stream.tell()], strict=True)
            parts += [data[a:b] for a, b in bounds]
            end = stream.tell()
    except Exception:  # what follows is no pickle
        pass
    parts = parts or [data]
    for _ in range(rng.choice([1, 1, 2, 4])):
        i, kind = rng.randrange(len(parts)), rng.randrange(6)
        if kind == 0:
            parts[i] = rng.choice(OPCODES)
        elif kind == 1:
            parts.insert(i, rng.choice(OPCODES))
        elif kind == 2:
            del parts[i : i + rng.choice([0, 1, 3])]
            parts = parts or [b"."]
        elif kind == 3:
            parts[i:i] = repeated(
                parts[i : i + rng.choice([1, 2, 5, 30])], rng.choice([1, 50, 5000])
            )
        elif kind == 4:
            parts[i] = b"".join(repeated([parts[i]], rng.choice([2, 100, 100_000])))
        else:
            parts[i] = parts[i][:1] + spoil_bytes(rng, parts[i][1:])
    return (b"".join(parts) + data[end:])[:MAX_INPUT]


def spoil_npy(rng: random.Random, data: bytes) -> bytes:
    """Changes the opcodes behind the header."""
    header = data.find(b"\n") + 1
    return data[:header] + spoil_pickle(rng, data[header:])


def spoil_archive(rng: random.Random, data: bytes) -> bytes:
    """Changes one entry of a zip archive, or how it is stored, with valid checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # the older format, or spoilt before
        return spoil_pickle(rng, data)
    i = 0 if rng.random() < 0.7 else rng.randrange(len(entries))
    name, content = entries[i]
    kind = rng.randrange(10)
    if kind == 0:
        del entries[i]
    elif kind == 1:
        entries[i] = (rng.choice(["../a", name + "x", "a/constants.pkl"]), content)
    else:
        entries[i] = (name, (spoil_pickle if name.endswith("pkl") else spoil_bytes)(rng, content))
    stream = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", method) as archive:
        for entry in dict(entries).items():
            archive.writestr(*entry)
    return stream.getvalue()[:MAX_INPUT]


@cache
def _zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def spoil_png(rng: random.Random, data: bytes) -> bytes:
    """Changes a chunk of a PNG file and gives it a valid checksum; other files as bytes."""
    chunks, position = [], 8
    while data.startswith(b"\x89PNG") and position + 12 <= len(data):
        (size,) = struct.unpack(">I", data[position : position + 4])
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + size]))
        position += 12 + size
    if not chunks:
        return spoil_bytes(rng, data)
    i = rng.randrange(len(chunks))
    kind, content = chunks[i]
    action = rng.randrange(5)
    if action == 0:
        chunks[i] = (rng.choice([b"zTXt", b"iCCP", b"tRNS", b"PLTE", b"acTL", b"fcTL"]), content)
    elif action == 1:
        chunks[i:i] = [chunks[i]] * rng.choice([1, 2, 500])
    elif action == 2:
        content = b"a\0\0" + _zeros(rng.choice([10, 10**6, 10**8]))
        chunks.insert(i, (rng.choice([b"zTXt", b"iCCP", b"IDAT"]), content))
    else:
        chunks[i] = (kind, spoil_bytes(rng, content))
    made = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        made += struct.pack(">I", len(content)) + kind + content + checksum
    return made[:MAX_INPUT]
