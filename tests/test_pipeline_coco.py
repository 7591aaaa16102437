"""All steps on a synthetic COCO, where one image shows a crowd and one nothing at all."""

import numpy as np
import pytest

from misc.cams import load_cam, save_cam
from misc.cli.options import parse
from misc.labels import read_label_png, save_palette_png
from misc.metrics import mean_iou
from misc.storage.cam_files import load_dict
from net.checkpoint import load_classifier
from net.resnet50_cam import Net
from step import eval_cam, eval_sem_seg
from tests.conftest import THIN, TINY, saved

IDS = tuple(f"{number:012d}" for number in range(1, 9))
CROWD, EMPTY = IDS[5], IDS[7]


@pytest.fixture(scope="module")
def words(coco_sample, tmp_path_factory):
    """Options of the run."""
    folder = tmp_path_factory.mktemp("coco")
    saved(Net(80, **THIN), folder / "thin.pth")
    given = ("--coco14_root", coco_sample.root, "--result_dir", folder / "r")
    given += ("--imagenet_weights", folder / "thin.pth", "--visualize", 0)
    return ["--dataset", "coco14", *map(str, given)]


@pytest.fixture(scope="module")
def run(words, tiny_run):
    """Options of the whole sequence, which was run once."""
    assert tiny_run(*words) == 0
    return parse([*TINY, *words])


def test_classes_of_the_images(run):
    labels = load_dict(run.result_dir / "lists" / "cls_labels_coco.npy", "")
    assert set(labels) == {*range(1, 9), 500_001, 500_002}
    assert not labels[8].any() and all(labels[n].any() for n in range(1, 8))
    assert run.image_ids("train") == run.image_ids("infer") == run.image_ids("eval") == IDS
    assert load_classifier(run.cam_weights_name, 80).arch["width"] == 8


@pytest.mark.parametrize("name", ["cam_plain", "cam"])
def test_maps(run, name):
    labels = load_dict(run.cls_labels, "")
    for image_id in IDS:
        maps = load_cam(run.result_dir / name / f"{image_id}.npy")
        assert maps["keys"].tolist() == labels[int(image_id)].nonzero()[0].tolist()
        size = run.info.image_size(image_id) if image_id != EMPTY else maps["high_res"].shape[1:]
        assert maps["high_res"].shape == (len(maps["keys"]), *size)
    maps = load_cam(run.result_dir / name / f"{EMPTY}.npy")
    assert all(array.size == 0 for array in maps.values())


@pytest.mark.parametrize("name", ["ir_label", "sem_seg"])
def test_label_maps(run, name):
    seen = set()
    for image_id in IDS:
        labels = read_label_png(run.result_dir / name / f"{image_id}.png")
        keys = load_cam(run.cam_out_dir / f"{image_id}.npy")["keys"]
        assert labels.shape == run.info.image_size(image_id)
        seen |= set(np.unique(labels))
        assert set(np.unique(labels)) <= ({0} if image_id == EMPTY else {0, 255, *(keys + 1)})
    assert max(seen - {255}) > 20


def test_scores_count_every_image_and_leave_out_the_crowd(run):
    """Pixels of the image without classes are background, in ground truth and prediction."""
    masks = {image_id: read_label_png(run.info.mask_path(image_id)) for image_id in IDS}
    assert (masks[CROWD] == 255).any() and not masks[EMPTY].any()
    scored = sum(int((mask != 255).sum()) for mask in masks.values())
    scores = eval_cam.score(run, run.cam_out_dir)
    assert scores.confusions.shape == (41, 81, 81)
    assert (scores.confusions.sum(axis=(1, 2)) == scored).all()
    confusion = eval_sem_seg.run(run)
    assert confusion.shape == (81, 81) and confusion.sum() == scored
    assert confusion[0, 0] >= masks[EMPTY].size
    log = run.log_name.read_text()
    table = log[log.index("mIoU (%)") :].splitlines()
    assert [line[:14].strip() for line in table[1:4]] == ["CAM seed", "RIB seed", "pseudo masks"]
    assert float(table[3].split()[-2]) == pytest.approx(100 * mean_iou(confusion), abs=0.005)
    assert table[3].split()[-1] == "0.22" and table[4].startswith("on 8 images of ")


def test_defaults_of_coco(words):
    args = parse(words)
    assert (args.RIB_lr, args.RIB_batch_size, args.score_th) == (5e-6, 15, 0.5)
    assert (args.stop_th, args.explode_th, args.explode_ratio) == (1000, 0.3, 0.8)
    thresholds = eval_cam.thresholds(args)
    assert (thresholds[0], thresholds[-1], len(thresholds)) == (0.10, 0.50, 41)


def test_the_step_gives_the_recorded_scores(golden, tmp_path):
    """Maps and ground truth on disk, one image without classes, thresholds of COCO."""
    data = golden("eval.npz")
    root, maps = tmp_path / "coco", tmp_path / "cam"
    for folder in (root / "JPEGImages", root / "coco_seg_anno", maps):
        folder.mkdir(parents=True)
    ids = [f"{i:012d}" for i in range(4)]
    for i, image_id in enumerate(ids):
        cams = [np.zeros(0)] * 3
        if i != data["coco_empty_image"]:
            cams = [data[f"cam_keys_{i}"]] + 2 * [data[f"cam_high_res_{i}"]]
        save_cam(maps / f"{image_id}.npy", *cams)
        save_palette_png(root / "coco_seg_anno" / f"{image_id}.png", data[f"cam_gt_{i}"])
    (tmp_path / "list.txt").write_text("\n".join(ids))
    given = ("--coco14_root", root, "--eval_list", tmp_path / "list.txt")
    args = parse([*TINY, "--dataset", "coco14", *map(str, given)])
    scores = eval_cam.score(args, maps)
    np.testing.assert_allclose(scores.thresholds, data["coco_thresholds"])
    np.testing.assert_allclose(scores.mean_ious(), data["coco_miou_ignore"], rtol=1e-12)
