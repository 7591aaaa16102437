"""Photographs of one's own from a table to masks, and mistakes that end before the first step."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from misc.cams import load_cam
from misc.labels import read_label_png, save_label_png, voc_palette
from misc.storage.scores import load_scores
from tests.conftest import PROJECT
from voc12.dataset import CLASS_NAMES
from voc12.prepare import label_from_xml

IDS = tuple(f"2012_00000{n}" for n in range(1, 9))
FORMATS = {2: "holiday/Dog & cat.png", 3: "holiday/2.webp"}
LONG = 96  # of the photographs as the steps see them


@pytest.fixture(scope="module")
def own(sample, tmp_path_factory):
    """The drawn training images as JPEG, PNG and WebP in two folders, with a table and masks."""
    root = tmp_path_factory.mktemp("own")
    (root / "photos" / "holiday").mkdir(parents=True)
    (root / "masks").mkdir()
    rows = [["image", "labels"]]
    for number, image_id in enumerate(IDS):
        name = FORMATS.get(number, f"{image_id}.jpg")
        if number in FORMATS:
            Image.open(sample.image_path(image_id)).save(root / "photos" / name)
        else:
            shutil.copy(sample.image_path(image_id), root / "photos" / name)
        mask = name.rpartition("/")[2].rpartition(".")[0] + ".png"
        shutil.copy(sample.mask_path(image_id), root / "masks" / mask)
        present = label_from_xml(sample.root / "Annotations" / f"{image_id}.xml", sample)
        rows.append([name, ";".join(CLASS_NAMES[c] for c in np.flatnonzero(present))])
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    (root / "voc.txt").write_text("\n".join(CLASS_NAMES))
    return root


@pytest.fixture(scope="module")
def words(own, classifier_file):
    """The dataset's options."""
    return ("--dataset", "folder", "--root", own / "photos", "--labels", own / "labels.csv",
            "--photo_long", LONG, "--imagenet_weights", classifier_file)  # fmt: skip


def contents(folder):
    return {path: (path.is_dir(), path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def result(own, words, tiny_run, tmp_path_factory):
    """The whole pipeline without ground truth, run once."""
    folder, before = tmp_path_factory.mktemp("folder") / "r", contents(own)
    assert tiny_run(*words, "--result_dir", folder, "--visualize", 1) == 0
    assert contents(own) == before  # nothing is written beside the photographs
    return folder


def test_masks_have_the_names_folders_and_sizes_of_the_photographs(own, result):
    photos = [path.relative_to(own / "photos") for path in (own / "photos").rglob("*.*")]
    masks = {path.relative_to(result / "masks") for path in (result / "masks").rglob("*.png")}
    assert masks == {path.with_suffix(".png") for path in photos} and len(masks) == len(IDS)
    classes = (result / "lists" / "classes.txt").read_text().splitlines()
    table = dict(csv.reader(open(own / "labels.csv")))
    for path in photos:
        with Image.open(result / "masks" / path.with_suffix(".png")) as mask:
            assert mask.size == Image.open(own / "photos" / path).size and mask.mode == "P"
            assert mask.getpalette()[:30] == voc_palette()[:10].ravel().tolist()
            labels = set(np.unique(mask))
        names = {classes[label - 1] for label in labels - {0}}
        assert names <= set(table[path.as_posix()].split(";")), path
    for path in (result / "sem_seg").glob("2012*.png"):
        small, large = read_label_png(path), read_label_png(result / "masks" / path.name)
        assert max(small.shape) == LONG and set(np.unique(large)) <= set(np.unique(small))
    assert not (result / "scores.json").exists()  # there is no ground truth


def test_the_same_command_has_nothing_to_do_and_another_size_is_refused(
    words, result, tiny_run, capsys
):
    before = {p: t for p, t in contents(result).items() if p.suffix in (".npy", ".png", ".pth")}
    assert tiny_run(*words, "--result_dir", result) == 0
    assert tiny_run(*words, "--result_dir", result, "--photo_long", "64") == 2
    assert "photo_long" in capsys.readouterr().err
    after = contents(result)
    assert before == {path: after[path] for path in before}


def test_the_validation_split_measures_the_classifier(own, words, tiny_run, tmp_path, capsys):
    (tmp_path / "val.txt").write_text("holiday/2.webp\n2012_000001.jpg\n")
    options = ("--result_dir", tmp_path / "r", "--val_list", tmp_path / "val.txt")
    assert tiny_run(*words, *options, "--train_cam_pass", "--cam_long", "64,64") == 0
    said = capsys.readouterr().out
    assert "classifier on 2 images of the validation split: mean average precision" in said
    trained = (tmp_path / "r" / "lists" / "train.txt").read_text()
    assert "2012_000001" not in trained and "2012_000002" in trained


def test_ground_truth_is_shrunk_with_the_photographs_and_scored(
    own, words, classifier_file, tiny_run, tmp_path, capsys
):
    (tmp_path / "val.txt").write_text(f"{IDS[0]}.jpg\n{IDS[4]}.jpg\n")
    options = ("--result_dir", tmp_path / "r", "--masks", own / "masks", "--limit", 4)
    options += ("--classes", own / "voc.txt", "--cam_weights_name", classifier_file)
    options += ("--val_list", tmp_path / "val.txt", "--recam", "none", "--visualize", 1)
    steps = ("--make_cam_pass", "--eval_cam_pass")
    assert tiny_run(*words, *options, *steps, "--threshold_from", "scored") == 0
    assert "--threshold_from: has no effect any more" in capsys.readouterr().out
    score = load_scores(tmp_path / "r")["CAM seed"]
    assert score["images"] == 2 and score["best"] == int(np.argmax(score["miou"]))
    assert not score["official"]


def test_maps_masks_and_scores_are_those_of_the_same_images_run_as_voc(
    own, sample, classifier_file, tiny_run, tmp_path
):
    ids, table = IDS[:2] + IDS[4:6], dict(csv.reader(open(own / "labels.csv")))
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for image_id in ids:
        shutil.copy(sample.image_path(image_id), tmp_path / "photos")
        shutil.copy(sample.mask_path(image_id), tmp_path / "masks")
    rows = "".join(f"{i}.jpg,{table[f'{i}.jpg']}\n" for i in ids)
    (tmp_path / "labels.csv").write_text(f"image,labels\n{rows}")
    (tmp_path / "list.txt").write_text("\n".join(ids))
    same = ("--cam_weights_name", classifier_file, "--imagenet_weights", classifier_file)
    same += ("--train_cam_pass", "False", "--RIB_iter", 1)
    same += ("--make_cam_pass", "False", "--cam_eval_thres", "0.2,0.5")
    one = ("--dataset", "folder", "--root", tmp_path / "photos", "--masks", tmp_path / "masks")
    one += ("--labels", tmp_path / "labels.csv", "--classes", own / "voc.txt")
    other = ["--voc12_root", sample.root]
    for role in ("train", "infer", "eval"):
        other += [f"--{role}_list", tmp_path / "list.txt"]
    results = tmp_path / "folder", tmp_path / "voc"
    for words, folder in zip((one, other), results, strict=True):
        assert tiny_run(*words, *same, "--result_dir", folder) == 0
    for image_id in ids:
        one, other = (load_cam(r / "cam" / f"{image_id}.npy") for r in results)
        assert all(np.array_equal(one[name], other[name]) for name in other)
        one, other = (read_label_png(r / "sem_seg" / f"{image_id}.png") for r in results)
        assert np.array_equal(one, other)
    one, other = map(load_scores, results)
    assert all(one[row]["miou"] == other[row]["miou"] for row in other)


def test_classes_beyond_8_bits_go_all_the_way(own, words, tiny_run, tmp_path, capsys):
    before = [f"class {number}" for number in range(290)]
    (tmp_path / "many.txt").write_text("\n".join([*before, *CLASS_NAMES]))
    (tmp_path / "masks").mkdir()
    for path in (own / "masks").glob("*.png"):
        truth = read_label_png(path).astype(np.uint16)
        moved = np.where((truth == 0) | (truth == 255), truth * 257, truth + len(before))
        save_label_png(tmp_path / "masks" / path.name, moved.astype(np.uint16))
    options = ("--result_dir", tmp_path / "r", "--classes", tmp_path / "many.txt", "--limit", 4)
    options += ("--masks", tmp_path / "masks", "--report_html", "--RIB_iter", 1)
    assert tiny_run(*words, *options, "--export", "coco") == 0
    assert {"RIB seed", "pseudo masks"} <= load_scores(tmp_path / "r").keys()
    for name in ("ir_label", "sem_seg", "masks"):
        for path in (tmp_path / "r" / name).glob("2012*.png"):
            labels = read_label_png(path)
            assert labels.dtype == np.uint16
            assert all(291 <= label <= 310 for label in set(np.unique(labels)) - {0, 65_535})
    coco = json.loads((tmp_path / "r" / "export" / "coco" / "instances_train.json").read_text())
    assert all(entry["category_id"] > 290 for entry in coco["annotations"])
    assert (tmp_path / "r" / "report.html").stat().st_size > 10_000
    assert tiny_run(*words, *options, "--export", "voc", "--export_masks_pass") == 2
    assert "these masks have 8 bits, which hold 254 classes" in capsys.readouterr().err


@pytest.fixture
def refused(words, tiny_run, capsys, tmp_path):
    """Lines of the refusal of a run."""

    def call(*options):
        capsys.readouterr()
        assert tiny_run(*words, "--result_dir", tmp_path / "r", *options) == 2
        lines = capsys.readouterr().err.splitlines()
        assert all(line.startswith(("error: ", "usage: ", "run_sample.py: ")) for line in lines)
        assert not list((tmp_path / "r").glob("cam*"))
        return lines

    return call


def test_all_damaged_photographs_are_named_at_once(own, refused, tmp_path):
    spoilt, names = tmp_path / "spoilt", (f"{IDS[0]}.jpg", *FORMATS.values())
    shutil.copytree(own / "photos", spoilt)
    for name in names:
        (spoilt / name).write_bytes((spoilt / name).read_bytes()[:-200])
    lines = refused("--root", spoilt, "--check")
    assert all(sum(name in line for line in lines) == 1 for name in names)


@pytest.mark.parametrize("options, said", [
    (("--root", "none"), "--root none: no such folder"),
    (("--labels", "none.csv"), "--labels none.csv: no such file"),
    (("--labels", PROJECT / "run_sample.py"), "is not of a format that is read (.py suffix)"),
    (("--labels", "folders"), "lies in no sub-folder that could be its class"),
    (("--masks", "none"), "--masks none: no such folder"),
    (("--classes", "none"), "none: cannot be read"),
    (("--eval_cam_pass",), "--masks: is not given"),
])  # fmt: skip
def test_wrong_options_end_with_a_line(refused, options, said):
    assert any(said in line for line in refused(*options))


def test_options_of_photographs_are_for_them_alone(tiny_run, capsys):
    assert tiny_run("--labels", "labels.csv") == 2
    assert "--labels: is for --dataset folder" in capsys.readouterr().err
    assert tiny_run("--dataset", "folder") == 2
    assert "--root: give the folder" in capsys.readouterr().err
