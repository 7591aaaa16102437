"""coco14/: label maps, lists and image-level labels from COCO's instances files."""

import contextlib
import json
import logging
import shutil
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
from misc.storage.cam_files import load_dict
from tests.conftest import shared_path

PERSON, CAR, CUP, TABLE = (
    CLASS_NAMES.index(n) + 1 for n in ("person", "car", "cup", "dining table")
)
SIZE = (24, 32)  # height, width
NINE, TEN = f"{9:012d}", f"{10:012d}"


def box(left, top, right, bottom):
    """Polygon round the pixels left..right-1, top..bottom-1."""
    return [left, top, right, top, right, bottom, left, bottom]


def rle(mask):
    """Uncompressed RLE."""
    pixels = mask.ravel(order="F")
    ends = [0, *(np.flatnonzero(np.diff(pixels)) + 1), pixels.size]
    counts = [0] * bool(pixels[0]) + np.diff(ends).tolist()
    return {"counts": counts, "size": list(mask.shape)}


def rectangle(left, top, right, bottom):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def entry(label, segmentation, area, image=9, crowd=0):
    return {"segmentation": segmentation, "area": area, "iscrowd": crowd, "image_id": image,
            "bbox": [0, 0, 1, 1], "category_id": CATEGORY_IDS[label - 1]}  # fmt: skip


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
        kinds = zip(CATEGORY_IDS, CLASS_NAMES, strict=True)
        content = {
            "info": {"year": 2014},
            "images": [{"id": n, "height": SIZE[0], "width": SIZE[1]} for n in numbers],
            "annotations": [{"id": 70 + k, **a} for k, a in enumerate(annotations)],
            "categories": [{"id": number, "name": name} for number, name in kinds],
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
        return load_dict(out_dir / "cls_labels_coco.npy", "")

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


def test_classes_are_those_of_the_official_files():
    info = describe("")
    assert info.num_classes == 80 == len(set(CLASS_NAMES)) and info.num_labels == 81
    path = shared_path("data/coco_2017/annotations/instances_val2014.json")
    categories = json.loads(path.read_text())["categories"]
    official = [(c["id"], c["name"]) for c in sorted(categories, key=lambda c: c["id"])]
    assert official == list(zip(CATEGORY_IDS, CLASS_NAMES, strict=True))


def test_the_object_of_the_smaller_annotated_area_is_on_top(coco):
    """Not the drawn area; of equal ones the later object."""
    coco.prepare(
        entry(CUP, [box(10, 6, 16, 12)], 36),
        entry(TABLE, [box(4, 4, 28, 20)], 384),
        entry(PERSON, [box(2, 2, 8, 22)], 120),
        entry(CAR, [box(0, 0, 8, 8)], 9, image=10),
        entry(CUP, [box(4, 4, 8, 8)], 16, image=10),
        entry(PERSON, [box(4, 4, 12, 12)], 16, image=10),
    )
    expected = np.zeros(SIZE, dtype=np.uint8)
    for label, shape in (
        (TABLE, (4, 4, 28, 20)), (PERSON, (2, 2, 8, 22)), (CUP, (10, 6, 16, 12)),
    ):  # fmt: skip
        expected[rectangle(*shape)] = label
    np.testing.assert_array_equal(coco.mask(), expected)
    assert (coco.mask(TEN)[:8, :8] == CAR).all() and (coco.mask(TEN)[8:12, 4:12] == PERSON).all()


@pytest.mark.parametrize("crowd_area", [4, 700])
def test_a_crowd_is_ignored_where_no_object_is(coco, crowd_area):
    crowd = rectangle(0, 0, 16, 16)
    labels = coco.prepare(
        entry(CAR, [box(8, 8, 24, 20)], 192), entry(PERSON, rle(crowd), crowd_area, crowd=1)
    )
    expected = np.zeros(SIZE, dtype=np.uint8)
    expected[crowd] = 255
    expected[rectangle(8, 8, 24, 20)] = CAR
    np.testing.assert_array_equal(coco.mask(), expected)
    # The class of a crowd is in the image, although none of its pixels is scored.
    assert labels[9].nonzero()[0].tolist() == [PERSON - 1, CAR - 1]


def test_parts_holes_and_compressed_rle(coco):
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


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5, 1.0])
def test_rle_of_any_mask(fraction):
    mask = np.random.RandomState(0).rand(300, 700) < fraction
    mask[:, 200:500] &= fraction == 1  # a run of more than 16 bits, and one that grows by it
    text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    for counts in (text, array("I", rle(mask)["counts"])):
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


def test_masks_of_real_images(tmp_path):
    root = shared_path("data/coco_2017")
    (tmp_path / "coco").mkdir()
    for name in ("JPEGImages", "annotations"):
        (tmp_path / "coco" / name).symlink_to(root / name)
    seen = compare_with_reference(describe(tmp_path / "coco"), tmp_path)
    assert {0, 255} < seen and len(seen) > 40
    labels = load_dict(tmp_path / "lists" / "cls_labels_coco.npy", "")
    assert len(labels) == 60 and all(label.shape == (80,) for label in labels.values())


@pytest.mark.parametrize("processes", [1, 2])
def test_masks_of_the_synthetic_sample(coco_sample, tmp_path, monkeypatch, processes):
    monkeypatch.setattr(masks, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(masks, "cpu_count", lambda: processes)
    shutil.copytree(coco_sample.root, tmp_path / "coco")
    info = describe(tmp_path / "coco")
    seen = compare_with_reference(info, tmp_path)
    assert {0, 255} < seen and len(seen) > 5
    image_id = read_image_list(tmp_path / "lists/train14.txt", info)[0]
    with Image.open(info.mask_path(image_id)) as image:
        assert image.mode == "P" and image.getpalette() == voc_palette().ravel().tolist()


def test_lists_are_sorted_and_have_images_without_objects(coco):
    cups = [entry(CUP, [box(0, 0, 4, 4)], 16), entry(CUP, [box(5, 5, 9, 9)], 16)]
    coco.write("train", (10, 9), cups)
    labels = coco.prepare()
    assert read_image_list(coco.root / "lists" / "train14.txt", coco.info) == (NINE, TEN)
    assert read_image_list(coco.root / "lists" / "val14.txt", coco.info) == (f"{11:012d}",)
    assert set(labels) == {9, 10, 11}
    assert all(label.shape == (80,) and label.dtype == np.float32 for label in labels.values())
    assert labels[9].nonzero()[0].tolist() == [CUP - 1] and labels[9].max() == 1
    assert not labels[10].any() and not coco.mask(TEN).any()
    assert coco.mask(TEN).shape == SIZE
    prepare(coco.info, coco.root / "others", with_labels=False)
    names = {path.name for path in (coco.root / "others").iterdir()}
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


def moved(coco, tree, photograph, mask):
    """The made-up tree in another layout: names below its folders, by id and split."""
    for number, split in ((9, "train2014"), (10, "train2014"), (11, "val2014")):
        for old, name in ((f"JPEGImages/{number:012d}.jpg", photograph),
                          (f"old_masks/{number:012d}.png", mask)):  # fmt: skip
            new = coco.root / tree / name.format(f"{number:012d}", split=split, number=number)
            new.parent.mkdir(parents=True, exist_ok=True)
            (coco.root / old).rename(new)
    if tree:
        (coco.root / "annotations").rename(coco.root / tree / "annotations")
    for folder in ("JPEGImages", "old_masks"):
        with contextlib.suppress(OSError):
            (coco.root / folder).rmdir()


@pytest.mark.parametrize(("tree", "photograph", "mask"), [
    ("", "{split}/COCO_{split}_{}.jpg", "SegmentationClass/{split}/COCO_{split}_{}.png"),
    ("", "images/{split}/{}.jpg", "masks/{}.png"),
    ("", "JPEGImages/{split}/COCO_{split}_{}.jpg", "coco_seg_anno/{split}/{}.png"),
    ("", "images/COCO_{split}_{}.jpg", "mask/COCO_{split}_{}.png"),
    ("", "train2017/{}.jpg", "mask/{split}/{}.png"),
    ("", "{split}/COCO_{split}_{}.jpg", "mask/{split}/{number}.png"),  # of ReCAM
    ("coco", "images/{split}/COCO_{split}_{}.jpg", "coco_seg_anno/{}.png"),
])  # fmt: skip
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
    coco_ids = np.where(labels == CUP, CATEGORY_IDS[CUP - 1], 0).astype(np.uint8)
    Image.fromarray(coco_ids).save(coco.root / "masks" / f"{NINE}.png")
    with pytest.raises(UserError, match=r"masks: the masks have COCO's category ids \(1..90\)"):
        prepare(describe(coco.root), coco.root / "lists")


def test_lines_of_lists(coco):
    path = coco.root / "list.txt"
    for line in (NINE, f"COCO_train2014_{NINE}", f"JPEGImages/COCO_val2014_{NINE}.jpg",
                 f"/JPEGImages/{NINE}.jpg /coco_seg_anno/{NINE}.png"):  # fmt: skip
        path.write_text(f"{line}\n")
        assert read_image_list(path, coco.info) == (NINE,)
    for line in ("9", "2007_000032", f"COCO_test2014_{NINE}"):
        path.write_text(f"{line}\n")
        with pytest.raises(UserError, match="is not an image id of coco14"):
            read_image_list(path, coco.info)


def test_images_are_left_out_on_demand_alone(coco, caplog):
    """Those whose photograph is missing, or whose mask has another size."""
    coco.info.image_path(NINE).rename(coco.root / "elsewhere.jpg")
    coco.prepare()
    said = f"1 of 2 images of instances_train2014.json are missing, the first is {NINE}"
    assert said in caplog.text
    assert read_image_list(coco.root / "lists" / "train14.txt", coco.info) == (NINE, TEN)
    (coco.root / "elsewhere.jpg").rename(coco.info.image_path(NINE))
    save_palette_png(coco.info.mask_path(TEN), np.zeros((5, 5), dtype=np.uint8))
    labels = coco.prepare(skip_mismatched=True)
    assert read_image_list(coco.root / "lists" / "train14.txt", coco.info) == (NINE,)
    assert set(labels) == {9, 11} and f"whose mask has another size: {TEN}" in caplog.text


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


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_file(coco, split):
    coco.path(split).unlink()
    message = coco.refused()
    assert message.startswith(f"{coco.path(split)}: no such file")
    assert "annotations_trainval2014.zip" in message
    assert not (coco.root / "coco_seg_anno").exists()


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff\xfe\x00", b"[]", b'{"images": 3}'])
def test_broken_file(coco, content):
    coco.path().write_bytes(content)
    message = coco.refused()
    assert message.startswith((f"{coco.path()}: is not valid JSON", f"{coco.path()}: has no lists"))


CUP_ENTRY = entry(CUP, [box(0, 0, 4, 4)], 16)


@pytest.mark.parametrize("change, words", [
    ({"category_id": 12}, "annotation 70 has the unknown category 12"),
    ({"image_id": 11}, "annotation 70 is of image 11, which is not listed"),
    ({"area": "much"}, "the entry with id 70 is wrong"),
    ({"area": float("nan")}, "the entry with id 70 is wrong (area nan)"),
    ({"segmentation": None}, "the entry with id 70 is wrong"),
    ({"segmentation": [["a"]]}, "the entry with id 70 is wrong"),
    ({"segmentation": {"counts": [-1], "size": [4, 4]}}, "is wrong"),
])  # fmt: skip
def test_wrong_annotations(coco, change, words):
    message = coco.refused({**CUP_ENTRY, **change})
    assert message.startswith(f"{coco.path()}: ") and words in message


def test_incomplete_annotations(coco):
    for name in ("category_id", "image_id", "area", "segmentation"):
        assert name in coco.refused({k: v for k, v in CUP_ENTRY.items() if k != name})


WHOLE = list(SIZE)


@pytest.mark.parametrize("segmentation", [
    [], [[1, 1, 5, 1, 5]], [[1, 1, 5, 1, float("nan"), 5]], [[1, 1, 1e12, 1, 5, 5]],
    {"counts": [SIZE[0] * SIZE[1] - 1], "size": WHOLE}, {"counts": [12], "size": [3, 4]},
    {"counts": [SIZE[0] * SIZE[1], 1000], "size": WHOLE}, {"counts": [12]}, {"size": WHOLE},
    {"counts": "zzzz", "size": WHOLE}, {"counts": "d0", "size": WHOLE},
    {"counts": 5, "size": WHOLE},
])  # fmt: skip
def test_segmentations_that_make_no_sense(coco, segmentation):
    message = coco.refused(CUP_ENTRY, entry(CAR, segmentation, 9, image=10))
    assert f"{TEN}.png: the segmentation of annotation 71 cannot be decoded" in message
    assert (coco.mask()[:4, :4] == CUP).all()  # the others were drawn


@pytest.mark.parametrize("change, words", [
    (lambda c: c["images"].clear(), "has no images"),
    (lambda c: c["images"].append(c["images"][0]), f"image {NINE} is listed twice"),
    (lambda c: c["images"][0].update(id=-9), "is not an image of COCO"),
    (lambda c: c["images"][0].update(id=10**12), "is not an image of COCO"),
    (lambda c: c["images"][0].update(height=0), f"image {NINE} is 32x0 pixels"),
    (lambda c: c["images"][0].update(width="wide"), "the entry with id 9 is wrong"),
    (lambda c: c["images"][0].pop("width"), "an image has no height or width"),
    (lambda c: c["images"][0].pop("id"), "is wrong ('id')"),
    (lambda c: c["categories"][0].update(name="unicorn"), "'unicorn'} is not a category"),
    (lambda c: c["categories"].append(3), "3 is not a category of coco14"),
])  # fmt: skip
def test_wrong_tables(coco, change, words):
    coco.change(change)
    message = coco.refused()
    assert message.startswith(f"{coco.path()}: ") and words in message
