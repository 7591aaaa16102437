"""The methods of the paper's table on four synthetic images: AdvCAM, CAMs, CRF, instances."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from misc.cams import load_cam
from misc.cli.options import parse
from misc.storage.scores import load_scores, save_score
from step.eval_ins_seg import load_instances
from step.eval_seed_crf import crf_labels

SMALL = ("--adv_iter", 2, "--visualize", 1, "--limit", 4)


@pytest.fixture(scope="module")
def run(sample, classifier_file, tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    given = ("--voc12_root", sample.root, "--result_dir", folder / "r", *SMALL, "--with_crf")
    given += ("--cam_weights_name", classifier_file, "--imagenet_weights", classifier_file)
    assert tiny_run(*given, "--with_ins", "--ins_seg_json", folder / "ins.json") == 0
    for recam in ("advcam", "none"):
        assert tiny_run(*given, "--recam", recam, "--with_ins") == 0
    return folder / "r", given


def test_every_method_has_its_rows(run):
    rows = load_scores(run[0])
    seeds = {f"{maps} seed{crf}" for maps in ("CAM", "RIB", "AdvCAM") for crf in ("", " + CRF")}
    masks = {"pseudo masks", "pseudo masks, AdvCAM", "pseudo masks, CAM"}
    endings = ("", ", AdvCAM", ", CAM")
    instances = {f"instances AP{at}{ending}" for at in (50, 75) for ending in endings}
    assert set(rows) == seeds | masks | instances
    for maps in ("CAM", "RIB", "AdvCAM"):
        seed, crf = rows[f"{maps} seed"], rows[f"{maps} seed + CRF"]
        assert crf["thresholds"] == [seed["thresholds"][seed["best"]]] and crf["crf"] == "irn"
    assert rows["AdvCAM seed"]["thresholds"][0] == 0.15
    folder, _ = run
    for name in ("cam", "cam_adv", "cam_plain", "ir_label", "ir_label_adv", "ir_label_plain"):
        assert len(list((folder / name).iterdir())) >= 4, name
    for name in ("res50_irn.pth", "res50_irn_adv.pth", "res50_irn_plain.pth"):
        assert (folder / name).is_file()
    shown = folder / "visualize" / "iterations" / "make_recam_with_AdvCAM"
    assert [path.name for path in shown.iterdir()] == ["2012_000001_1.npy"]
    one, other = (load_cam(folder / n / "2012_000001.npy")["cam"] for n in ("cam_adv", "cam_plain"))
    assert one.shape == other.shape and np.abs(one - other).max() > 1e-3


def test_instances_go_to_cocos_json_and_back(run, sample):
    args = parse(list(map(str, run[1])))
    coco, kept = COCO(run[0].parent / "ins.json"), 0
    assert len(coco.imgs) == 4 and len(set(coco.anns)) == len(coco.dataset["annotations"])
    assert coco.cats[1] == {"id": 1, "name": "aeroplane", "supercategory": "none"}
    for image_id in args.image_ids("infer"):
        found = load_instances(args, image_id)
        entries = coco.imgToAnns[int(image_id.replace("_", ""))]
        keep = found["score"] >= 1e-5
        kept += len(entries)
        masks, classes = found["mask"][keep], found["class"][keep]
        for entry, mask, kind in zip(entries, masks, classes, strict=True):
            assert np.array_equal(coco_mask.decode(entry["segmentation"]).astype(bool), mask)
            assert entry["category_id"] == kind + 1 and entry["area"] == mask.sum()
    assert kept > 0


def test_a_root_without_objects_is_said_before_the_run(run, tiny_run, tmp_path, capsys, sample):
    folder, given = run
    hidden = sample.root / "SegmentationObject"
    hidden.rename(tmp_path / "hidden")
    try:
        assert tiny_run(*given, "--eval_ins_seg_pass") == 2
    finally:
        (tmp_path / "hidden").rename(hidden)
    assert "no mask of the objects, as of 4 images in all" in capsys.readouterr().err


def test_the_crf_of_a_seed_that_was_not_scored_is_at_its_best_threshold(run, tiny_run):
    folder, given = run
    rows = load_scores(folder)
    (folder / "scores.json").unlink()
    try:
        assert tiny_run(*given, "--eval_seed_crf_pass") == 0
        alone = load_scores(folder)
    finally:
        for row, score in rows.items():
            save_score(folder, row, score)
    assert set(alone) == {"CAM seed + CRF", "RIB seed + CRF"}
    assert all(rows[f"{maps} seed"]["best"] > 0 for maps in ("CAM", "RIB"))
    for row, score in alone.items():
        assert score["thresholds"] == rows[row]["thresholds"] and score["iou"] == rows[row]["iou"]


def test_crf_of_a_seed_keeps_clear_colours_apart():
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:, 30:] = 200
    cams = np.zeros((1, 40, 60), dtype=np.float32)
    cams[0, 4:36, 34:58] = 1.0  # a little less than the bright half
    labels = crf_labels(image, cams, np.array([6]), 0.5)
    assert set(np.unique(labels)) == {0, 7}
    assert (labels[:, 31:] == 7).mean() > (cams[0, :, 31:] > 0.5).mean()
    assert not labels[:, :29].any()
    assert not crf_labels(image, cams[:0], np.array([], dtype=int), 0.5).any()
