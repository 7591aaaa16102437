"""Every form of export is read by what others read it with, and loses nothing."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from skimage.measure import grid_points_in_poly

from misc.cams import load_cam, save_cam
from misc.cli.options import EXPORTS, parse
from misc.data.exports import outline, regions, yolo_text
from misc.data.label_file import load_label_file
from misc.imutils import get_strided_size
from misc.palette import read_label_png, save_label_png


@pytest.fixture
def exported(sample, tmp_path, tiny_run):
    """(folder of the exports, label maps by id, words of the command line)."""
    folder = tmp_path / "result"
    ids = (sample.root / "ImageSets/Segmentation/train.txt").read_text().split()
    masks = {}
    for image_id in ids:
        truth = read_label_png(sample.mask_path(image_id))
        masks[image_id] = np.where(truth == 255, 0, truth)
        masks[image_id][20:30, 20:30] = 5
        masks[image_id][22:27, 23:26] = 0  # a hole
        save_label_png(_there(folder / "sem_seg" / f"{image_id}.png"), masks[image_id])
        maps = np.random.default_rng(0).random((2, *truth.shape), np.float32)
        small = maps[
            :, : get_strided_size(truth.shape, 4)[0], : get_strided_size(truth.shape, 4)[1]
        ]
        save_cam(_there(folder / "cam" / f"{image_id}.npy"), np.array([3, 7]), small, maps)
    given = ("--result_dir", folder, "--voc12_root", sample.root, "--export_masks_pass")
    assert tiny_run(*given, "--export", "all") == 0
    return folder / "export", masks, given


def _there(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def from_yolo(text: str, shape: tuple[int, int]) -> np.ndarray:
    """Labels of a file of outlines, filled by the even-odd rule at the pixels' centres."""
    labels = np.zeros(shape, np.uint8)
    for line in text.splitlines():
        kind, *shares = line.split()
        points = np.array(shares, float).reshape(-1, 2) * shape[::-1]
        labels[grid_points_in_poly(shape, points[:, ::-1] - 0.5)] = int(kind) + 1
    return labels


def test_label_maps_and_photographs_come_back(exported, sample):
    folder, masks, _ = exported
    config = {}
    exec((folder / "mmseg/dataset.py").read_text(), config)
    dataset = config["train_dataloader"]["dataset"]
    assert dataset["metainfo"]["classes"] == sample.label_names
    root, places = Path(dataset["data_root"]), dataset["data_prefix"]
    pairs = {"mmseg": root / places["seg_map_path"], "voc": folder / "voc/SegmentationClass"}
    photographs = (root / places["img_path"], folder / "voc/JPEGImages",
                   folder / "yolo/images/train", folder / "coco/train")  # fmt: skip
    listed = (folder / "voc/ImageSets/Segmentation/train.txt").read_text().split()
    assert listed == list(masks)
    for image_id, labels in masks.items():
        for place in pairs.values():
            np.testing.assert_array_equal(np.array(Image.open(place / f"{image_id}.png")), labels)
        for place in photographs:
            own = sample.image_path(image_id).read_bytes()
            assert (place / f"{image_id}{dataset['img_suffix']}").read_bytes() == own
    colours = Image.open(pairs["voc"] / f"{image_id}.png").getpalette()[:9]
    assert colours == [0, 0, 0, 128, 0, 0, 0, 128, 0]


def test_coco_reads_the_regions(exported, sample):
    folder, masks, _ = exported
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(folder / "coco/instances_train.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(sample.class_names)
    assert len(coco.getAnnIds()) == len(set(coco.getAnnIds())) > len(masks)
    for image_id, labels in masks.items():
        found = np.zeros_like(labels)
        number = sample.label_key(image_id)
        assert coco.loadImgs([number])[0]["file_name"] == f"{image_id}.jpg"
        for one in coco.loadAnns(coco.getAnnIds(imgIds=[number])):
            found[coco.annToMask(one) > 0] = one["category_id"]
        np.testing.assert_array_equal(found, labels)


def test_yolo_maps_and_labels_come_back(exported, sample):
    folder, masks, _ = exported
    onehot = np.load(folder / "cls_labels_onehot.npy", allow_pickle=True).item()
    assert set(onehot) == set(masks) and onehot[min(masks)].shape == (20,)
    own = load_label_file(folder.parent / "lists/cls_labels.npy", sample)
    again = load_label_file(folder / "cls_labels_onehot.npy", sample)
    for image_id in masks:
        key = sample.label_key(image_id)
        np.testing.assert_array_equal(again[key], own[key])
    config = (folder / "yolo/data.yaml").read_text()
    assert '\n  0: "aeroplane"\n' in config and '\n  19: "tvmonitor"\n' in config
    for image_id, labels in masks.items():
        text = (folder / "yolo/labels/train" / f"{image_id}.txt").read_text()
        np.testing.assert_array_equal(from_yolo(text, labels.shape), labels)
        content = np.load(folder / "soft" / f"{image_id}.npz", allow_pickle=False)
        maps = load_cam(folder.parent / "cam" / f"{image_id}.npy")
        np.testing.assert_array_equal(content["maps"], maps["high_res"])
        np.testing.assert_array_equal(content["keys"], maps["keys"])


def test_outlines_of_any_shape_are_exact():
    random = np.random.default_rng(0)
    for size in ((1, 1), (1, 9), (23, 31), (40, 17)):
        labels = random.integers(0, 3, size, np.uint8)
        np.testing.assert_array_equal(from_yolo(yolo_text(labels), size), labels)
    rings = np.zeros((30, 30), bool)
    for start, stop, value in ((1, 29, 1), (3, 10, 0), (12, 14, 0), (20, 27, 0), (22, 24, 1)):
        rings[start:stop, start:stop] = value
    (_, outer), (_, inner) = regions(rings.astype(np.uint8))
    assert (outer | inner).sum() == rings.sum() and outline(outer).min() == 1
    assert yolo_text(np.zeros((4, 4), np.uint8)) == ""


def test_nothing_that_is_there_is_replaced(exported, tiny_run, capsys):
    folder, masks, given = exported
    changed = folder / "yolo/labels/train" / f"{min(masks)}.txt"
    before = (folder / "coco/instances_train.json").stat().st_mtime_ns
    assert tiny_run(*given, "--export", "all") == 0  # the same again
    assert (folder / "coco/instances_train.json").stat().st_mtime_ns == before
    changed.write_text("0 0.5 0.5\n")
    assert tiny_run(*given, "--export", "yolo") == 2
    assert f"{changed}: is there with other content" in capsys.readouterr().err
    assert changed.read_text() == "0 0.5 0.5\n"


def test_forms_are_checked(tiny_run, sample, tmp_path, capsys):
    assert parse(["--export", "all"]).export == EXPORTS
    assert tiny_run("--export", "pascal") == 2
    given = ("--result_dir", tmp_path / "r", "--voc12_root", sample.root, "--export_masks_pass")
    assert tiny_run(*given) == 2
    assert "--export: say what to write: voc" in capsys.readouterr().err
    assert tiny_run(*given, "--export", "voc") == 2
    assert "run --make_sem_seg_labels_pass first" in capsys.readouterr().err
