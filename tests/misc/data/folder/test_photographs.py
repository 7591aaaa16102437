import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from misc.data.datasets import read_image
from misc.data.folder import masks, photographs
from misc.data.folder.photographs import (
    check_photograph,
    fitted_mask,
    own_size,
    read_photograph,
    size_as_shown,
)
from misc.storage import images
from tests.misc.data.folder.conftest import save_photo

ORIENTATION = 0x0112


def turned_exif(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def turned(path, orientation, **options):
    """A photograph that asks to be shown otherwise than it is stored."""
    if path.suffix in (".jpg", ".jpeg"):
        options["quality"] = 95
    return save_photo(path, (32, 48), exif=turned_exif(orientation), **options)


def shown(stored, orientation):
    """Pixels as EXIF's orientation says that they are shown."""
    return {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
            5: stored.transpose(1, 0, 2), 6: np.rot90(stored, -1),
            7: stored[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(stored)}[orientation]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name, options", [
    ("a.jpg", {}), ("a.jpeg", {"progressive": True}), ("a.png", {}), ("a.webp", {"lossless": True}),
    ("a.tiff", {"compression": "tiff_lzw"}),
])  # fmt: skip
def test_a_photograph_of_every_format_is_shown_upright(tmp_path, name, options, orientation):
    stored = np.asarray(Image.open(turned(tmp_path / f"1{name}", 1, **options)))
    path = turned(tmp_path / name, orientation, **options)
    image = read_photograph(path)
    assert np.array_equal(image, shown(stored, orientation))
    assert size_as_shown(path) == own_size(path) == image.shape[:2]
    assert check_photograph(path) is None
    mask = stored[..., 0] // 50
    fitted = fitted_mask(mask, path, 0)
    if fitted.shape != mask.shape:
        assert np.array_equal(fitted, shown(mask[..., None], orientation)[..., 0])


def chunk(kind, content):  # of a PNG file
    checksum = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + checksum


def exif_block(*entries):
    """EXIF data with these entries: tag, type and value of four bytes."""
    directory = b"".join(struct.pack("<HHLL", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + directory + bytes(4)


def test_a_photograph_is_turned_whose_exif_is_odd(tmp_path):
    png, turn = save_photo(tmp_path / "a.png", (32, 48)), (ORIENTATION, 3, 6)
    stored, content = np.asarray(Image.open(png)), png.read_bytes()
    behind = chunk(b"eXIf", exif_block(turn))  # behind the pixels
    png.write_bytes(content[:-12] + behind + content[-12:])
    odd = exif_block(turn, (0x011A, 2, 0x00323700), (0x011B, 2, 0x00323700))  # resolution: a text
    jpeg = save_photo(tmp_path / "a.jpg", (32, 48), exif=b"Exif\0\0" + odd)
    assert np.array_equal(read_photograph(png), np.rot90(stored, -1))
    for path in (png, jpeg):
        assert check_photograph(path) is None
        assert read_photograph(path).shape == (48, 32, 3) and size_as_shown(path) == (48, 32)


LARGE = zlib.compress(bytes(3 << 20))
METADATA = {
    "a colour profile": [(b"iCCP", b"icc\0\0" + LARGE)],
    "a broken colour profile": [(b"iCCP", b"icc\0\0" + LARGE[:-9])],
    "a text": [(b"tEXt", b"Comment\0" + b"x" * (3 << 20))],
    "an international text": [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE)],
    "many texts": [(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000)))] * 80,
}


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_of_any_size_does_not_matter(tmp_path, kind):
    path = save_photo(tmp_path / "a.png", exif=turned_exif(6))
    wanted, plain, content = read_photograph(path), read_image(path), path.read_bytes()
    inserted = b"".join(chunk(*each) for each in METADATA[kind])
    path.write_bytes(content[:33] + inserted + content[33:-12] + inserted + content[-12:])
    assert check_photograph(path) is None and size_as_shown(path) == wanted.shape[:2]
    assert np.array_equal(read_image(path), plain)  # a photograph of a dataset
    tracemalloc.start()
    assert np.array_equal(read_photograph(path), wanted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * path.stat().st_size + (1 << 20)


def test_photographs_of_every_kind_become_rgb(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    red, *others = read_photograph(tmp_path / "cmyk.jpg")[0, 0]
    assert red > 200 and max(others) < 60 and "CMYK" in check_photograph(tmp_path / "cmyk.jpg")
    for name, mode, pixel, wanted in (
        ("clear.png", "RGBA", (0, 0, 0, 0), 255),
        ("grey.tif", "L", 7, 7),
        ("palette.png", "P", 0, 0),
    ):
        Image.new(mode, (4, 4), pixel).save(tmp_path / name)
        assert (read_photograph(tmp_path / name) == wanted).all()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert (read_photograph(tmp_path / "two.webp") == (255, 0, 0)).all()
    assert "several frames" in check_photograph(tmp_path / "two.webp")


@pytest.mark.parametrize("highest", [65535, 4095, 1023])
def test_sixteen_bits_become_eight(tmp_path, highest):
    values = np.zeros((4, 4), np.uint16)
    values[0, 0], values[0, 1] = highest, highest // 2
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = read_photograph(tmp_path / "deep.png")
    assert image[0, 0].tolist() == [255] * 3 and abs(int(image[0, 1, 0]) - 127) <= 1
    assert "more than 8 bits" in check_photograph(tmp_path / "deep.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_half_a_photograph_is_damaged(tmp_path, suffix):
    path = save_photo(tmp_path / f"a.{suffix}", (64, 64))
    assert check_photograph(path) is None
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError):
        check_photograph(path)


def test_a_photograph_of_too_many_pixels_is_refused_unread(tmp_path):
    path = save_photo(tmp_path / "large.png")
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    for read in (read_photograph, size_as_shown, check_photograph):
        with pytest.raises(ValueError, match="more than [0-9]+ pixels"):
            read(path)


def large(path, mode, **options):
    """A photograph of 160 x 90 pixels, which gets brighter to the right and below."""
    rows, columns = np.mgrid[:90, :160]
    values = np.stack([rows + 20, columns + 40, rows // 2 + 30], axis=-1).astype(np.uint8)
    deep = Image.fromarray(values[..., 1].astype(np.uint16) * 20)
    (deep if mode == "I;16" else Image.fromarray(values).convert(mode)).save(path, **options)
    return path


def little_memory(monkeypatch):
    """Set the usual limit to 5,000 pixels; what is larger is converted 1,000 at a time."""
    for module in (images, masks):
        monkeypatch.setattr(module, "MAX_PIXELS", 5_000)
    for module in (photographs, masks):
        monkeypatch.setattr(module, "_BAND", 1_000)


@pytest.mark.parametrize("name, mode", [
    ("a.jpg", "RGB"), ("a.jpg", "CMYK"), ("a.png", "RGB"), ("a.png", "RGBA"), ("a.png", "I;16"),
    ("a.tif", "L"), ("a.webp", "RGB"),
])  # fmt: skip
def test_a_huge_photograph_is_shrunk_as_smaller_ones_are(tmp_path, name, mode, monkeypatch):
    path = large(tmp_path / name, mode, exif=turned_exif(6))
    wanted = read_photograph(path, 40).astype(int)
    little_memory(monkeypatch)
    found = read_photograph(path, 40).astype(int)
    assert found.shape == wanted.shape == (*size_as_shown(path, 40), 3)
    assert np.abs(found - wanted).mean() < 2 and np.abs(found - wanted).max() < 20
    assert check_photograph(path, 40) is None or mode in ("CMYK", "I;16")
    with pytest.raises(ValueError, match="90x160 pixels, at most 5000; give --photo_long"):
        size_as_shown(path)
    assert own_size(path) == (160, 90) and size_as_shown(path, 80) == (80, 45)


@pytest.mark.parametrize("orientation", (1, 6, 8))
@pytest.mark.parametrize("longest", (0, 24))
def test_a_mask_is_turned_and_shrunk_with_its_photograph(tmp_path, orientation, longest):
    path = turned(tmp_path / "a.jpg", orientation)
    rows, columns = np.mgrid[:32, :48]
    stored = (1 + (columns > 20) + 2 * (rows > 9)).astype(np.uint8)
    whole = fitted_mask(stored, path, 0)
    assert whole.shape == size_as_shown(path)
    # The colours of the photograph fall where the labels change, however both are turned.
    image = read_photograph(path).astype(int)
    assert (whole == 1 + (image[..., 1] > 106) + 2 * (image[..., 0] > 73)).mean() > 0.93
    mask = fitted_mask(stored, path, longest)
    assert mask.shape == size_as_shown(path, longest) == read_photograph(path, longest).shape[:2]
    assert set(np.unique(mask)) == {1, 2, 3, 4}
    assert np.array_equal(fitted_mask(whole, path, longest), mask)  # of the photograph as shown
