"""coco14/: label maps, lists and image-level labels from COCO's instances files."""

import contextlib
import io
import json
import shutil
from array import array

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

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


def painted(*shapes):
    """Label map of (label, pixels), the last on top."""
    labels = np.zeros(SIZE, dtype=np.uint8)
    for label, pixels in shapes:
        labels[pixels] = label
    return labels


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
    expected = painted(
        (TABLE, rectangle(4, 4, 28, 20)),
        (PERSON, rectangle(2, 2, 8, 22)),
        (CUP, rectangle(10, 6, 16, 12)),
    )
    np.testing.assert_array_equal(coco.mask(), expected)
    assert (coco.mask(TEN)[:8, :8] == CAR).all() and (coco.mask(TEN)[8:12, 4:12] == PERSON).all()


def test_a_crowd_is_ignored_where_no_object_is(coco):
    crowd = rectangle(0, 0, 16, 16)
    car = entry(CAR, [box(8, 8, 24, 20)], 192)
    labels = coco.prepare(car, entry(PERSON, rle(crowd), 4, crowd=1))
    expected = painted((255, crowd), (CAR, rectangle(8, 8, 24, 20)))
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
    parts = rectangle(0, 0, 4, 4) | rectangle(8, 0, 12, 4)
    np.testing.assert_array_equal(coco.mask(), painted((CAR, parts), (CUP, ring)))


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5, 1.0])
def test_rle_of_any_mask(fraction):
    mask = np.random.RandomState(0).rand(300, 700) < fraction
    mask[:, 200:500] &= fraction == 1  # a run of more than 16 bits, and one that grows by it
    text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    for counts in (text, array("I", rle(mask)["counts"])):
        annotation = Annotation(1, 9, 1, 9.0, False, {"size": [300, 700], "counts": counts})
        np.testing.assert_array_equal(masks.decode(annotation, mask.shape), mask)


def compare_with_reference(info, tmp_path):
    """Every mask against the annotations as pycocotools draws them, one on the other."""
    prepare(info, tmp_path / "lists")
    seen = set()
    for split in ("train", "val"):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(info.root / "annotations" / f"instances_{split}2014.json")
        for number in coco.getImgIds():
            mask = read_label_png(info.mask_path(f"{number:012d}"))
            expected = np.zeros(info.image_size(f"{number:012d}"), np.uint8)
            entries = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
            for one in sorted(entries, key=lambda one: (-one["iscrowd"], -one["area"])):
                label = 255 if one["iscrowd"] else 1 + CATEGORY_IDS.index(one["category_id"])
                expected[coco.annToMask(one) > 0] = label
            np.testing.assert_array_equal(mask, expected, str(number))
            seen |= set(np.unique(mask))
    return seen


def test_masks_of_real_images(tmp_path):
    root = shared_path("data/coco_2017")
    (tmp_path / "coco").mkdir()
    for name in ("JPEGImages", "annotations"):
        (tmp_path / "coco" / name).symlink_to(root / name)
    seen = compare_with_reference(describe(tmp_path / "coco"), tmp_path)
    assert {0, 255} < seen and len(seen) > 40


def test_processes_draw_the_masks_of_the_synthetic_sample(coco_sample, tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(masks, "cpu_count", lambda: 2)
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
    assert set(labels) == {9, 10, 11} and labels[9].shape == (80,)
    assert labels[9].nonzero()[0].tolist() == [CUP - 1] and labels[9].max() == 1
    assert not labels[10].any() and not coco.mask(TEN).any()


def test_categories_count_by_name(coco):
    """Other exports number the same 80 classes differently."""
    coco.write("train", (9, 10), [entry(CUP, [box(0, 0, 4, 4)], 16)])

    def number_anew(content):
        for number, kind in enumerate(reversed(content["categories"]), start=500):
            kind["id"] = number
            if kind["name"] == "cup":
                content["annotations"][0]["category_id"] = number

    coco.change(number_anew)
    assert coco.prepare()[9].nonzero()[0].tolist() == [CUP - 1]
    assert (coco.mask()[:4, :4] == CUP).all()


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
    old = coco.root.rename(coco.root.with_name("old"))
    for number, split in ((9, "train2014"), (10, "train2014"), (11, "val2014")):
        image_id = f"{number:012d}"
        for file, name in ((f"JPEGImages/{image_id}.jpg", photograph),
                           (f"coco_seg_anno/{image_id}.png", mask)):  # fmt: skip
            new = coco.root / tree / name.format(image_id, split=split, number=number)
            new.parent.mkdir(parents=True, exist_ok=True)
            (old / file).rename(new)
    (old / "annotations").rename(coco.root / tree / "annotations")
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
    (coco.root / "masks").mkdir()
    coco_ids = np.full(SIZE, CATEGORY_IDS[CUP - 1], np.uint8)
    Image.fromarray(coco_ids).save(coco.root / "masks" / f"{NINE}.png")
    coco.info = describe(coco.root)
    with pytest.raises(UserError, match=r"masks: the masks have COCO's category ids \(1..90\)"):
        coco.prepare(entry(CUP, [box(0, 0, 4, 4)], 16))


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


def test_missing_photographs_are_counted_and_stay_in_the_list(coco, caplog):
    coco.info.image_path(NINE).unlink()
    coco.prepare()
    said = f"1 of 2 images of instances_train2014.json are missing, the first is {NINE}"
    assert said in caplog.text
    assert read_image_list(coco.root / "lists" / "train14.txt", coco.info) == (NINE, TEN)


def test_masks_that_are_there_stay_and_damaged_ones_are_drawn_again(coco):
    coco.prepare(entry(CAR, [box(0, 0, 8, 8)], 64), entry(CUP, [box(0, 0, 8, 8)], 64, image=10))
    save_palette_png(coco.info.mask_path(NINE), np.full(SIZE, 7, dtype=np.uint8))
    whole = coco.info.mask_path(TEN).read_bytes()
    coco.info.mask_path(TEN).write_bytes(whole[:-20])
    coco.prepare()
    assert (coco.mask() == 7).all()
    assert coco.info.mask_path(TEN).read_bytes() == whole


@pytest.mark.parametrize("split, content, words", [
    ("val", None, "no such file; unpack it again from annotations_trainval2014.zip"),
    ("train", b"", "is not valid JSON"), ("train", b"[" * 100_000, "is not valid JSON"),
    ("train", b"\xff\xfe\x00", "is not valid JSON"), ("train", b"[]", "has no lists"),
    ("train", b'{"images": 3}', "has no lists"),
])  # fmt: skip
def test_a_missing_or_broken_file_is_named(coco, split, content, words):
    coco.path(split).unlink()
    if content is not None:
        coco.path(split).write_bytes(content)
    assert coco.refused().startswith(f"{coco.path(split)}: {words}")
    assert not (coco.root / "coco_seg_anno").exists()


CUP_ENTRY = entry(CUP, [box(0, 0, 4, 4)], 16)
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
    (lambda c: c["annotations"][0].update(category_id=12), "70 has the unknown category 12"),
    (lambda c: c["annotations"][0].update(image_id=11), "70 is of image 11, which is not listed"),
    (lambda c: c["annotations"][0].update(area=float("nan")), "id 70 is wrong (area nan)"),
    (lambda c: c["annotations"][0].update(segmentation=None), "the entry with id 70 is wrong"),
    (lambda c: c["annotations"][0].update(segmentation={"counts": [-1], "size": []}), "is wrong"),
    (lambda c: c["annotations"][0].pop("segmentation"), "an annotation has no segmentation"),
    (lambda c: c["images"].clear(), "has no images"),
    (lambda c: c["images"].append(c["images"][0]), f"image {NINE} is listed twice"),
    (lambda c: c["images"][0].update(id=10**12), "is not an image of COCO"),
    (lambda c: c["images"][0].update(height=0), f"image {NINE} is 32x0 pixels"),
    (lambda c: c["images"][0].pop("width"), "an image has no height or width"),
    (lambda c: c["categories"][0].update(name="unicorn"), "'unicorn'} is not a category"),
])  # fmt: skip
def test_wrong_entries_are_named(coco, change, words):
    coco.write("train", (9, 10), [CUP_ENTRY])
    coco.change(change)
    message = coco.refused()
    assert message.startswith(f"{coco.path()}: ") and words in message
