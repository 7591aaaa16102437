"""coco14/: label maps, lists and image-level labels from COCO's instances files."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
from array import array

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from coco14 import masks
from coco14.dataset import CATEGORY_IDS, CLASS_NAMES, describe
from coco14.instances import Annotation
from coco14.prepare import prepare
from misc.data.dataset_info import read_image_list
from misc.data.datasets import mask_folders
from misc.errors import UserError
from misc.labels import read_label_png, save_palette_png, voc_palette
from misc.storage.cam_files import load_label_dict
from tests.conftest import PROJECT, shared_path

PERSON, CAR, CUP, TABLE = (
    CLASS_NAMES.index(n) + 1 for n in ("person", "car", "cup", "dining table")
)
SIZE = (24, 32)  # height, width
NINE, TEN = f"{9:012d}", f"{10:012d}"


def category(label):
    return CATEGORY_IDS[label - 1]


def box(left, top, right, bottom):
    """Polygon round the pixels left..right-1, top..bottom-1."""
    return [left, top, right, top, right, bottom, left, bottom]


def runs(mask):
    """Uncompressed RLE, counted pixel by pixel."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"counts": counts, "size": list(mask.shape)}


def rectangle(left, top, right, bottom):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def entry(label, segmentation, area, image=9, crowd=0):
    return {
        "segmentation": segmentation,
        "area": area,
        "iscrowd": crowd,
        "image_id": image,
        "bbox": [0, 0, 1, 1],
        "category_id": category(label),
    }


class MadeUp:
    """A COCO tree of two training images (9, 10) and one validation image (11)."""

    def __init__(self, root):
        self.root, self.info = root, describe(root)
        (root / "JPEGImages").mkdir(parents=True)
        (root / "annotations").mkdir()
        for image_id in (9, 10, 11):
            photograph = Image.fromarray(np.zeros((*SIZE, 3), dtype=np.uint8))
            photograph.save(root / "JPEGImages" / f"{image_id:012d}.jpg")
        self.write("train", (9, 10), [])
        self.write("val", (11,), [])

    def path(self, split="train"):
        return self.root / "annotations" / f"instances_{split}2014.json"

    def write(self, split, numbers, annotations):
        content = {
            "info": {"year": 2014},
            "images": [{"id": n, "height": SIZE[0], "width": SIZE[1]} for n in numbers],
            "annotations": [{"id": 70 + k, **a} for k, a in enumerate(annotations)],
            "categories": [
                {"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)
            ],
        }
        self.path(split).write_text(json.dumps(content))

    def change(self, change):
        """Rewrites the training file after `change` was made to its content."""
        content = json.loads(self.path().read_text())
        change(content)
        self.path().write_text(json.dumps(content))

    def mask(self, image_id=NINE):
        return read_label_png(self.root / "coco_seg_anno" / f"{image_id}.png")

    def prepare(self, *annotations, **options):
        if annotations:
            self.write("train", (9, 10), annotations)
        out_dir = self.root / "lists"
        prepare(self.info, out_dir, **options)
        return load_label_dict(out_dir / "cls_labels_coco.npy")

    def refused(self, *annotations):
        with pytest.raises(UserError) as raised:
            self.prepare(*annotations)
        message = str(raised.value)
        assert "\n" not in message and len(message) < 600
        assert not (self.root / "lists").exists()
        return message


@pytest.fixture
def coco(tmp_path):
    return MadeUp(tmp_path / "coco")


# --- classes ------------------------------------------------------------------------------------


def test_classes():
    info = describe("")
    assert info.num_classes == 80 == len(set(CLASS_NAMES)) and info.num_labels == 81
    assert (CATEGORY_IDS[0], CATEGORY_IDS[-1], len(CATEGORY_IDS)) == (1, 90, 80)
    assert category(PERSON) == 1 and category(CUP) == 47 and category(TABLE) == 67
    assert len(np.unique(voc_palette(81), axis=0)) == 81


def test_classes_are_those_of_the_official_files():
    path = shared_path("data/coco_2017/annotations/instances_val2014.json")
    categories = json.loads(path.read_text())["categories"]
    official = [(c["id"], c["name"]) for c in sorted(categories, key=lambda c: c["id"])]
    assert official == list(zip(CATEGORY_IDS, CLASS_NAMES, strict=True))


# --- masks --------------------------------------------------------------------------------------


def test_the_smaller_object_is_on_top(coco):
    coco.prepare(
        entry(CUP, [box(10, 6, 16, 12)], 36),
        entry(TABLE, [box(4, 4, 28, 20)], 384),
        entry(PERSON, [box(2, 2, 8, 22)], 120),
    )
    expected = np.zeros(SIZE, dtype=np.uint8)
    for label, shape in (
        (TABLE, (4, 4, 28, 20)), (PERSON, (2, 2, 8, 22)), (CUP, (10, 6, 16, 12)),
    ):  # fmt: skip
        expected[rectangle(*shape)] = label
    np.testing.assert_array_equal(coco.mask(), expected)


def test_of_equal_areas_the_later_one_is_on_top(coco):
    coco.prepare(entry(CAR, [box(0, 0, 8, 8)], 64), entry(CUP, [box(4, 4, 12, 12)], 64))
    mask = coco.mask()
    assert mask[5, 5] == CUP and mask[1, 1] == CAR


def test_the_annotated_area_decides_not_the_drawn_one(coco):
    coco.prepare(entry(CAR, [box(0, 0, 8, 8)], 9), entry(CUP, [box(4, 4, 8, 8)], 16))
    assert (coco.mask()[:8, :8] == CAR).all()


@pytest.mark.parametrize("crowd_area", [4, 700])
def test_a_crowd_is_ignored_where_no_object_is(coco, crowd_area):
    crowd = rectangle(0, 0, 16, 16)
    labels = coco.prepare(
        entry(CAR, [box(8, 8, 24, 20)], 192),
        entry(PERSON, runs(crowd), crowd_area, crowd=1),
    )
    expected = np.zeros(SIZE, dtype=np.uint8)
    expected[crowd] = 255
    expected[rectangle(8, 8, 24, 20)] = CAR
    np.testing.assert_array_equal(coco.mask(), expected)
    # The class of a crowd is in the image, although none of its pixels is scored.
    assert labels[9].nonzero()[0].tolist() == [PERSON - 1, CAR - 1]


def test_parts_holes_and_compressed_runs(coco):
    ring = rectangle(18, 2, 30, 14) & ~rectangle(21, 5, 27, 11)
    compressed = coco_mask.encode(np.asfortranarray(ring.astype(np.uint8)))
    coco.prepare(
        entry(CAR, [box(0, 0, 4, 4), box(8, 0, 12, 4), [1, 1, 30, 20]], 32),
        entry(CUP, {"size": compressed["size"], "counts": compressed["counts"].decode()}, 108),
        entry(TABLE, [[0, 0, 20, 20]], 5),  # two points have no inside
    )
    expected = np.zeros(SIZE, dtype=np.uint8)
    expected[rectangle(0, 0, 4, 4) | rectangle(8, 0, 12, 4)] = CAR
    expected[ring] = CUP
    np.testing.assert_array_equal(coco.mask(), expected)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_runs_of_any_mask(share):
    mask = np.random.RandomState(0).rand(300, 700) < share
    mask[:, 200:500] &= share == 1  # a run of more than 16 bits, and one that grows by it
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    for counts in (rle["counts"].decode(), array("I", runs(mask)["counts"])):
        annotation = Annotation(1, 9, 1, 9.0, False, {"size": [300, 700], "counts": counts})
        np.testing.assert_array_equal(masks.decode(annotation, mask.shape), mask)


def reference(content, number):
    """The mask of an image, one annotation at a time and pixel by pixel."""
    (image,) = [i for i in content["images"] if i["id"] == number]
    size = (image["height"], image["width"])
    label_of = {c["id"]: 1 + CLASS_NAMES.index(c["name"]) for c in content["categories"]}
    own = [a for a in content["annotations"] if a["image_id"] == number]
    mask, smallest = np.zeros(size, dtype=np.uint8), np.full(size, np.inf)
    crowd = np.zeros(size, dtype=bool)
    for annotation in own:
        segmentation = annotation["segmentation"]
        covered = np.zeros(size, dtype=bool)
        for part in [segmentation] if isinstance(segmentation, dict) else segmentation:
            rle = coco_mask.frPyObjects(part if isinstance(part, dict) else [part], *size)
            rle = rle if isinstance(rle, dict) else rle[0]
            covered |= coco_mask.decode(rle).astype(bool)
        if annotation["iscrowd"]:
            crowd |= covered
            continue
        on_top = covered & (annotation["area"] <= smallest)
        mask[on_top], smallest[on_top] = label_of[annotation["category_id"]], annotation["area"]
    mask[crowd & (mask == 0)] = 255
    return mask


def compare_with_reference(info, tmp_path):
    prepare(info, tmp_path / "lists")
    seen = set()
    for split in ("train", "val"):
        path = info.root / "annotations" / f"instances_{split}2014.json"
        content = json.loads(path.read_text())
        for number in (image["id"] for image in content["images"]):
            image_id = f"{number:012d}"
            mask = read_label_png(info.mask_path(image_id))
            np.testing.assert_array_equal(mask, reference(content, number), image_id)
            assert mask.shape == info.image_size(image_id)
            seen |= set(np.unique(mask))
    return seen


def test_masks_of_the_drawn_sample(coco_sample, tmp_path):
    shutil.copytree(coco_sample.root, tmp_path / "coco")
    seen = compare_with_reference(describe(tmp_path / "coco"), tmp_path)
    assert {0, 255} < seen and len(seen) > 5


def test_masks_of_real_images(tmp_path):
    root = shared_path("data/coco_2017")
    (tmp_path / "coco").mkdir()
    for name in ("JPEGImages", "annotations"):
        (tmp_path / "coco" / name).symlink_to(root / name)
    seen = compare_with_reference(describe(tmp_path / "coco"), tmp_path)
    assert {0, 255} < seen and len(seen) > 40
    labels = load_label_dict(tmp_path / "lists" / "cls_labels_coco.npy")
    assert len(labels) == 60 and all(label.shape == (80,) for label in labels.values())


def test_masks_have_the_palette(coco):
    coco.prepare(entry(CAR, [box(0, 0, 8, 8)], 64))
    with Image.open(coco.info.mask_path(NINE)) as image:
        assert image.mode == "P"
        assert image.getpalette() == voc_palette().ravel().tolist()


def test_several_processes_draw_the_same(coco, coco_sample, tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(masks, "_CHUNK", 3)
    monkeypatch.setattr(masks, "cpu_count", lambda: 2)
    root = tmp_path / "several"
    shutil.copytree(coco_sample.root, root)
    compare_with_reference(describe(root), tmp_path)


# --- lists and labels ---------------------------------------------------------------------------


def test_lists_are_sorted_and_have_images_without_objects(coco):
    coco.write(
        "train", (10, 9), [entry(CUP, [box(0, 0, 4, 4)], 16), entry(CUP, [box(5, 5, 9, 9)], 16)]
    )
    labels = coco.prepare()
    assert read_image_list(coco.root / "lists" / "train14.txt", coco.info) == (NINE, TEN)
    assert read_image_list(coco.root / "lists" / "val14.txt", coco.info) == (f"{11:012d}",)
    assert set(labels) == {9, 10, 11}
    assert all(label.shape == (80,) and label.dtype == np.float32 for label in labels.values())
    assert labels[9].nonzero()[0].tolist() == [CUP - 1] and labels[9].max() == 1
    assert not labels[10].any() and not coco.mask(TEN).any()
    assert coco.mask(TEN).shape == SIZE


def test_lists_without_labels(coco):
    prepare(coco.info, coco.root / "lists", with_labels=False)
    names = {path.name for path in (coco.root / "lists").iterdir()}
    assert names == {"train14.txt", "val14.txt", "manifest.json"}


def test_categories_count_by_name(coco):
    """Other exports number the same 80 classes differently."""
    coco.prepare(entry(CUP, [box(0, 0, 4, 4)], 16))
    shutil.rmtree(coco.root / "coco_seg_anno")

    def number_anew(content):
        for number, kind in enumerate(reversed(content["categories"]), start=500):
            kind["id"] = number
            if kind["name"] == "cup":
                content["annotations"][0]["category_id"] = number

    coco.change(number_anew)
    assert coco.prepare()[9].nonzero()[0].tolist() == [CUP - 1]
    assert (coco.mask()[:4, :4] == CUP).all()


@pytest.mark.parametrize("name", ["{}.jpg", "COCO_train2014_{}.jpg", "COCO_val2014_{}.jpg"])
def test_names_of_photographs(coco, name, caplog):
    path = coco.info.image_dir / name.format(NINE)
    (coco.info.image_dir / f"{NINE}.jpg").rename(path)
    assert coco.info.image_path(NINE) == path and coco.info.image_size(NINE) == SIZE
    coco.prepare()
    assert "missing" not in caplog.text


def moved(coco, tree, photograph, mask):
    """The made-up tree in another layout: names below its folders, by id and split."""
    for split, numbers in (("train2014", (9, 10)), ("val2014", (11,))):
        for number in numbers:
            image_id = f"{number:012d}"
            for old, name in ((coco.root / "JPEGImages" / f"{image_id}.jpg", photograph),
                              (coco.root / "old_masks" / f"{image_id}.png", mask)):  # fmt: skip
                new = coco.root / tree / name.format(image_id, split=split, number=number)
                new.parent.mkdir(parents=True, exist_ok=True)
                old.rename(new)
    if tree:
        (coco.root / "annotations").rename(coco.root / tree / "annotations")
    for folder in ("JPEGImages", "old_masks"):
        with contextlib.suppress(OSError):
            (coco.root / folder).rmdir()


@pytest.mark.parametrize(
    ("tree", "photograph", "mask"),
    [
        ("", "{split}/COCO_{split}_{}.jpg", "SegmentationClass/{split}/COCO_{split}_{}.png"),
        ("", "images/{split}/{}.jpg", "masks/{}.png"),
        ("", "JPEGImages/{split}/COCO_{split}_{}.jpg", "coco_seg_anno/{split}/{}.png"),
        ("", "images/{}.jpg", "mask/COCO_{split}_{}.png"),
        ("", "train2017/{}.jpg", "mask/{split}/{}.png"),
        ("", "{split}/COCO_{split}_{}.jpg", "mask/{split}/{number}.png"),  # of ReCAM
        ("coco", "images/{split}/COCO_{split}_{}.jpg", "coco_seg_anno/{}.png"),
    ],
)
def test_layouts_are_found_by_looking(coco, caplog, tree, photograph, mask):
    coco.prepare(entry(CUP, [box(0, 0, 4, 4)], 16))
    drawn = coco.mask()
    (coco.root / "coco_seg_anno").rename(coco.root / "old_masks")
    moved(coco, tree, photograph, mask)
    info = describe(coco.root)
    info.require_root()
    caplog.clear()
    prepare(info, coco.root / "lists")
    assert "missing" not in caplog.text
    for number, split in ((9, "train2014"), (11, "val2014")):
        image_id = f"{number:012d}"
        name = photograph.format(image_id, split=split)
        assert info.image_path(image_id) == coco.root / tree / name
        assert info.id_in(name) == image_id
        path = coco.root / tree / mask.format(image_id, split=split, number=number)
        assert info.mask_path(image_id) == path
    assert mask_folders(info, [NINE]) == f"{coco.root / tree / mask.split('/')[0]} (1 image)"
    np.testing.assert_array_equal(read_label_png(info.mask_path(NINE)), drawn)
    assert len(list(coco.root.rglob("*.png"))) == 3  # none was drawn again


def test_masks_with_category_ids_are_refused(coco):
    coco.prepare(entry(CUP, [box(0, 0, 4, 4)], 16))
    (coco.root / "coco_seg_anno").rename(coco.root / "masks")
    labels = read_label_png(coco.root / "masks" / f"{NINE}.png")
    prepare(describe(coco.root), coco.root / "lists")  # class + 1
    coco_ids = np.where(labels == CUP, category(CUP), 0).astype(np.uint8)
    Image.fromarray(coco_ids).save(coco.root / "masks" / f"{NINE}.png")
    with pytest.raises(UserError, match=r"masks: the masks have COCO's category ids \(1..90\)"):
        prepare(describe(coco.root), coco.root / "lists")


@pytest.mark.parametrize(
    "line", [NINE, f"COCO_train2014_{NINE}", f"/JPEGImages/{NINE}.jpg /coco_seg_anno/{NINE}.png",
             f"JPEGImages/COCO_val2014_{NINE}.jpg"],
)  # fmt: skip
def test_lines_of_lists(coco, line):
    path = coco.root / "list.txt"
    path.write_text(f"{line}\n")
    assert read_image_list(path, coco.info) == (NINE,)


@pytest.mark.parametrize("line", ["9", "2007_000032", f"COCO_test2014_{NINE}"])
def test_lines_of_other_lists(coco, line):
    path = coco.root / "list.txt"
    path.write_text(f"{line}\n")
    with pytest.raises(UserError, match="is not an image id of coco14"):
        read_image_list(path, coco.info)


def test_missing_photographs_are_told_and_stay_in_the_lists(coco, caplog):
    coco.info.image_path(TEN).unlink()
    coco.prepare()
    assert f"1 of 2 images of train14 are missing, the first is {TEN}" in caplog.text
    assert read_image_list(coco.root / "lists" / "train14.txt", coco.info) == (NINE, TEN)


def test_images_with_a_mask_of_another_size_are_left_out_on_demand(coco, caplog):
    coco.prepare()
    save_palette_png(coco.info.mask_path(TEN), np.zeros((5, 5), dtype=np.uint8))
    labels = coco.prepare(skip_mismatched=True)
    assert read_image_list(coco.root / "lists" / "train14.txt", coco.info) == (NINE,)
    assert set(labels) == {9, 11} and f"whose mask has another size: {TEN}" in caplog.text


# --- going on -----------------------------------------------------------------------------------


def test_masks_that_are_there_stay_and_damaged_ones_are_drawn_again(coco, caplog):
    caplog.set_level(logging.INFO)
    coco.prepare(entry(CAR, [box(0, 0, 8, 8)], 64), entry(CUP, [box(0, 0, 8, 8)], 64, image=10))
    published = np.full(SIZE, 7, dtype=np.uint8)
    save_palette_png(coco.info.mask_path(NINE), published)
    whole = coco.info.mask_path(TEN).read_bytes()
    coco.info.mask_path(TEN).write_bytes(whole[:-20])
    caplog.clear()
    coco.prepare()
    assert (coco.mask() == 7).all()
    assert coco.info.mask_path(TEN).read_bytes() == whole
    assert "2 images, 1 mask drawn" in caplog.text and "1 image, 0 masks drawn" in caplog.text


def test_complete_masks_need_no_writable_root(coco, monkeypatch):
    coco.prepare()

    def fail(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    coco.prepare()
    shutil.rmtree(coco.root / "lists")
    coco.info.mask_path(NINE).unlink()
    message = coco.refused()
    assert "coco_seg_anno: cannot be written (Read-only file system)" in message
    assert "--coco14_root" in message and "links to JPEGImages and annotations" in message


def test_a_full_disk_is_told(coco, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(masks, "save_palette_png", fail)
    assert "No space left on device" in coco.refused()


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_file(coco, split):
    coco.path(split).unlink()
    message = coco.refused()
    assert message.startswith(f"{coco.path(split)}: no such file")
    assert "annotations_trainval2014.zip" in message
    assert not (coco.root / "coco_seg_anno").exists()


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is not valid JSON"),
        ('{"images": [', "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("\ufeff{}", "is not valid JSON"),
        ("[]", "has no lists of images, annotations and categories"),
        ('{"images": 3}', "has no lists of"),
    ],
)
def test_broken_file(coco, text, words):
    coco.path().write_text(text, encoding="utf-8")
    assert coco.refused().startswith(f"{coco.path()}: {words}")


def test_file_that_is_no_text(coco):
    coco.path().write_bytes(b"\xff\xfe\x00")
    assert "is not valid JSON" in coco.refused()


CUP_ENTRY = entry(CUP, [box(0, 0, 4, 4)], 16)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"category_id": 12}, "annotation 70 has the unknown category 12"),
        ({"image_id": 11}, "annotation 70 is of image 11, which is not listed"),
        ({"area": "much"}, "the entry with id 70 is wrong"),
        ({"area": float("nan")}, "the entry with id 70 is wrong (area nan)"),
        ({"segmentation": None}, "the entry with id 70 is wrong"),
        ({"segmentation": [["a"]]}, "the entry with id 70 is wrong"),
        ({"segmentation": {"counts": [-1], "size": [4, 4]}}, "is wrong"),
    ],
)
def test_wrong_annotations(coco, change, words):
    message = coco.refused({**CUP_ENTRY, **change})
    assert message.startswith(f"{coco.path()}: ") and words in message


@pytest.mark.parametrize("name", ["category_id", "image_id", "area", "segmentation"])
def test_incomplete_annotations(coco, name):
    assert name in coco.refused({k: v for k, v in CUP_ENTRY.items() if k != name})


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[1, 1, 5, 1, 5]],
        [[1, 1, 5, 1, float("nan"), 5]],
        [[1, 1, 1e12, 1, 5, 5]],
        {"counts": [SIZE[0] * SIZE[1] - 1], "size": list(SIZE)},
        {"counts": [SIZE[0] * SIZE[1], 1000], "size": list(SIZE)},
        {"counts": [12], "size": [3, 4]},
        {"counts": [12]},
        {"size": list(SIZE)},
        {"counts": "zzzz", "size": list(SIZE)},
        {"counts": "d0", "size": list(SIZE)},
        {"counts": 5, "size": list(SIZE)},
    ],
)
def test_segmentations_that_make_no_sense(coco, segmentation):
    message = coco.refused(CUP_ENTRY, entry(CAR, segmentation, 9, image=10))
    assert f"{TEN}.png: the segmentation of annotation 71 cannot be decoded" in message
    assert (coco.mask()[:4, :4] == CUP).all()  # the others were drawn


def test_problems_are_counted(coco):
    with pytest.raises(UserError, match="(?s)annotation .*annotation .*2 problems: 2 masks"):
        coco.prepare(entry(CAR, [], 9), entry(CAR, [], 9, image=10))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c["images"].clear(), "has no images"),
        (lambda c: c["images"].append(c["images"][0]), f"image {NINE} is listed twice"),
        (lambda c: c["images"][0].update(id=-9), "is not an image of COCO"),
        (lambda c: c["images"][0].update(id=10**12), "is not an image of COCO"),
        (lambda c: c["images"][0].update(height=0), "image 9 is 32x0 pixels"),
        (lambda c: c["images"][0].update(width="wide"), "the entry with id 9 is wrong"),
        (lambda c: c["images"][0].pop("width"), "an image has no height or width"),
        (lambda c: c["images"][0].pop("id"), "has no 'id'"),
        (lambda c: c["categories"][0].update(name="unicorn"), "'unicorn'} is not a category"),
        (lambda c: c["categories"].append(3), "3 is not a category of coco14"),
    ],
)
def test_wrong_tables(coco, change, words):
    coco.change(change)
    message = coco.refused()
    assert message.startswith(f"{coco.path()}: ") and words in message


# --- command ------------------------------------------------------------------------------------


def test_command_line(coco, tmp_path):
    def command(*words):
        return subprocess.run(
            [sys.executable, "-m", "coco14.prepare", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    good = command("--coco14_root", coco.root, "--out_dir", tmp_path / "out")
    assert good.returncode == 0 and "images in train14 2, val14 1" in good.stderr
    assert (tmp_path / "out" / "cls_labels_coco.npy").is_file()
    bad = command("--coco14_root", tmp_path / "none")
    assert bad.returncode == 2 and bad.stderr.startswith("error: --coco14_root")
    assert bad.stderr.count("\n") == 1
