"""No number rests on a damaged or non-finite value: what enters is looked at, what leaves too."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from coco14.dataset import describe as describe_coco
from misc.cams import load_cam, save_cam
from misc.errors import UserError
from misc.storage.cam_files import save_dict, save_label_dict
from misc.storage.files import read_bytes
from misc.storage.images import check_jpeg
from net.checkpoint import read_checkpoint, save_checkpoint
from net.resnet50_cam import Net
from tests.conftest import THIN

FIRST, SECOND = "2012_000001", "2012_000002"


@pytest.fixture
def call(on_copy, classifier_file):
    """Makes CAMs of two images of the copied sample, with these weights or options."""
    given = ("--limit", 2, "--imagenet_weights", classifier_file, "--make_cam_pass")
    return lambda *more: on_copy(*given, "--cam_weights_name", classifier_file, *more)


@pytest.mark.parametrize("kind", ["scrambled", "cut and closed"])
def test_a_spoilt_photograph_is_found_before_the_run(call, info, kind):
    path = info.image_path(SECOND)
    whole, noise = path.read_bytes(), np.random.RandomState(0).bytes(200)
    middle = len(whole) // 2
    end = b"\xff\xd9" if kind == "cut and closed" else noise + whole[middle + 200 :]
    path.write_bytes(whole[:middle] + end)
    for more in ((), ("--check",)):
        code, (line,), _ = call(*more)
        assert code == 2 and f"{path}: is damaged (" in line
    assert call("--check", "quick")[0] == 0  # the header says nothing of it


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_whole_photographs_of_all_kinds_pass(tmp_path, mode, progressive):
    pixels = np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "a.jpg", progressive=progressive)
    check_jpeg(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[:-2] + b"\0\0\0" + content[-2:])  # of some cameras
    check_jpeg(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(content[:-2] + bytes(100) + content[-2:])
    with pytest.raises(ValueError, match="extraneous bytes"):
        check_jpeg(tmp_path / "a.jpg")


def test_rotated_photographs_are_counted_in_a_warning(call, info):
    for image_id in (FIRST, SECOND):
        image = Image.open(info.image_path(image_id))
        image.load()
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(info.image_path(image_id), exif=exif)
    code, _, said = call("--check")
    assert code == 0 and "2 photographs with an EXIF rotation" in said


@pytest.mark.parametrize("value", [np.nan, 0.5])
def test_labels_are_zero_or_one(call, info, tmp_path, value):
    labels = {info.label_key(i): np.eye(20)[3] for i in (FIRST, SECOND)}
    labels[info.label_key(SECOND)] = np.where(np.arange(20) == 3, 1.0, value)
    save_label_dict(tmp_path / "labels.npy", labels)
    code, (line,), _ = call("--cls_labels", tmp_path / "labels.npy")
    assert code == 2 and "labels.npy is not a label file (values other than 0 and 1" in line
    assert str(info.label_key(SECOND)) in line


def test_weights_are_finite(call, tmp_path):
    model = Net(20, **THIN)
    with torch.no_grad():
        model.classifier.weight[3, 1] = np.nan
    save_checkpoint(tmp_path / "cam.pth", model)
    code, (line,), _ = call("--cam_weights_name", tmp_path / "cam.pth")
    assert code == 2 and "weights that are not finite (classifier.weight)" in line


def test_rib_that_leaves_the_numbers_names_the_image(on_copy, classifier_file, tmp_path):
    model = Net(20, **THIN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e3)
    save_checkpoint(tmp_path / "cam.pth", model)
    given = ("--make_recam_pass", "--cam_weights_name", tmp_path / "cam.pth", "--limit", 2)
    given += ("--imagenet_weights", classifier_file, "--RIB_lr", 1.0, "--RIB_iter", 6)
    code, (line,), _ = on_copy(*given, "--stop_th", "1e9", "--explode_ratio", 1)
    assert code == 2 and f"image {FIRST}: its maps are not finite; give a smaller --RIB_lr" in line
    assert not list((tmp_path / "result" / "cam").glob("*.npy"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -5.98, 1.5])
@pytest.mark.parametrize("name", ["cam", "high_res"])
def test_maps_lie_between_zero_and_one(tmp_path, name, value):
    content = {"cam": np.full((1, 2, 3), 0.5), "high_res": np.full((1, 8, 12), 0.5)}
    content[name][0, 1, 1] = value
    with pytest.raises(ValueError, match=f"{name} has values from .*, not in 0..1"):
        save_cam(tmp_path / "a.npy", np.array([3]), **content)
    assert not list(tmp_path.iterdir())
    save_dict(tmp_path / "a.npy", {"keys": np.array([3]), **content})
    with pytest.raises(UserError, match=f"a.npy is not a CAM file .{name} has values"):
        load_cam(tmp_path / "a.npy")


def test_what_is_not_a_file_is_refused_at_once(tmp_path, info, call):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="not a regular file"):
            read_bytes(path, 10)
    with pytest.raises(UserError, match="not a regular file|is not a file"):
        read_checkpoint(tmp_path / "pipe")
    info.image_path(SECOND).unlink()
    os.mkfifo(info.image_path(SECOND))
    for flag in ("--infer_list", "--cls_labels"):
        code, lines, _ = call(flag, tmp_path / "pipe")
        assert code == 2 and any("pipe" in line for line in lines)
    code, (line,), _ = call()
    assert code == 2 and str(info.image_path(SECOND)) in line


def test_coco_masks_are_drawn_for_scores_alone(coco_sample, tiny_run, tmp_path):
    shutil.copytree(coco_sample.root, tmp_path / "coco")
    info = describe_coco(tmp_path / "coco")
    shutil.rmtree(info.mask_dirs[0], ignore_errors=True)
    save_checkpoint(tmp_path / "cam.pth", Net(80, **THIN))
    given = ("--dataset", "coco14", "--coco14_root", info.root, "--limit", 1)
    given += ("--cam_weights_name", tmp_path / "cam.pth", "--result_dir", tmp_path / "result")
    assert tiny_run(*given, "--check") == 0 and not info.mask_dirs[0].exists()
    assert tiny_run(*given, "--make_recam_pass") == 0 and not info.mask_dirs[0].exists()
    assert tiny_run(*given, "--eval_cam_pass") == 0 and list(info.mask_dirs[0].iterdir())
