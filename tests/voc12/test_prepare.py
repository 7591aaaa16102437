"""voc12/prepare.py: lists and image-level labels from the files of the dataset."""

import shutil

import numpy as np
import pytest

from misc.data.dataset_info import read_image_list
from misc.errors import UserError
from misc.labels import save_palette_png
from misc.storage.cam_files import load_dict
from voc12.dataset import CLASS_NAMES
from voc12.prepare import label_from_mask, label_from_xml, prepare


def lists(out_dir, info):
    return [read_image_list(out_dir / f"{n}.txt", info) for n in ("train", "val", "train_aug")]


def mask_file(info, image_id, folder="SegmentationClassAug"):
    return info.root / folder / f"{image_id}.png"


def test_lists_put_the_images_of_train_first(info, tmp_path):
    split_dir = info.root / "ImageSets" / "Segmentation"
    (split_dir / "train.txt").write_text("2012_000005\n2012_000002\n")
    shutil.copy(mask_file(info, "2012_000001"), mask_file(info, "2012_100002"))
    mask_file(info, "2012_000007").unlink()
    (mask_file(info, "notes")).touch()
    prepare(info, tmp_path / "out")
    train, val, train_aug = lists(tmp_path / "out", info)
    assert train == ("2012_000005", "2012_000002")
    assert val == ("2012_100001", "2012_100002")  # has an augmented mask, and stays out
    assert train_aug == (*train, *(f"2012_00000{n}" for n in (1, 3, 4, 6, 8)))
    labels = load_dict(tmp_path / "out" / "cls_labels.npy", "")
    listed = (*train_aug, *val, "2012_000007")  # the last has an annotation and no mask
    assert labels.keys() == {info.label_key(image_id) for image_id in listed}


def test_without_augmented_masks_the_official_list_stands_in(info, tmp_path, caplog):
    shutil.rmtree(info.root / "SegmentationClassAug")
    official = info.official_ids("train_aug")
    assert len(official) == 10582 and not set(official) & set(info.official_ids("val"))
    for image_id in (official[0], official[-1]):
        shutil.copy(info.image_path("2012_000001"), info.image_path(image_id))
    prepare(info, tmp_path, with_labels=False)
    train, _, train_aug = lists(tmp_path, info)
    assert train_aug == (*train, official[0], official[-1]) and len(train) == 8
    assert "SegmentationClassAug has no masks" in caplog.text


def test_objects_count_whatever_their_case_and_difficulty_and_parts_do_not(info, tmp_path):
    objects = "<object><name> Cat</name><difficult>1</difficult></object>"
    objects += "<object><name>TVMonitor\n</name><part><name>person</name></part></object>" * 2
    path = tmp_path / "a.xml"
    path.write_text(f"<annotation><name>boat</name>{objects}</annotation>")
    label = label_from_xml(path, info)
    assert label.dtype == np.float32 and label.sum() == 2
    assert [CLASS_NAMES[i] for i in label.nonzero()[0]] == ["cat", "tvmonitor"]


@pytest.mark.parametrize("text, words", [
    ("<annotation><object>", "cannot be read"),
    ("<a><object><name>unicorn</name></object></a>", "'unicorn' is not a class of voc12 .aerop"),
    ("<a><object><name/></object></a>", "'None' is not a class of voc12"),
])  # fmt: skip
def test_bad_annotations_are_named(info, tmp_path, text, words):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match=f"a.xml: .*{words}"):
        label_from_xml(tmp_path / "a.xml", info)


def test_missing_annotations_are_counted(info, tmp_path):
    for image_id in ("2012_000003", "2012_000006", "2012_100002"):
        (info.root / "Annotations" / f"{image_id}.xml").unlink()
    with pytest.raises(UserError, match="(?s)000003.xml: missing label.*000006.xml.*3 labels"):
        prepare(info, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    prepare(info, tmp_path / "out", with_labels=False)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"train.txt", "val.txt", "train_aug.txt", "manifest.json"}


def test_without_annotations_labels_come_from_the_masks(info, tmp_path, caplog):
    prepare(info, tmp_path / "xml")
    xml = (info.root / "Annotations").rename(tmp_path / "annotations")
    mask_file(info, "2012_000001", "SegmentationClass").unlink()  # the other folder has it
    prepare(info, tmp_path / "mask")
    from_xml, from_mask = (load_dict(tmp_path / d / "cls_labels.npy", "") for d in ("xml", "mask"))
    assert from_xml.keys() == from_mask.keys()
    for key, label in from_mask.items():
        image_id = f"{key // 10**6}_{key % 10**6:06d}"
        np.testing.assert_array_equal(from_xml[key], label_from_xml(xml / f"{image_id}.xml", info))
        mask = info.mask_path(image_id)
        np.testing.assert_array_equal(label, label_from_mask(mask, info))
        assert (label <= from_xml[key]).all()  # an object may hide behind another one
    assert "Annotations is missing" in caplog.text


def test_labels_of_a_mask(info, tmp_path):
    save_palette_png(tmp_path / "a.png", np.array([[0, 255, 1], [20, 20, 0]], dtype=np.uint8))
    assert label_from_mask(tmp_path / "a.png", info).nonzero()[0].tolist() == [0, 19]
    save_palette_png(tmp_path / "a.png", np.array([[0, 255, 21]], dtype=np.uint8))
    with pytest.raises(UserError, match="a.png: has label 21, voc12 ends at 20"):
        label_from_mask(tmp_path / "a.png", info)


def test_images_with_a_mask_of_another_size_are_left_out_on_demand(info, tmp_path):
    small = np.zeros((4, 4), dtype=np.uint8)
    for image_id in ("2012_000004", "2012_100001"):
        save_palette_png(mask_file(info, image_id, "SegmentationClass"), small)
    prepare(info, tmp_path / "all")
    assert [len(ids) for ids in lists(tmp_path / "all", info)] == [8, 2, 8]
    prepare(info, tmp_path / "out", skip_mismatched=True)
    train, val, train_aug = lists(tmp_path / "out", info)
    assert "2012_000004" not in train + train_aug and len(train) == len(train_aug) == 7
    assert val == ("2012_100002",)
    labels = load_dict(tmp_path / "out" / "cls_labels.npy", "")
    assert set(labels) >= {info.label_key(image_id) for image_id in (*train_aug, *val)}
