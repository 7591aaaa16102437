"""misc/storage/checksums.py: own files are known, no change in them goes unnoticed."""

import json
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from misc.cams import load_cam, save_cam
from misc.data.dataset_info import read_image_list
from misc.data.preparation import save_lists
from misc.errors import UserError
from misc.labels import read_label_png, save_label_png, save_palette_png
from misc.storage.checksums import Checksum, checksum_of
from misc.storage.outputs import State, is_own, output_state, write_output
from misc.storage.torch_files import read_torch, write_torch
from voc12.dataset import describe

IDS = ("2012_000001", "2012_000002")
LABELS = np.arange(200, dtype=np.uint8).reshape(10, 20)


def written(folder):
    """One file of every kind that a later step reads."""
    save_label_png(folder / "grey.png", LABELS)
    save_palette_png(folder / "palette.png", LABELS)
    save_cam(folder / "cam.npy", [3], np.full((1, 3, 5), 0.5), np.full((1, 10, 20), 0.5))
    save_lists(folder, {"train.txt": IDS})
    return [folder / name for name in ("grey.png", "palette.png", "cam.npy", "train.txt")]


@pytest.mark.parametrize("number", range(4))
def test_a_single_flipped_bit_anywhere_is_found_and_no_reader_takes_it(tmp_path, number):
    path = written(tmp_path)[number]
    lines = lambda path: read_image_list(path, describe(tmp_path))  # noqa: E731
    read = (read_label_png, read_label_png, load_cam, lines)[number]
    read(path)
    assert is_own(path) and output_state(path) is State.WHOLE
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert output_state(path) is not State.WHOLE
        if place in (len(whole) // 2, 2 * len(whole) // 3):
            with pytest.raises(UserError, match=f"{path}.*(damaged|was changed)"):
                read(path)


CONTENTS = {
    "a.json": b'{"a": [1, 2],\n "b": {}}\n',
    "b.svg": b"<?xml version='1.0'?>\n<svg><g/></svg>\n",
    "c.html": b"<!DOCTYPE html>\n<html></html>\n<!-- ",
}


@pytest.mark.parametrize("name", CONTENTS)
def test_texts_carry_their_checksum_where_their_readers_pass_over_it(tmp_path, name):
    path = tmp_path / name
    write_output(path, CONTENTS[name])
    assert checksum_of(path.read_bytes()) is Checksum.WHOLE and is_own(path)
    if name == "a.json":
        assert json.loads(path.read_bytes()).items() >= {"a": [1, 2], "b": {}}.items()
    if name == "b.svg":
        ElementTree.fromstring(path.read_bytes())
    path.write_bytes(path.read_bytes()[:16] + b" " + path.read_bytes()[16:])
    assert output_state(path) is State.NOT_OURS  # a person edits a text


def test_weights_carry_their_checksum_and_torch_reads_them(tmp_path):
    path = tmp_path / "a.pth"
    write_torch(path, {"a": torch.arange(4)})
    assert checksum_of(path.read_bytes()) is Checksum.WHOLE
    for content in (read_torch(path), torch.load(path, weights_only=True)):
        assert content["a"].tolist() == [0, 1, 2, 3]


def test_readers_of_others_do_not_see_the_checksum(tmp_path):
    grey, palette, cam, listed = written(tmp_path)
    for image in (Image.open(palette), cv2.imread(str(grey), cv2.IMREAD_UNCHANGED)):
        assert (np.array(image) == LABELS).all()
    assert np.load(cam, allow_pickle=True).item()["keys"].tolist() == [3]
    assert tuple(listed.read_text().split()) == IDS  # line by line, as other programs read it
