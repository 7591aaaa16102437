"""The synthetic sample: labels, annotations and files in the layout of PASCAL VOC."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from Dataset import make_sample as sample
from misc.errors import UserError
from tests.tools.fault_runs import checksums
from voc12.dataset import CLASS_NAMES


@pytest.fixture(scope="module")
def default_sample(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "voc"
    assert sample.make_sample(folder)
    return folder


def ids_of(folder: Path, split: str) -> list[str]:
    return (folder / "ImageSets/Segmentation" / f"{split}.txt").read_text().split()


def xml_classes(folder: Path, image_id: str) -> set[str]:
    root = ElementTree.parse(folder / "Annotations" / f"{image_id}.xml").getroot()
    return {element.findtext("name") for element in root.iter("object")}


def mask_of(folder: Path, image_id: str) -> np.ndarray:
    return np.array(Image.open(folder / "SegmentationClass" / f"{image_id}.png"))


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
    assert checksums(tmp_path / "a") == checksums(tmp_path / "b")


@pytest.mark.parametrize("other", [["--seed", "3"], ["--layout", "coco"]])
def test_other_options_are_refused(tmp_path, capsys, other):
    options = ["--out", str(tmp_path / "voc"), "--train", "1", "--val", "1"]
    assert sample.main(options) == 0
    (tmp_path / "voc" / "JPEGImages" / "notes.txt").write_text("kept")
    before = checksums(tmp_path / "voc")
    assert sample.main(options) == 0 and "there already" in capsys.readouterr().out
    assert sample.main([*options, *other]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "voc") in message and f"{other[1]} now" in message
    assert message.count("\n") == 1
    assert checksums(tmp_path / "voc") == before


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
