"""The synthetic sample: labels, annotations and files in the layout of PASCAL VOC."""

import hashlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from Dataset import make_sample as sample
from Dataset import voc_layout
from Dataset.scene import Instance, Scene
from misc.errors import UserError
from voc12.dataset import CLASS_NAMES


@pytest.fixture(scope="module")
def default_sample(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "voc"
    assert sample.make_sample(folder)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def ids_of(folder: Path, split: str) -> list[str]:
    return (folder / "ImageSets/Segmentation" / f"{split}.txt").read_text().split()


def xml_classes(folder: Path, image_id: str) -> set[str]:
    root = ElementTree.parse(folder / "Annotations" / f"{image_id}.xml").getroot()
    return {element.findtext("name") for element in root.iter("object")}


def mask_of(folder: Path, image_id: str) -> np.ndarray:
    return np.array(Image.open(folder / "SegmentationClass" / f"{image_id}.png"))


def square_scene() -> Scene:
    """A cat of 8 x 10 pixels that ends at the right border, a dog of 6 x 6 below it."""
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 2:10, 20:30] = True
    masks[1, 10:16, 22:28] = True
    instances = (Instance("cat", masks[0]), Instance("dog", masks[1]))
    return Scene(np.zeros((20, 30, 3), np.uint8), instances)


def test_label_map_has_a_ring_of_void_round_every_object():
    labels = voc_layout.label_map(square_scene())
    cat, dog = CLASS_NAMES.index("cat") + 1, CLASS_NAMES.index("dog") + 1
    assert labels.dtype == np.uint8 and set(np.unique(labels)) == {0, cat, dog, 255}
    assert (labels == cat).sum() == 6 * 9  # no ring along the image border
    assert (labels == dog).sum() == 4 * 4
    assert (labels[3:9, 18] == 0).all() and (labels[3:9, 19:21] == 255).all()
    assert (labels[9:11, 23:27] == 255).all()  # also between the two


def test_masks_images_and_annotations_agree(default_sample):
    train, val = ids_of(default_sample, "train"), ids_of(default_sample, "val")
    assert (len(train), len(val)) == (24, 12) and not set(train) & set(val)
    augmented = {path.stem for path in (default_sample / "SegmentationClassAug").iterdir()}
    assert augmented == set(train)
    for image_id in train + val:
        labels = mask_of(default_sample, image_id)
        with Image.open(default_sample / "JPEGImages" / f"{image_id}.jpg") as image:
            assert image.mode == "RGB" and image.size == labels.shape[::-1]
        in_mask = {CLASS_NAMES[k - 1] for k in np.unique(labels) if k not in (0, 255)}
        assert in_mask == xml_classes(default_sample, image_id) and in_mask


@pytest.mark.parametrize("layout", sample.LAYOUTS)
def test_same_options_give_the_same_bytes(tmp_path, layout):
    for name in ("a", "b"):
        sample.make_sample(tmp_path / name, 2, 1, seed=5, layout=layout)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_images_depend_on_seed_and_split_but_not_on_their_number(tmp_path):
    sample.make_sample(tmp_path / "few", 1, 1, seed=5)
    sample.make_sample(tmp_path / "more", 2, 1, seed=5)
    sample.make_sample(tmp_path / "other", 1, 1, seed=6)
    few, more, other = (hashes(tmp_path / name) for name in ("few", "more", "other"))
    images = [name for name in few if name.endswith((".jpg", ".png"))]
    assert all(few[name] == more[name] for name in images)
    assert all(few[name] != other[name] for name in images)
    train, val = (few[f"JPEGImages/{ids_of(tmp_path / 'few', s)[0]}.jpg"] for s in sample.SPLITS)
    assert train != val


@pytest.mark.parametrize("other", [["--seed", "3"], ["--layout", "coco"]])
def test_other_options_are_refused(tmp_path, capsys, other):
    options = ["--out", str(tmp_path / "voc"), "--train", "1", "--val", "1"]
    assert sample.main(options) == 0
    (tmp_path / "voc" / "JPEGImages" / "notes.txt").write_text("kept")
    before = hashes(tmp_path / "voc")
    assert sample.main(options) == 0 and "there already" in capsys.readouterr().out
    assert sample.main([*options, *other]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "voc") in message and f"{other[1]} now" in message
    assert message.count("\n") == 1
    assert hashes(tmp_path / "voc") == before


def test_an_empty_folder_is_used_and_anything_else_refused(tmp_path):
    taken, empty = tmp_path / "taken", tmp_path / "empty"
    taken.mkdir(), empty.mkdir()
    (taken / "photo.jpg").write_text("precious")
    for place, complaint in (
        (taken, "taken.*other files"), (taken / "photo.jpg", "is a file"),
        (taken / "photo.jpg" / "voc", "cannot be written"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=complaint):
            sample.make_sample(place, 1, 1)
    assert (taken / "photo.jpg").read_text() == "precious" and len(list(taken.iterdir())) == 1
    assert sample.make_sample(empty, 1, 1)
    assert len(ids_of(empty, "train")) == 1


@pytest.mark.parametrize(("numbers", "flag"), [
    ((0, 1, 0), "--train"), ((1, 100_000, 0), "--val"), ((1, 1, -1), "--seed"),
])  # fmt: skip
def test_numbers_out_of_range_are_refused(tmp_path, numbers, flag):
    with pytest.raises(UserError, match=f"{flag} .*out of range"):
        sample.make_sample(tmp_path / "voc", *numbers)


def test_nothing_is_left_behind_when_drawing_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no more colours")

    monkeypatch.setattr(voc_layout, "label_map", fail)
    with pytest.raises(RuntimeError, match="no more colours"):
        sample.make_sample(tmp_path / "voc", 1, 1)
    assert list(tmp_path.iterdir()) == []
