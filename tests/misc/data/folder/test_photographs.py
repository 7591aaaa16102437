import zlib

import numpy as np
import pytest
from PIL import Image

from misc.data.folder import own_size, photographs
from misc.data.folder.photographs import (
    check_photograph,
    fitted_mask,
    read_photograph,
    size_as_shown,
)
from misc.storage import untrusted
from tests.misc.data.folder.conftest import save_photo

ORIENTATION = 0x0112


def turned_exif(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def turned(path, orientation):
    """A JPEG that asks to be shown otherwise than it is stored."""
    return save_photo(path, (32, 48), exif=turned_exif(orientation), quality=95)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_shown_upright(tmp_path, orientation):
    path = turned(tmp_path / "a.jpg", orientation)
    stored = np.asarray(Image.open(path))
    shown = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
             5: stored.transpose(1, 0, 2), 6: np.rot90(stored, -1),
             7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored)}  # fmt: skip
    image = read_photograph(path)
    assert np.array_equal(image, shown[orientation]) and size_as_shown(path) == image.shape[:2]


@pytest.mark.parametrize("orientation", (1, 6))
def test_a_large_photograph_is_shrunk_to_its_longer_side(tmp_path, orientation):
    path = turned(tmp_path / "a.jpg", orientation)
    image = read_photograph(path, 24)
    assert (
        image.shape[:2] == size_as_shown(path, 24) == ((16, 24) if orientation == 1 else (24, 16))
    )
    assert np.array_equal(read_photograph(path, 48), read_photograph(path))


def test_the_pixels_of_an_ordinary_jpeg_are_those_of_pillow(tmp_path):
    path = save_photo(tmp_path / "a.jpg", (37, 53))
    assert np.array_equal(read_photograph(path, 640), np.asarray(Image.open(path).convert("RGB")))


def colours(path):
    return read_photograph(path)[0, 0].tolist()


def test_photographs_of_every_kind_become_rgb(tmp_path):
    one = (4, 4)
    Image.new("CMYK", one, (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    red = colours(tmp_path / "cmyk.jpg")
    assert red[0] > 200 and max(red[1:]) < 60
    Image.new("RGBA", one, (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("L", one, 7).save(tmp_path / "grey.tif")
    Image.new("P", one, 0).save(tmp_path / "palette.png")
    assert colours(tmp_path / "clear.png") == [255] * 3
    assert colours(tmp_path / "grey.tif") == [7] * 3
    assert len(colours(tmp_path / "palette.png")) == 3


@pytest.mark.parametrize("highest, shown", [(65535, 255), (4095, 255), (1023, 255)])
def test_sixteen_bits_become_eight(tmp_path, highest, shown):
    values = np.zeros((4, 4), np.uint16)
    values[0, 0], values[0, 1] = highest, highest // 2
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = read_photograph(tmp_path / "deep.png")
    assert image[0, 0].tolist() == [shown] * 3 and abs(int(image[0, 1, 0]) - 127) <= 1
    assert "more than 8 bits" in check_photograph(tmp_path / "deep.png")


def test_of_several_frames_the_first_is_used(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert colours(tmp_path / "moving.webp") == [255, 0, 0]
    assert "several frames" in check_photograph(tmp_path / "moving.webp")


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


@pytest.fixture
def little_memory(monkeypatch):
    """The usual limit is 5,000 pixels, and large photographs are converted 1,000 at a time."""
    for module in (photographs, untrusted, own_size):
        monkeypatch.setattr(module, "MAX_PIXELS", 5_000)
    monkeypatch.setattr(photographs, "_BAND", 1_000)
    monkeypatch.setattr(own_size, "_BAND", 1_000)


def large(path, mode="RGB", **options):
    """A photograph of 160 x 90 pixels, which gets brighter to the right and below."""
    rows, columns = np.mgrid[:90, :160]
    values = np.stack([rows + 20, columns + 40, rows // 2 + 30], axis=-1).astype(np.uint8)
    image = Image.fromarray(values)
    if mode == "I;16":
        image = Image.fromarray(values[..., 1].astype(np.uint16) * 20)
    (image if mode == "I;16" else image.convert(mode)).save(path, **options)
    return path


@pytest.mark.parametrize("name, mode", [
    ("a.jpg", "RGB"), ("a.jpg", "CMYK"), ("a.png", "RGB"), ("a.png", "RGBA"), ("a.png", "I;16"),
    ("a.tif", "L"), ("a.webp", "RGB"),
])  # fmt: skip
def test_a_huge_photograph_is_shrunk_as_smaller_ones_are(tmp_path, name, mode, monkeypatch):
    path = large(tmp_path / name, mode, exif=turned_exif(6))
    wanted = read_photograph(path, 40).astype(int)
    monkeypatch.setattr(photographs, "MAX_PIXELS", 5_000)
    monkeypatch.setattr(photographs, "_BAND", 1_000)
    found = read_photograph(path, 40).astype(int)
    assert found.shape == wanted.shape == (*size_as_shown(path, 40), 3)
    assert np.abs(found - wanted).mean() < 2 and np.abs(found - wanted).max() < 20
    assert check_photograph(path) is None or mode in ("CMYK", "I;16")


def test_a_huge_photograph_that_is_not_shrunk_is_refused(tmp_path, little_memory):
    path = large(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="160x90 pixels, at most 5000; give --photo_long"):
        size_as_shown(path)
    assert photographs.own_size(path) == (90, 160) and size_as_shown(path, 80) == (45, 80)


def test_a_huge_mask_is_enlarged_as_smaller_ones_are(monkeypatch):
    mask = np.random.default_rng(0).integers(0, 4, (20, 30)).astype(np.uint8)
    wanted = own_size.enlarged(mask, (133, 211))
    monkeypatch.setattr(own_size, "MAX_PIXELS", 5_000)
    monkeypatch.setattr(own_size, "_BAND", 1_000)
    assert (own_size.enlarged(mask, (133, 211)) == wanted).mean() > 0.999


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
    assert mask.shape == size_as_shown(path, longest) and set(np.unique(mask)) == {1, 2, 3, 4}
    assert np.array_equal(fitted_mask(whole, path, longest), mask)  # of the photograph as shown
