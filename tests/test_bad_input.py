"""Bad input ends the program with exit code 2 and one clear line, before anything is computed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from misc.cams import save_cam
from misc.labels import save_label_png, save_palette_png
from misc.storage.cam_files import load_label_dict, save_label_dict
from misc.storage.manifest import read_manifest, write_manifest
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net
from tests.conftest import PROJECT, THIN
from voc12.dataset import describe

FIRST, SECOND = "2012_000001", "2012_000002"
PREPARED = ("lists", "run.log")  # made before the checks, from the dataset's own files


@pytest.fixture
def info(sample, tmp_path):
    """A copy of the drawn sample that may be spoilt."""
    shutil.copytree(sample.root, tmp_path / "voc")
    return describe(tmp_path / "voc")


@pytest.fixture
def result_dir(tmp_path):
    return tmp_path / "result"


@pytest.fixture
def all_refused(info, result_dir, classifier_file, tiny_run, capsys):
    """Runs with the copied sample and the options; returns the lines of the refusal."""
    given = ("--voc12_root", info.root, "--result_dir", result_dir)
    given += ("--imagenet_weights", classifier_file)

    def call(*options):
        before = computed(result_dir)
        capsys.readouterr()
        code = tiny_run(*given, *options)
        lines = the_lines(code, capsys.readouterr().err)
        assert computed(result_dir) == before
        return lines

    return call


@pytest.fixture
def refused(all_refused):
    """The same for a single problem; returns its line."""

    def call(*options):
        (line,) = all_refused(*options)
        return line

    return call


def the_lines(code, stderr):
    assert code == 2 and stderr.endswith("\n")
    lines = stderr.splitlines()
    assert all(line.startswith("error: ") and "Traceback" not in line for line in lines)
    return lines


def computed(result_dir):
    """What the result folder holds and its times, but for what is prepared before the checks."""
    return {
        path: path.stat().st_mtime_ns if path.is_file() else None
        for path in result_dir.rglob("*")
        if path.relative_to(result_dir).parts[0] not in PREPARED
    }


def command(*words):
    """run_sample.py in a process of its own."""
    return subprocess.run(
        [sys.executable, "run_sample.py", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=PROJECT,
    )


def save_maps(info, folder, image_ids, keys=(2,)):
    """Maps that fit the images, as make_recam_with_RIB saves them."""
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in image_ids:
        height, width = info.image_size(image_id)
        small = np.zeros((len(keys), (height - 1) // 4 + 1, (width - 1) // 4 + 1))
        save_cam(folder / f"{image_id}.npy", keys, small, np.zeros((len(keys), height, width)))


def cut(path, count):
    """Lose the last bytes of a file."""
    path.write_bytes(path.read_bytes()[:-count])


def train_ids(info):
    return (info.root / "ImageSets/Segmentation/train.txt").read_text().split()


def write_list(tmp_path, *lines):
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


# --- the command as a user types it -------------------------------------------------------------


def test_unknown_flag_on_the_command_line():
    end = command("--no_such_flag", 3)
    (line,) = the_lines(end.returncode, end.stderr)
    assert "--no_such_flag" in line


def test_missing_root_on_the_command_line(tmp_path):
    end = command("--voc12_root", tmp_path / "none", "--result_dir", tmp_path / "result")
    (line,) = the_lines(end.returncode, end.stderr)
    assert f"--voc12_root {tmp_path / 'none'}: no such folder" in line
    assert not (tmp_path / "result").exists()


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--RIB_iter", 0),
        ("--score_th", 1.5),
        ("--cam_scales", ""),
        ("--limit", 0),
        ("--cam_eval_thres", "0.5,0.2"),
        ("--irn_crop_size", 100),
        ("--irn_radius", 9),  # no room in a crop of 64 pixels
        ("--device", "tpu"),
        ("--no_such_flag", 1),
    ],
)
def test_options(refused, flag, value):
    assert flag in refused(flag, value)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none(refused, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    line = refused("--device", name)
    assert f"--device {name}: there are 0 CUDA devices here" in line and "--device cpu" in line


# --- the dataset --------------------------------------------------------------------------------


def test_root_without_images(refused, info):
    shutil.rmtree(info.image_dir)
    assert f"--voc12_root {info.root}: has no folder JPEGImages" in refused()


def test_root_without_lists(refused, info):
    (info.root / "ImageSets/Segmentation/train.txt").unlink()
    assert "train.txt: image list cannot be read" in refused()


def test_image_that_is_not_there(all_refused, info, classifier_file):
    for image_id in (FIRST, SECOND):
        info.image_path(image_id).unlink()
    *lines, count = all_refused("--cam_weights_name", classifier_file)
    for line, image_id in zip(lines, (FIRST, SECOND), strict=True):
        assert f"{info.image_path(image_id)}: no such image, but it is in the list" in line
    assert count == "error: 2 problems: 2 images"


@pytest.mark.parametrize("role", ["train", "infer", "eval"])
def test_lists_that_are_no_lists(refused, tmp_path, role, classifier_file):
    flag = f"--{role}_list"
    given = ("--cam_weights_name", classifier_file, flag)
    assert "empty" in refused(*given, write_list(tmp_path, "", "  "))
    for wrong in (
        "../../etc/passwd",
        "/etc/passwd",
        "2012_00001",
        "2012_000001.png",
        "2012_00000x",
    ):
        line = refused(*given, write_list(tmp_path, SECOND, wrong))
        assert "list.txt, line 2: " in line and wrong in line
    line = refused(*given, write_list(tmp_path, FIRST, SECOND, FIRST))
    assert f"repeats {FIRST} (lines 1, 3); remove the repeats" in line
    assert "none.txt: image list cannot be read" in refused(*given, tmp_path / "none.txt")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "binary.txt" in refused(*given, binary)


def test_truncated_image(refused, info, classifier_file):
    path = info.image_path(SECOND)
    path.write_bytes(path.read_bytes()[:-500])
    line = refused("--make_cam_pass", "--cam_weights_name", classifier_file)
    assert f"{path}: is damaged" in line


def test_image_of_another_kind(refused, info, classifier_file):
    given = ("--make_cam_pass", "--cam_weights_name", classifier_file)
    path = info.image_path(SECOND)
    Image.open(path).save(path, format="PNG")
    assert f"{path}: is not a JPEG file; convert it" in refused(*given)
    for content in (b"", b"<html>", b"\xff\xd8\xff\xd9"):
        path.write_bytes(content)
        assert f"{path}: is not a readable image" in refused(*given)


def test_missing_labels(refused, all_refused, info, tmp_path, classifier_file):
    (info.root / "Annotations" / f"{SECOND}.xml").unlink()
    line = refused("--cam_weights_name", classifier_file)
    assert f"{SECOND}.xml: missing label" in line and "--cls_labels" in line
    labels = {info.label_key(FIRST): np.eye(20)[3]}
    save_label_dict(tmp_path / "labels.npy", labels)
    given = ("--make_cam_pass", "--cam_weights_name", classifier_file, "--cls_labels")
    listed = ("--infer_list", write_list(tmp_path, *train_ids(info)))
    lines = all_refused(*given, tmp_path / "labels.npy", *listed)
    assert f"labels.npy: missing label for image {SECOND}" in lines[0]
    assert lines[7:] == ["error: 7 problems: 7 labels"]
    save_label_dict(tmp_path / "labels.npy", {info.label_key(i): np.eye(80)[3] for i in [FIRST]})
    line = refused(*given, tmp_path / "labels.npy", "--infer_list", write_list(tmp_path, FIRST))
    assert "vectors of 80 classes, voc12 has 20" in line
    assert "none.npy is missing" in refused(*given, tmp_path / "none.npy", *listed)


class Malicious:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def save_malicious(path, harm):
    np.save(path, np.array({"keys": Malicious(harm)}, dtype=object), allow_pickle=True)


@pytest.mark.parametrize("what", ["labels", "maps", "classifier"])
def test_code_in_a_file_is_not_run(refused, info, tmp_path, classifier_file, what):
    harm, maps = tmp_path / "harm", tmp_path / "maps"
    save_maps(info, maps, train_ids(info))
    if what == "labels":
        path = tmp_path / "bad.npy"
        save_malicious(path, harm)
        line = refused(
            *("--make_cam_pass", "--cam_weights_name", classifier_file, "--cls_labels", path)
        )
    elif what == "maps":
        path = maps / f"{SECOND}.npy"
        save_malicious(path, harm)
        line = refused("--cam_to_ir_label_pass", "--cam_out_dir", maps)
    else:
        path = tmp_path / "bad.pth"
        torch.save({"conv1.weight": Malicious(harm)}, path)
        line = refused("--make_cam_pass", "--cam_weights_name", path)
    assert str(path) in line and not harm.exists()


# --- masks --------------------------------------------------------------------------------------


@pytest.fixture
def scored(info, tmp_path, refused):
    """Scores maps that are fine; what is spoilt is up to the test."""
    save_maps(info, tmp_path / "maps", train_ids(info))
    return lambda *more: refused("--eval_cam_pass", "--cam_out_dir", tmp_path / "maps", *more)


def test_masks_of_another_size(scored, info):
    save_palette_png(info.mask_path(FIRST), np.zeros((7, 9), dtype=np.uint8))
    line = scored()
    assert f"{info.mask_path(FIRST)}: is 9x7, its image is" in line and "--skip_mismatched" in line


def test_mask_with_a_class_beyond_the_datasets(scored, info):
    size = info.image_size(SECOND)
    save_palette_png(info.mask_path(SECOND), np.full(size, 21, dtype=np.uint8))
    assert f"{info.mask_path(SECOND)}: has label 21, voc12 ends at 20" in scored()


def test_mask_of_colours_and_no_mask(scored, info):
    path = info.mask_path(SECOND)
    Image.open(path).convert("RGB").save(path)
    assert f"{path} is an image of mode RGB" in scored()
    path.unlink()
    save_palette_png(path, np.zeros(info.image_size(SECOND), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:200])
    assert f"{path} cannot be read as an image" in scored()
    for folder in info.mask_dirs:
        (folder / f"{SECOND}.png").unlink()
    assert f"{path}: no ground truth mask of {SECOND}" in scored("--limit", 3)


def test_pseudo_masks_that_do_not_fit(refused, all_refused, info, tmp_path):
    given = ("--eval_sem_seg_pass", "--sem_seg_out_dir", tmp_path / "masks")
    (tmp_path / "masks").mkdir()
    path = tmp_path / "masks" / f"{FIRST}.png"
    lines = all_refused(*given)
    assert f"{path}: missing; run --make_sem_seg_labels_pass first" in lines[0]
    assert lines[8:] == [f"error: 8 problems: 8 label maps in {tmp_path / 'masks'}"]
    for image_id in train_ids(info):
        mask = np.zeros(info.image_size(image_id), dtype=np.uint8)
        save_label_png(tmp_path / "masks" / f"{image_id}.png", mask)
    save_label_png(path, np.zeros((7, 9), dtype=np.uint8))
    assert f"{path}: has another size than its image" in refused(*given)
    save_label_png(path, np.full(info.image_size(FIRST), 30, dtype=np.uint8))
    assert f"{path}: has label 30, voc12 ends at 20" in refused(*given)


# --- checkpoints --------------------------------------------------------------------------------


def test_classifiers_that_do_not_fit(refused, tmp_path, boundary_file):
    def with_classifier(path):
        line = refused("--make_cam_pass", "--cam_weights_name", path)
        assert str(path) in line
        return line

    assert "is missing" in with_classifier(tmp_path / "none.pth")
    assert "of another network" in with_classifier(boundary_file)
    save_checkpoint(tmp_path / "coco.pth", Net(80, **THIN))
    assert "80 classes, but the data set has 20" in with_classifier(tmp_path / "coco.pth")
    (tmp_path / "text.pth").write_text("nothing")
    assert "cannot be read as network weights" in with_classifier(tmp_path / "text.pth")
    torch.save({"loss": torch.zeros(3)}, tmp_path / "vgg.pth")
    assert "unexpected: loss" in with_classifier(tmp_path / "vgg.pth")


def test_boundary_nets_that_do_not_fit(refused, info, tmp_path, classifier_file):
    save_maps(info, tmp_path / "maps", train_ids(info))
    given = ("--make_sem_seg_pass", "--cam_out_dir", tmp_path / "maps", "--irn_weights_name")
    assert "none.pth is missing" in refused(*given, tmp_path / "none.pth")
    assert f"{classifier_file} is of another network" in refused(*given, classifier_file)


def test_backbones_that_do_not_fit(refused, tmp_path):
    given = ("--train_cam_pass", "--imagenet_weights")
    assert "none.pth is missing" in refused(*given, tmp_path / "none.pth")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "vgg.pth")
    assert "vgg.pth is of another network" in refused(*given, tmp_path / "vgg.pth")


def test_a_trained_classifier_is_not_replaced(refused, classifier_file, tmp_path):
    taken = shutil.copy(classifier_file, tmp_path / "taken.pth")
    given = ("--train_cam_pass", "--imagenet_weights", classifier_file)
    line = refused(*given, "--cam_weights_name", taken)
    assert f"--cam_weights_name {taken}: was not written by train_cam and stays as it is" in line
    assert Path(taken).read_bytes() == classifier_file.read_bytes()


# --- saved maps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["eval_cam", "cam_to_ir_label", "make_sem_seg_labels"])
def test_saved_maps_that_do_not_fit(refused, all_refused, info, tmp_path, boundary_file, step):
    maps = tmp_path / "maps"
    given = (f"--{step}_pass", "--cam_out_dir", maps, "--irn_weights_name", boundary_file)
    path = maps / f"{SECOND}.npy"

    def spoilt(spoil):
        save_maps(info, maps, train_ids(info))
        spoil()
        line = refused(*given)
        assert str(path) in line
        return line

    assert "is missing" in spoilt(path.unlink)
    assert "is not a dict of arrays (damaged" in spoilt(lambda: cut(path, 9))
    assert "another image or dataset" in spoilt(lambda: shutil.copy(maps / f"{FIRST}.npy", path))
    coco = "another image or dataset (classes [2, 50]"
    assert coco in spoilt(lambda: save_maps(info, maps, [SECOND], keys=(2, 50)))
    whole = np.zeros((1, *info.image_size(SECOND)))  # not at stride 4
    fault = spoilt(lambda: save_cam(path, [2], whole, whole))
    assert "another image or dataset" in fault
    shutil.rmtree(maps)
    assert f"{maps}: no such folder; run --make_recam_with_RIB_pass first" in refused(*given)
    maps.mkdir()
    lines = all_refused(*given)
    assert f"{maps / FIRST}.npy is missing" in lines[0]
    assert lines[8:] == [f"error: 8 problems: 8 maps in {maps}"]


def test_maps_that_this_run_will_not_make(refused, tmp_path, classifier_file):
    """Scores need a map of every image of the evaluation list."""
    some = write_list(tmp_path, SECOND)
    given = ("--cam_weights_name", classifier_file, "--make_recam_pass", "--eval_cam_pass")
    said = refused(*given, "--infer_list", some)
    assert f"--infer_list {some}: lacks 7 images needed later, such as {FIRST}" in said


# --- several problems at once -------------------------------------------------------------------


def test_problems_of_several_kinds_are_named_in_one_go(all_refused, info, tmp_path, result_dir):
    """Of steps that read different things, also where an earlier step is refused altogether."""
    info.image_path(FIRST).unlink()
    info.image_path(SECOND).write_bytes(b"nothing")
    third, fourth = (info.mask_path(f"2012_00000{n}") for n in (3, 4))
    save_palette_png(third, np.zeros((7, 9), dtype=np.uint8))
    fourth.write_bytes(b"nothing")
    save_maps(info, tmp_path / "plain", train_ids(info)[2:])
    (result_dir / "ir_label").mkdir(parents=True)
    write_manifest(result_dir / "ir_label", {"step": "cam_to_ir_label", "conf_fg_thres": 0.7})
    lines = all_refused(
        *("--make_recam_pass", "--cam_weights_name", tmp_path / "none.pth"),
        *("--eval_cam_pass", "--cam_to_ir_label_pass", "--train_irn_pass"),
        *("--irn_weights_name", result_dir),
    )
    expected = [
        f"{tmp_path / 'none.pth'} is missing",
        "conf_fg_thres is 0.7 there and 0.35 now",
        f"--irn_weights_name {result_dir}: is a folder",
        f"{info.image_path(FIRST)}: no such image",
        f"{info.image_path(SECOND)}: is not a readable image",
        f"{third}: is 9x7",
        f"{fourth} cannot be read as an image",
        "7 problems: 1 checkpoint, 2 outputs, 2 images, 2 masks",
    ]
    assert len(lines) == len(expected)
    assert all(words in line for words, line in zip(expected, lines, strict=True))


def test_problem_with_a_list_hides_no_other_step(all_refused, info, tmp_path, classifier_file):
    info.image_path(SECOND).unlink()
    lines = all_refused(
        *("--make_cam_pass", "--cam_weights_name", classifier_file, "--eval_sem_seg_pass"),
        *("--eval_list", tmp_path / "none.txt"),
    )
    assert "none.txt: image list cannot be read" in lines[0] and f"{SECOND}.jpg" in lines[1]
    assert lines[2:] == ["error: 2 problems: 1 other, 1 image"]


# --- --check ------------------------------------------------------------------------------------


def test_check_looks_and_computes_nothing(tiny_run, info, result_dir, classifier_file, capsys):
    given = ("--voc12_root", info.root, "--result_dir", result_dir, "--check")
    given += ("--cam_out_dir", result_dir / "new" / "maps")
    given += ("--irn_weights_name", result_dir / "other" / "irn.pth")
    assert tiny_run(*given, "--imagenet_weights", classifier_file) == 0
    ends = capsys.readouterr().out.splitlines()
    # 8 images in all lists; all that later steps read will be made by earlier ones
    said = [line for line in ends if line.startswith("checked: ")]
    assert len(said) == 1 and ends[-1].startswith("maps need about ")
    assert said[0].startswith("checked: 8 images, 8 masks, 8 labels, 1 checkpoint; no problem (")
    assert not result_dir.exists()


def test_check_with_problems(all_refused, info, tmp_path):
    save_maps(info, tmp_path / "maps", train_ids(info)[1:])
    save_palette_png(info.mask_path(SECOND), np.zeros((7, 9), dtype=np.uint8))
    lines = all_refused("--check", "--eval_cam_pass", "--cam_out_dir", tmp_path / "maps")
    assert f"{FIRST}.npy is missing" in lines[0] and f"{SECOND}.png: is 9x7" in lines[1]
    assert lines[2:] == [f"error: 2 problems: 1 map in {tmp_path / 'maps'}, 1 mask"]


def test_a_run_says_what_it_has_checked(tiny_run, info, result_dir, classifier_file):
    given = ("--voc12_root", info.root, "--result_dir", result_dir, "--make_cam_pass")
    assert tiny_run(*given, "--cam_weights_name", classifier_file, "--limit", 1) == 0
    log = (result_dir / "run.log").read_text()
    assert "checked: 1 image, 1 label, 1 checkpoint; no problem (" in log
    assert (result_dir / "cam_plain" / f"{FIRST}.npy").is_file()


# --- drawing batches ----------------------------------------------------------------------------


def test_no_image_to_draw_batches_from(all_refused, info, tmp_path, classifier_file):
    labels = {info.label_key(image_id): np.eye(20)[3] for image_id in train_ids(info)}
    save_label_dict(tmp_path / "labels.npy", labels)
    given = ("--make_recam_pass", "--cam_weights_name", classifier_file)
    (line,) = all_refused(*given, "--cls_labels", tmp_path / "labels.npy")
    assert "all 8 images show 'boat'" in line and "add 2 or more images of anything else" in line
    labels[info.label_key(FIRST)] = np.eye(20)[3] + np.eye(20)[5]
    labels[info.label_key(SECOND)] = np.eye(20)[5]
    save_label_dict(tmp_path / "labels.npy", labels)
    (line,) = all_refused(*given, "--cls_labels", tmp_path / "labels.npy")
    assert f"every image shares a class with {FIRST}" in line and "--train_list" in line


# --- output folders -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flag",
    ["--result_dir", "--plain_cam_out_dir", "--cam_out_dir", "--ir_label_out_dir",
     "--sem_seg_out_dir", "--cam_weights_name", "--irn_weights_name"],
)  # fmt: skip
def test_output_that_cannot_be_written(refused, tmp_path, classifier_file, flag):
    (tmp_path / "file").touch()
    line = refused(
        *("--train_cam_pass", "--make_cam_pass", "--make_recam_pass", "--cam_to_ir_label_pass"),
        *("--train_irn_pass", "--make_sem_seg_pass", "--imagenet_weights", classifier_file),
        *(flag, tmp_path / "file" / "below"),
    )
    assert f"{flag} {tmp_path / 'file'}" in line and "cannot be written" in line


def test_a_folder_in_place_of_a_file(refused, tmp_path, classifier_file):
    given = ("--imagenet_weights", classifier_file, "--cam_weights_name", tmp_path)
    assert f"--cam_weights_name {tmp_path}: " in refused("--train_cam_pass", *given)


def test_a_folder_of_other_settings(refused, tiny_run, info, result_dir, classifier_file):
    given = ("--make_cam_pass", "--cam_weights_name", classifier_file, "--limit", 1)
    root = ("--voc12_root", info.root, "--result_dir", result_dir)
    path = result_dir / "cam_plain" / f"{FIRST}.npy"
    assert tiny_run(*root, *given) == 0
    before = path.read_bytes()
    line = refused(*given, "--cam_scales", "1.0,0.5")
    assert f"--plain_cam_out_dir {path.parent}: was made with other settings (cam_scales is" in line
    assert "--overwrite" in line and path.read_bytes() == before
    assert tiny_run(*root, *given, "--cam_scales", "1.0,0.5", "--overwrite") == 0
    assert path.read_bytes() != before
    assert read_manifest(path.parent)["cam_scales"] == [1.0, 0.5]
    (path.parent / "manifest.json").unlink()
    assert "holds 1 .npy file and no manifest.json" in refused(*given)


def test_a_later_step_is_refused_before_the_first_one_starts(refused, result_dir, classifier_file):
    (result_dir / "cam").mkdir(parents=True)
    write_manifest(result_dir / "cam", {"step": "make_recam_with_RIB", "RIB_iter": 5})
    given = ("--make_cam_pass", "--make_recam_pass", "--cam_weights_name", classifier_file)
    assert "RIB_iter is 5 there and 2 now" in refused(*given)


def test_a_folder_of_another_classifier(refused, tiny_run, info, result_dir, tmp_path):
    """Another file at the same path is noticed by its content."""
    given = ("--make_cam_pass", "--cam_weights_name", tmp_path / "cam.pth", "--limit", 1)
    save_checkpoint(tmp_path / "cam.pth", Net(20, **THIN))
    assert tiny_run("--voc12_root", info.root, "--result_dir", result_dir, *given) == 0
    save_checkpoint(tmp_path / "cam.pth", Net(20, **THIN))
    assert "made with other settings (classifier is" in refused(*given)


@pytest.mark.parametrize("lists_given", [False, True])
def test_lists_and_labels_of_another_root(
    refused, tiny_run, info, sample, result_dir, classifier_file, tmp_path, lists_given
):
    given = ["--make_cam_pass", "--cam_weights_name", classifier_file, "--limit", 1]
    if lists_given:
        path = write_list(tmp_path, *train_ids(info))
        given += ["--train_list", path, "--infer_list", path, "--eval_list", path]
    root = ("--voc12_root", sample.root, "--result_dir", result_dir)
    assert tiny_run(*root, *given) == 0
    assert f"--result_dir {result_dir / 'lists'}: was made with" in refused(*given)
    labels = result_dir / "lists" / "cls_labels.npy"
    stale = {key: 0 * label for key, label in load_label_dict(labels).items()}
    save_label_dict(labels, stale)
    again = ("--voc12_root", info.root, "--result_dir", result_dir, "--overwrite")
    assert tiny_run(*again, *given) == 0
    assert all(label.any() for label in load_label_dict(labels).values())
