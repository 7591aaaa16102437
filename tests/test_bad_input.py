"""Bad input ends the program with exit code 2 and one clear line, before anything is computed."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from misc.cams import save_cam
from misc.labels import save_label_png, save_palette_png
from misc.storage.cam_files import load_dict, save_label_dict
from misc.storage.manifest import read_manifest, write_manifest
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net
from tests.conftest import PROJECT, THIN

FIRST, SECOND = "2012_000001", "2012_000002"
PREPARED = {"lists", "run.log"}  # made before the checks, from the dataset's own files


@pytest.fixture
def all_refused(info, result_dir, classifier_file, tiny_run, capsys):
    """Runs with the copied sample and the options; returns the lines of the refusal."""
    given = ("--voc12_root", info.root, "--result_dir", result_dir)
    given += ("--imagenet_weights", classifier_file, "--cam_weights_name", classifier_file)

    def computed():
        """Files and their times, but for what is prepared before the checks."""
        paths = [path for path in result_dir.rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in paths if not PREPARED & {*path.parts}}

    def call(*options):
        before = computed()
        capsys.readouterr()
        code = tiny_run(*given, *options)
        lines = the_lines(code, capsys.readouterr().err)
        assert computed() == before
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


def save_maps(info, folder, image_ids, keys=(2,)):
    """Maps that fit the images, as make_recam_with_RIB saves them."""
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in image_ids:
        height, width = info.image_size(image_id)
        small = np.zeros((len(keys), (height - 1) // 4 + 1, (width - 1) // 4 + 1))
        save_cam(folder / f"{image_id}.npy", keys, small, np.zeros((len(keys), height, width)))


def train_ids(info):
    return (info.root / "ImageSets/Segmentation/train.txt").read_text().split()


def write_list(tmp_path, *lines):
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_the_command_as_a_user_types_it(tmp_path):
    words = ["--voc12_root", tmp_path / "none", "--result_dir", tmp_path / "result"]
    command = [sys.executable, "run_sample.py", *words]
    end = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    (line,) = the_lines(end.returncode, end.stderr)
    assert f"--voc12_root {tmp_path / 'none'}: no such folder" in line
    assert not (tmp_path / "result").exists()


def test_roots_without_images_or_lists(refused, info):
    (info.root / "ImageSets/Segmentation/train.txt").rename(info.root / "train.txt")
    assert "train.txt: image list cannot be read" in refused()
    shutil.rmtree(info.image_dir)
    assert f"--voc12_root {info.root}: has no folder JPEGImages" in refused()


@pytest.mark.parametrize("role", ["train", "infer", "eval"])
def test_lists_that_are_no_lists(refused, tmp_path, role):
    flag = f"--{role}_list"
    assert "empty" in refused(flag, write_list(tmp_path, "", "  "))
    for wrong in ("../../etc/passwd", "2012_00001", "2012_000001.png"):
        line = refused(flag, write_list(tmp_path, SECOND, wrong))
        assert "list.txt, line 2: " in line and wrong in line
    line = refused(flag, write_list(tmp_path, FIRST, SECOND, FIRST))
    assert f"repeats {FIRST} (lines 1, 3); remove the repeats" in line
    assert "none.txt: image list cannot be read" in refused(flag, tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    assert "binary.txt" in refused(flag, tmp_path / "binary.txt")


def test_images_that_are_missing_damaged_or_of_another_kind(all_refused, refused, info):
    path = info.image_path(SECOND)
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    assert f"{path}: is damaged" in refused("--make_cam_pass")
    Image.open(info.image_path(FIRST)).save(path, format="PNG")
    assert f"{path}: is not a JPEG file; convert it" in refused("--make_cam_pass")
    for content in (b"", b"<html>", b"\xff\xd8\xff\xd9"):
        path.write_bytes(content)
        assert f"{path}: is not a readable image" in refused("--make_cam_pass")
    info.image_path(FIRST).unlink()
    path.rename(path.with_suffix(".JPG"))
    first, second, count = all_refused()
    assert f"{info.image_path(FIRST)}: no such image, but it is in the list" in first
    assert f"{path}: no such image" in second and f"{SECOND}.JPG is there: rename it" in second
    assert count == "error: 2 problems: 2 images"


def test_missing_labels(refused, all_refused, info, tmp_path):
    (info.root / "Annotations" / f"{SECOND}.xml").unlink()
    line = refused()
    assert f"{SECOND}.xml: missing label" in line and "--cls_labels" in line
    save_label_dict(tmp_path / "labels.npy", {info.label_key(FIRST): np.eye(20)[3]})
    listed = ("--infer_list", write_list(tmp_path, *train_ids(info)))
    given = ("--make_cam_pass", *listed, "--cls_labels")
    lines = all_refused(*given, tmp_path / "labels.npy")
    assert f"labels.npy: missing label for image {SECOND}" in lines[0]
    assert lines[7:] == ["error: 7 problems: 7 labels"]
    assert "none.npy is missing" in refused(*given, tmp_path / "none.npy")


def test_ground_truth_that_does_not_fit(refused, info, tmp_path):
    save_maps(info, tmp_path / "maps", train_ids(info))
    given = ("--eval_cam_pass", "--cam_out_dir", tmp_path / "maps")
    path, size = info.mask_path(SECOND), info.image_size(SECOND)
    save_palette_png(path, np.zeros((7, 9), dtype=np.uint8))
    line = refused(*given)
    assert f"{path}: is 9x7, its image is" in line and "--skip_mismatched" in line
    save_palette_png(path, np.full(size, 21, dtype=np.uint8))
    assert f"{path}: has label 21, voc12 ends at 20" in refused(*given)
    path.write_bytes(b"nothing")
    assert f"{path} cannot be read as an image" in refused(*given)
    for folder in info.mask_dirs:
        (folder / f"{SECOND}.png").unlink()
    assert f"{path}: no ground truth mask of {SECOND}" in refused(*given, "--limit", 3)


def test_pseudo_masks_that_do_not_fit(refused, all_refused, info, tmp_path):
    given = ("--eval_sem_seg_pass", "--sem_seg_out_dir", tmp_path / "masks")
    assert f"{tmp_path / 'masks'}: no such folder" in refused(*given)
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


def test_networks_that_do_not_fit(refused, info, tmp_path, classifier_file, boundary_file):
    save_checkpoint(tmp_path / "coco.pth", Net(80, **THIN))
    torch.save({"loss": torch.zeros(3)}, tmp_path / "vgg.pth")
    save_maps(info, tmp_path / "maps", train_ids(info))
    cams = ("--make_cam_pass", "--cam_weights_name")
    irn = ("--make_sem_seg_pass", "--cam_out_dir", tmp_path / "maps", "--irn_weights_name")
    backbone = ("--train_cam_pass", "--cam_weights_name", tmp_path / "new.pth")
    backbone += ("--imagenet_weights",)
    for given in (cams, irn, backbone):
        assert f"{tmp_path / 'none.pth'} is missing" in refused(*given, tmp_path / "none.pth")
    for given, path, said in (
        (cams, boundary_file, "of another network"),
        (cams, tmp_path / "coco.pth", "80 classes"),
        (cams, tmp_path / "vgg.pth", "unexpected: loss"),
        (irn, classifier_file, "of another network"),
        (backbone, tmp_path / "vgg.pth", "of another network"),
    ):
        line = refused(*given, path)
        assert str(path) in line and said in line


@pytest.mark.parametrize("step", ["eval_cam", "make_sem_seg_labels"])
def test_saved_maps_that_do_not_fit(refused, all_refused, info, tmp_path, boundary_file, step):
    maps = tmp_path / "maps"
    given = (f"--{step}_pass", "--cam_out_dir", maps, "--irn_weights_name", boundary_file)
    path = maps / f"{SECOND}.npy"
    whole = np.zeros((1, *info.image_size(SECOND)))  # not at stride 4
    other = "another image or dataset"
    for spoil, said in (
        (path.unlink, "is missing"),
        (lambda: path.write_bytes(path.read_bytes()[:-9]), "is not a dict of arrays"),
        (lambda: shutil.copy(maps / f"{FIRST}.npy", path), other),
        (lambda: save_maps(info, maps, [SECOND], keys=(2, 50)), f"{other} (classes [2, 50]"),
        (lambda: save_cam(path, [2], whole, whole), other),
    ):
        save_maps(info, maps, train_ids(info))
        spoil()
        line = refused(*given)
        assert str(path) in line and said in line
    shutil.rmtree(maps)
    assert f"{maps}: no such folder; run --make_recam_with_RIB_pass first" in refused(*given)
    maps.mkdir()
    assert all_refused(*given)[8:] == [f"error: 8 problems: 8 maps in {maps}"]


def test_no_image_to_draw_batches_from(refused, info, tmp_path):
    labels = {info.label_key(image_id): np.eye(20)[3] for image_id in train_ids(info)}
    given = ("--make_recam_pass", "--cls_labels", tmp_path / "labels.npy")
    save_label_dict(tmp_path / "labels.npy", labels)
    line = refused(*given)
    assert "all 8 images show 'boat'" in line and "add 2 or more images of anything else" in line
    labels[info.label_key(FIRST)] = np.eye(20)[3] + np.eye(20)[5]
    labels[info.label_key(SECOND)] = np.eye(20)[5]
    save_label_dict(tmp_path / "labels.npy", labels)
    line = refused(*given)
    assert f"every image shares a class with {FIRST}" in line and "--train_list" in line


def test_problems_of_several_kinds_are_named_in_one_go(all_refused, info, tmp_path, result_dir):
    """Of steps that read different things, also where an earlier step is refused altogether."""
    info.image_path(FIRST).unlink()
    info.image_path(SECOND).write_bytes(b"nothing")
    third, fourth = (info.mask_path(f"2012_00000{n}") for n in (3, 4))
    save_palette_png(third, np.zeros((7, 9), dtype=np.uint8))
    fourth.write_bytes(b"nothing")
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
    assert all(words in line for words, line in zip(expected, lines, strict=True))


@pytest.mark.parametrize("flag", [
    "--result_dir", "--plain_cam_out_dir", "--cam_out_dir", "--ir_label_out_dir",
    "--sem_seg_out_dir", "--cam_weights_name", "--irn_weights_name",
])  # fmt: skip
def test_output_that_cannot_be_written(refused, tmp_path, flag):
    (tmp_path / "file").touch()
    steps = ("train_cam", "make_cam", "make_recam", "cam_to_ir_label", "train_irn", "make_sem_seg")
    others = ("--cam_weights_name", tmp_path / "new.pth")
    passes = (f"--{step}_pass" for step in steps)
    line = refused(*passes, *others, flag, tmp_path / "file" / "below")
    assert f"{flag} {tmp_path / 'file'}" in line and "cannot be written" in line


def test_a_folder_of_other_settings(refused, tiny_run, info, result_dir, tmp_path):
    """Another classifier at the same path is noticed by its content."""
    save_checkpoint(tmp_path / "cam.pth", Net(20, **THIN))
    given = ("--make_cam_pass", "--cam_weights_name", tmp_path / "cam.pth", "--limit", 1)
    root = ("--voc12_root", info.root, "--result_dir", result_dir)
    path = result_dir / "cam_plain" / f"{FIRST}.npy"
    assert tiny_run(*root, *given) == 0
    assert "checked: 1 image, 1 label, 1 checkpoint" in (result_dir / "run.log").read_text()
    before, made = path.read_bytes(), path.stat().st_mtime_ns
    later = ("--make_recam_pass", "--cam_scales", "1.0,0.5")  # refused before the first step starts
    line = refused(*given, *later)
    assert f"--plain_cam_out_dir {path.parent}: was made with other settings (cam_scales is" in line
    assert "--overwrite" in line and path.read_bytes() == before
    save_checkpoint(tmp_path / "cam.pth", Net(20, **THIN))
    assert "made with other settings (classifier is" in refused(*given)
    assert tiny_run(*root, *given, "--cam_scales", "1.0,0.5", "--overwrite") == 0
    assert path.stat().st_mtime_ns > made
    assert read_manifest(path.parent)["cam_scales"] == [1.0, 0.5]
    (path.parent / "manifest.json").unlink()
    assert "holds 1 .npy file and no manifest.json" in refused(*given)


@pytest.mark.parametrize("lists_given", [False, True])
def test_lists_and_labels_of_another_root(
    refused, tiny_run, info, sample, result_dir, classifier_file, tmp_path, lists_given
):
    given = ["--make_cam_pass", "--cam_weights_name", classifier_file, "--limit", 1]
    if lists_given:
        path = write_list(tmp_path, *train_ids(info))
        given += ["--train_list", path, "--infer_list", path, "--eval_list", path]
    assert tiny_run("--voc12_root", sample.root, "--result_dir", result_dir, *given) == 0
    assert f"--result_dir {result_dir / 'lists'}: was made with" in refused(*given)
    labels = result_dir / "lists" / "cls_labels.npy"
    save_label_dict(labels, {key: 0 * label for key, label in load_dict(labels, "").items()})
    again = ("--voc12_root", info.root, "--result_dir", result_dir, "--overwrite")
    assert tiny_run(*again, *given) == 0
    assert all(label.any() for label in load_dict(labels, "").values())
