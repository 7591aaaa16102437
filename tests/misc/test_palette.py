"""misc/palette.py: the colours of PASCAL VOC, and label maps as PNG files."""

import numpy as np
import pytest
from PIL import Image

from misc.errors import UserError
from misc.labels import read_label_png, save_label_png, save_palette_png, voc_palette

LABELS = np.arange(256, dtype=np.uint8).reshape(8, 32)


def test_known_colours():
    palette = voc_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),  # aeroplane
        2: (0, 128, 0),
        4: (0, 0, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),  # person
        20: (0, 64, 128),  # tv monitor
        80: (32, 64, 0),
        255: (224, 224, 192),
    }
    assert {label: tuple(palette[label].tolist()) for label in known} == known


def test_colours_differ_and_do_not_depend_on_their_number():
    assert len(np.unique(voc_palette(), axis=0)) == 256
    np.testing.assert_array_equal(voc_palette(81), voc_palette()[:81])


@pytest.mark.parametrize("save, mode", [(save_label_png, "L"), (save_palette_png, "P")])
def test_labels_come_back(tmp_path, save, mode):
    path = tmp_path / "a.png"
    save(path, LABELS)
    read = read_label_png(path)
    np.testing.assert_array_equal(read, LABELS)
    assert read.dtype == np.uint8 and read.flags.writeable
    with Image.open(path) as image:
        assert image.format == "PNG" and image.mode == mode
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_palette_png_shows_the_colours(tmp_path):
    save_palette_png(tmp_path / "a.png", LABELS)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), voc_palette()[LABELS])


def test_failed_writing_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="cannot write mode F"):
        save_label_png(tmp_path / "a.png", np.zeros((2, 2), dtype=np.float32))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_images_that_hold_no_labels_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"a.png is an image of mode {mode}"):
        read_label_png(tmp_path / "a.png")


def test_missing_and_broken_files_are_refused(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(UserError, match="a.png is missing"):
        read_label_png(path)
    noise = np.random.RandomState(0).randint(0, 256, (32, 32)).astype(np.uint8)
    save_palette_png(path, noise)
    whole = path.read_bytes()
    for broken in (b"", b"text", whole[:20], whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="a.png cannot be read"):
            read_label_png(path)
    for position in range(8, 60):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            read_label_png(path)
        except UserError:
            continue
