"""The program deletes only what it made: runs that were ordered to destroy what others made."""

import shutil
import subprocess
import sys
from subprocess import PIPE

import numpy as np
import pytest
from PIL import Image

from misc.cams import load_cam
from misc.labels import read_label_png
from misc.storage.files import LOCK
from tests.conftest import PROJECT
from tests.misc.storage.test_files import HOLDER
from tests.tools.fault_runs import checksums

FIRST, SECOND = "2012_000001", "2012_000002"


@pytest.fixture
def call(on_copy, classifier_file):
    """Runs on two images of the copied sample."""
    given = ("--cam_weights_name", classifier_file, "--imagenet_weights", classifier_file)
    return lambda *options: on_copy("--limit", 2, *given, *options)


@pytest.fixture
def refused(call, info, tmp_path):
    """The line of a refusal, after which every file is as it was, and only lists are new."""

    def run(*options):
        before = checksums(tmp_path)
        code, (line,), _ = call(*options)
        after = checksums(tmp_path)
        assert code == 2 and {name: after.get(name) for name in before} == before
        assert all(name.startswith("result/lists/") for name in after.keys() - before.keys())
        return line

    return run


@pytest.mark.parametrize("flag, folder", [
    ("--ir_label_out_dir", "voc/SegmentationClassAug"),
    ("--cam_out_dir", "voc/JPEGImages"),
    ("--plain_cam_out_dir", "voc"),
    ("--result_dir", "voc/result"),
    ("--sem_seg_out_dir", "link"),
])  # fmt: skip
def test_no_output_goes_into_the_dataset(refused, info, tmp_path, flag, folder):
    (tmp_path / "link").symlink_to(info.root / "SegmentationClass")
    line = refused(flag, tmp_path / folder, "--overwrite")
    assert f"{flag} {tmp_path / folder}: lies in the dataset's folder" in line


def test_masks_of_another_program_are_not_removed(refused, info, tmp_path):
    shutil.copytree(info.root / "SegmentationClassAug", tmp_path / "masks")
    line = refused("--ir_label_out_dir", tmp_path / "masks", "--overwrite")
    assert ".png files and no manifest.json" in line and "--overwrite" not in line


def test_overwrite_redoes_own_files_and_leaves_others(call, result_dir):
    assert call("--make_cam_pass")[0] == 0
    maps = result_dir / "cam_plain"
    np.save(maps / "mine.npy", np.arange(3))
    (maps / "notes.txt").write_text("mine")
    before = checksums(maps)
    assert call("--make_cam_pass", "--cam_scales", "1.0,0.5", "--overwrite")[0] == 0
    after = checksums(maps)
    kept = {name for name in before if after[name] == before[name]}
    assert kept == {"mine.npy", "notes.txt"} and set(after) == set(before)
    assert "2 files removed, made with other settings" in (result_dir / "run.log").read_text()


def test_what_was_changed_by_hand_stays(call, refused, result_dir, boundary_file):
    passes = ("--make_recam_pass", "--make_sem_seg_pass", "--irn_weights_name", boundary_file)
    assert call(*passes, "--visualize", 1)[0] == 0
    picture = result_dir / "visualize" / f"{FIRST}.png"
    picture.write_bytes(picture.read_bytes()[:100])
    for _ in range(2):
        assert f"{picture}: was not made by" in refused("--make_recam_pass", "--visualize", 1)
        Image.new("RGB", (3, 3)).save(picture)
    mask = result_dir / "sem_seg" / f"{FIRST}.png"
    Image.fromarray(np.zeros_like(read_label_png(mask))).save(mask)
    assert f"{mask}: was not made by this program, or was changed since" in refused(*passes)


def test_damaged_maps_and_manifests_are_found_by_every_reader(call, refused, result_dir):
    assert call("--make_recam_pass")[0] == 0
    path, manifest = (result_dir / "cam" / name for name in (f"{SECOND}.npy", "manifest.json"))
    whole, damaged = path.read_bytes(), bytearray(path.read_bytes())
    damaged[len(whole) // 2] ^= 0x40
    path.write_bytes(damaged)
    for options in (["--eval_cam_pass"], ["--cam_to_ir_label_pass", "--check"]):
        assert f"{path} is not a dict of arrays (damaged" in refused(*options)
    assert call("--make_recam_pass", "--eval_cam_pass")[0] == 0
    assert path.read_bytes() == whole
    assert f"{path}: is damaged; it is made again" in (result_dir / "run.log").read_text()
    manifest.write_text("{")
    for options in (["--eval_cam_pass"], ["--cam_to_ir_label_pass", "--check"]):
        assert f"{manifest}: is damaged" in refused(*options)


def test_a_list_that_was_written_or_changed_by_hand_is_never_replaced(call, refused, result_dir):
    path = result_dir / "lists" / "train_aug.txt"
    path.parent.mkdir(parents=True)
    path.write_text(f"{SECOND}\n")
    for more in ((), ("--check", "--overwrite")):
        assert "holds 1 .txt file and no manifest.json" in refused("--make_cam_pass", *more)
    path.unlink()
    assert call("--make_cam_pass")[0] == 0
    mine = path.with_name("mine.txt")
    mine.write_text(f"{SECOND}\n")
    path.write_text(f"{SECOND}\n")
    assert f"{path}: was changed since this program made it" in refused("--make_cam_pass")
    line = refused("--make_cam_pass", "--overwrite", "--skip_mismatched")
    assert f"{path}: was not made by this program, or was changed since" in line
    path.unlink()
    assert call("--make_cam_pass", "--overwrite", "--skip_mismatched")[0] == 0
    assert mine.read_text() == f"{SECOND}\n" and FIRST in path.read_text()


def test_check_writes_and_deletes_nothing(call, tmp_path, result_dir):
    before = checksums(tmp_path)
    for options in ([], ["--make_cam_pass", "--overwrite"]):
        assert call("--check", *options)[0] == 0
        assert checksums(tmp_path) == before and not result_dir.exists()
    assert call("--make_cam_pass")[0] == 0
    before = checksums(tmp_path)
    changed = ("--make_cam_pass", "--cam_scales", "1.0,0.5", "--skip_mismatched", "--overwrite")
    assert call("--check", *changed)[0] == 0
    assert checksums(tmp_path) == before and not (result_dir / LOCK).exists()


def test_a_second_run_in_a_folder_ends_before_it_writes(call, result_dir, monkeypatch):
    monkeypatch.setattr("misc.storage.files._PATIENCE", 0.0)
    folder = result_dir / "else" / "cam"
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, folder]
    with subprocess.Popen(command, cwd=PROJECT, stdout=PIPE) as first:
        assert first.stdout.readline() == b"held\n"
        before = checksums(result_dir)
        code, (line,), _ = call("--make_recam_pass", "--cam_out_dir", folder)
        assert code == 2 and str(folder) in line and checksums(result_dir) == before
        first.kill()
    assert call("--make_recam_pass", "--cam_out_dir", folder)[0] == 0
    assert load_cam(folder / f"{FIRST}.npy")["keys"].size and not list(result_dir.rglob(LOCK))
