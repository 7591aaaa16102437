"""misc/storage/seals.py, outputs.py: own files are known, no change in them goes unnoticed."""

import cv2
import numpy as np
import pytest
from PIL import Image

from misc.cams import load_cam, save_cam
from misc.data.dataset_info import read_image_list
from misc.data.preparation import save_lists
from misc.errors import UserError
from misc.palette import read_label_png, save_label_png, save_palette_png
from misc.storage.files import is_whole_png
from misc.storage.outputs import State, is_foreign, output_state
from misc.storage.seals import Seal, is_own, require_own, seal_of, sealed
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


def test_every_kind_of_file_is_known_as_own(tmp_path):
    for path in written(tmp_path):
        assert is_own(path) and seal_of(path.read_bytes()) is Seal.WHOLE
    assert not is_own(tmp_path) and not is_own(tmp_path / "none.npy")


@pytest.mark.parametrize("number", range(4))
def test_a_single_flipped_bit_anywhere_is_found(tmp_path, number):
    path = written(tmp_path)[number]
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        assert seal_of(bytes(damaged)) is not Seal.WHOLE


def test_no_reader_takes_a_damaged_file(tmp_path):
    info = describe(tmp_path)
    readers = [read_label_png, read_label_png, load_cam, lambda path: read_image_list(path, info)]
    for path, read in zip(written(tmp_path), readers, strict=True):
        read(path)
        damaged = bytearray(path.read_bytes())
        damaged[2 * len(damaged) // 3] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{path}.*(damaged|was changed)"):
            read(path)


def test_readers_of_others_do_not_see_the_seal(tmp_path):
    grey, palette, cam, listed = written(tmp_path)
    assert (np.array(Image.open(grey)) == LABELS).all()
    assert (np.array(Image.open(palette)) == LABELS).all()
    assert (cv2.imread(str(grey), cv2.IMREAD_UNCHANGED) == LABELS).all()
    assert np.load(cam, allow_pickle=True).item()["keys"].tolist() == [3]
    assert tuple(np.loadtxt(listed, dtype=str, ndmin=1)) == IDS


def test_files_of_others_have_no_seal(tmp_path):
    for name in ("a.png", "b.npy", "c.txt", "empty"):
        assert seal_of(sealed(b"", name[-4:])) is Seal.WHOLE or name == "a.png"
    Image.fromarray(LABELS).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", LABELS)
    (tmp_path / "c.txt").write_text("2012_000001\n")
    (tmp_path / "empty").touch()
    for path in tmp_path.iterdir():
        assert seal_of(path.read_bytes()) is Seal.NONE and not is_own(path)
        with pytest.raises(UserError, match="was not made by this program and stays"):
            require_own(path, "move it")
    require_own(tmp_path / "new", "move it")


def test_state_of_an_output(tmp_path):
    grey, _, cam, _ = written(tmp_path)
    for path in (grey, cam):
        whole = path.read_bytes()
        assert output_state(path) is State.WHOLE and not is_foreign(path)
        for kept in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:kept])
            assert output_state(path) is State.DAMAGED and not is_foreign(path)
        path.unlink()
        assert output_state(path) is State.MISSING and not is_foreign(path)
    Image.fromarray(LABELS).save(grey)
    np.save(cam, {"keys": np.arange(3)})
    for path in (grey, cam):
        assert output_state(path) is State.FOREIGN and is_foreign(path)


def test_a_whole_png_is_known_by_its_end(tmp_path):
    path = written(tmp_path)[0]
    assert is_whole_png(path) and not is_whole_png(tmp_path / "none.png")
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_whole_png(path)
