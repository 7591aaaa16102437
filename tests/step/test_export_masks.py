"""Every export is read by what others read it with, and gives back what it was made of."""

import contextlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from misc.cams import load_cam, save_cam
from misc.data.exports import yolo_text
from misc.data.label_file import load_label_file
from misc.imutils import get_strided_size
from misc.labels import read_label_png, save_label_png
from net.checkpoint import save_checkpoint
from net.deeplab_v2 import DeepLabV2
from net.resnet50_cam import CAM
from net.resnet50_irn import EdgeDisplacement


@pytest.fixture
def exported(sample, tmp_path, tiny_run):
    """(folder of the exports, label maps by id, words of the command line)."""
    folder = tmp_path / "result"
    ids = (sample.root / "ImageSets/Segmentation/train.txt").read_text().split()
    masks = {}
    for image_id in ids:
        mask = read_label_png(sample.mask_path(image_id))
        masks[image_id] = np.where(mask == 255, 0, mask)
        masks[image_id][20:30, 20:30] = 5
        masks[image_id][22:27, 23:26] = 0  # a hole
        save_label_png(_there(folder / "sem_seg" / f"{image_id}.png"), masks[image_id])
        maps = np.random.default_rng(0).random((2, *mask.shape), np.float32)
        small = maps[:, ::4, ::4]
        save_cam(_there(folder / "cam" / f"{image_id}.npy"), np.array([3, 7]), small, maps)
    given = ("--result_dir", folder, "--voc12_root", sample.root, "--export_masks_pass")
    assert tiny_run(*given, "--export", "all") == 0
    return folder / "export", masks, given


def _there(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def from_yolo(text: str, shape: tuple[int, int], whole: np.ufunc = np.trunc) -> np.ndarray:
    """Labels of a file of polygons as Ultralytics draws them, which cuts to whole pixels."""
    labels = np.zeros(shape, np.uint8)
    for line in text.splitlines():
        kind, *numbers = line.split()
        assert len(numbers) >= 6  # two points would be taken for a box
        points = np.array(numbers, np.float32).reshape(-1, 2) * np.array(shape[::-1], np.float32)
        cv2.fillPoly(labels, [whole(points).astype(np.int32)], int(kind) + 1)
    return labels


def test_label_maps_photographs_and_maps_come_back(exported, sample):
    folder, masks, _ = exported
    photographs = [folder / n for n in ("voc/JPEGImages", "yolo/images/train", "coco/train")]
    listed = (folder / "voc/ImageSets/Segmentation/train.txt").read_text().split()
    assert listed == list(masks)
    onehot = np.load(folder / "cls_labels_onehot.npy", allow_pickle=True).item()
    assert set(onehot) == set(masks) and onehot[min(masks)].shape == (20,)
    own = load_label_file(folder.parent / "lists/cls_labels.npy", sample)
    again = load_label_file(folder / "cls_labels_onehot.npy", sample)
    config = (folder / "yolo/data.yaml").read_text()
    assert '\n  0: "aeroplane"\n' in config and '\n  19: "tvmonitor"\n' in config
    for image_id, labels in masks.items():
        mask = Image.open(folder / "voc/SegmentationClass" / f"{image_id}.png")
        np.testing.assert_array_equal(np.array(mask), labels)
        assert mask.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        photograph = sample.image_path(image_id).read_bytes()
        assert all((p / f"{image_id}.jpg").read_bytes() == photograph for p in photographs)
        key = sample.label_key(image_id)
        np.testing.assert_array_equal(again[key], own[key])
        text = (folder / "yolo/labels/train" / f"{image_id}.txt").read_text()
        np.testing.assert_array_equal(from_yolo(text, labels.shape), labels)
        content = np.load(folder / "soft" / f"{image_id}.npz", allow_pickle=False)
        maps = load_cam(folder.parent / "cam" / f"{image_id}.npy")
        np.testing.assert_array_equal(content["maps"], maps["high_res"])
        np.testing.assert_array_equal(content["keys"], maps["keys"])


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
    assert {"info", "licenses"} <= set(coco.dataset)  # which loadRes of pycocotools copies
    results = [{**one, "score": 1.0} for one in coco.dataset["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(coco.loadRes(results).getAnnIds()) == len(results)


@pytest.mark.parametrize("whole", [np.trunc, np.round])
@pytest.mark.parametrize(
    ("size", "block"), [((1, 1), 1), ((1, 9), 1), ((23, 31), 1), ((40, 17), 3), ((40, 4001), 20)]
)
def test_polygons_of_any_shape_are_drawn_as_the_mask(size, block, whole):
    """Noise of single pixels and of blocks: lines, holes in holes, regions that meet at corners."""
    random = np.random.default_rng(0)
    for fraction in (0.3, 0.6, 0.9):
        labels = random.integers(1, 3, size, np.uint8) * (random.random(size) < fraction)
        labels = np.kron(labels, np.ones((block, block)))[: size[0], : size[1]].astype(np.uint8)
        np.testing.assert_array_equal(from_yolo(yolo_text(labels), size, whole), labels)


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


@pytest.fixture
def for_irn(sample, tmp_path, tiny_run):
    """Folder of `--export irn`, and the maps that were exported, the first without classes."""
    folder, random, maps = tmp_path / "result", np.random.default_rng(0), {}
    for image_id in (sample.root / "ImageSets/Segmentation/train.txt").read_text().split():
        keys, size = np.array([3, 7] if maps else [], int), sample.image_size(image_id)
        sizes = (get_strided_size(size, 4), size) if maps else ((0, 0), (0, 0))
        cams = [random.random((len(keys), *one), np.float32) for one in sizes]
        maps[image_id] = (keys, *cams)
        save_cam(_there(folder / "cam" / f"{image_id}.npy"), *maps[image_id])
    save_checkpoint(folder / "res50_cam.pth", CAM(20, width=8, stem=16))
    save_checkpoint(folder / "res50_irn.pth", EdgeDisplacement(width=8, stem=16))
    deeplab = DeepLabV2(21, "size", "torchvision", width=8, stem=8)
    save_checkpoint(folder / "deeplab_v2.pth", deeplab)
    assert tiny_run("--result_dir", folder, "--voc12_root", sample.root, "--export_masks_pass",
                    "--export", "irn") == 0  # fmt: skip
    return folder / "export/irn", maps


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_the_original_walk_reads_the_exported_maps(for_irn):
    """The steps of IRN and RIB between a file and its label map, which call `.cuda()` on cam."""
    folder, maps = for_irn
    for image_id, (keys, cam, high_res) in maps.items():
        found = np.load(folder / "cam" / f"{image_id}.npy", allow_pickle=True).item()
        if "cam" not in found:
            assert set(found) == {"keys"} and len(keys) == 0 == len(found["keys"])
            continue
        powered = np.power(found["cam"], 1.3)
        assert isinstance(powered.cpu(), torch.Tensor)
        np.testing.assert_allclose(powered.numpy(), cam**1.3, rtol=1e-5)
        np.testing.assert_array_equal(np.pad(found["keys"] + 1, (1, 0)), [0, *(keys + 1)])
        confident = np.argmax(np.pad(found["high_res"], ((1, 0), (0, 0), (0, 0))), axis=0)
        np.testing.assert_array_equal(confident, 1 + high_res.argmax(axis=0))


def test_weights_are_exported_but_for_networks_of_another_kind(for_irn):
    folder, maps = for_irn
    assert {path.name for path in folder.iterdir()} == {"cam", "res50_cam.pth", "res50_irn.pth"}
    names = torch.load(folder / "res50_irn.pth", weights_only=True)
    assert {"stage1.0.weight", "fc_dp7.4.running_mean", "mean_shift.running_mean"} <= set(names)
    log = (folder.parents[1] / "run.log").read_text()
    assert "deeplab_v2.pth: is a network of" in log and "they are not exported" in log
    assert len(list((folder / "cam").iterdir())) == len(maps)


def test_formats_are_checked(tiny_run, sample, tmp_path, capsys):
    assert tiny_run("--export", "pascal") == 2
    given = ("--result_dir", tmp_path / "r", "--voc12_root", sample.root, "--export_masks_pass")
    assert tiny_run(*given) == 2
    assert "--export: say what to write: voc" in capsys.readouterr().err
    assert tiny_run(*given, "--export", "voc") == 2
    assert "run --make_sem_seg_labels_pass first" in capsys.readouterr().err
