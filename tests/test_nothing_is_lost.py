"""The program deletes only what it made: runs that were ordered to destroy what others made."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from misc.cams import load_cam
from misc.labels import read_label_png
from misc.storage.files import LOCK, locked
from misc.storage.manifest import read_manifest
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net
from tests.conftest import THIN
from tests.tools.fault_runs import digests
from voc12.dataset import describe

FIRST, SECOND = "2012_000001", "2012_000002"


@pytest.fixture
def info(sample, tmp_path):
    """A copy of the drawn sample that may be spoilt."""
    shutil.copytree(sample.root, tmp_path / "voc")
    return describe(tmp_path / "voc")


@pytest.fixture
def result_dir(tmp_path):
    return tmp_path / "result"


@pytest.fixture
def call(info, result_dir, classifier_file, tiny_run, capsys):
    """Runs on the copied sample: exit code and lines of stderr that name a problem."""

    def run(*options):
        capsys.readouterr()
        given = ("--voc12_root", info.root, "--result_dir", result_dir, "--limit", 2)
        given += ("--cam_weights_name", classifier_file, "--imagenet_weights", classifier_file)
        code = tiny_run(*given, *options)
        lines = capsys.readouterr().err.splitlines()
        return code, [line for line in lines if line.startswith("error: ")]

    return run


@pytest.fixture
def refused(call, info, tmp_path):
    """The line of a refusal, after which every file is as it was, and only lists are new."""

    def run(*options):
        before = digests(tmp_path)
        code, (line,) = call(*options)
        after = digests(tmp_path)
        assert code == 2 and {name: after.get(name) for name in before} == before
        assert all(name.startswith("result/lists/") for name in after.keys() - before.keys())
        return line

    return run


# --- the dataset and other inputs ---------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
@pytest.mark.parametrize(
    "flag, folder",
    [
        ("--ir_label_out_dir", "SegmentationClassAug"),
        ("--sem_seg_out_dir", "SegmentationClass"),
        ("--cam_out_dir", "JPEGImages"),
        ("--plain_cam_out_dir", "."),
        ("--result_dir", "result"),
    ],
)
def test_no_output_goes_into_the_dataset(refused, info, flag, folder, overwrite):
    line = refused(flag, info.root / folder, *overwrite)
    assert f"{flag} {info.root / folder}: lies in the dataset's folder" in line


def test_no_output_replaces_an_input(refused, tmp_path):
    listed = tmp_path / "mine.txt"
    listed.write_text(f"{FIRST}\n{SECOND}\n")
    given = ("--infer_list", listed, "--cam_weights_name", listed, "--overwrite")
    line = refused("--train_cam_pass", *given)
    assert f"--cam_weights_name {listed}: is the file of --infer_list" in line


def test_a_link_into_the_dataset_is_followed(refused, info, tmp_path):
    (tmp_path / "out").symlink_to(info.root / "SegmentationClassAug")
    line = refused("--ir_label_out_dir", tmp_path / "out", "--overwrite")
    assert "lies in the dataset's folder" in line


def test_masks_of_another_program_are_not_removed(refused, info, tmp_path):
    shutil.copytree(info.root / "SegmentationClassAug", tmp_path / "masks")
    line = refused("--ir_label_out_dir", tmp_path / "masks", "--overwrite")
    assert ".png files and no manifest.json" in line and "--overwrite" not in line


def test_published_weights_are_not_replaced(refused, tmp_path):
    save_checkpoint(tmp_path / "published.pth", Net(20, **THIN))
    for more in ((), ("--overwrite",)):
        line = refused("--train_cam_pass", "--cam_weights_name", tmp_path / "published.pth", *more)
        assert "published.pth: was not written by train_cam" in line and "overwrite" not in line


# --- what stands in an output folder ------------------------------------------------------------


def test_overwrite_redoes_own_files_and_leaves_others(call, result_dir):
    assert call("--make_cam_pass")[0] == 0
    maps = result_dir / "cam_plain"
    np.save(maps / "mine.npy", np.arange(3))
    (maps / "notes.txt").write_text("mine")
    before = digests(maps)
    assert call("--make_cam_pass", "--cam_scales", "1.0,0.5", "--overwrite")[0] == 0
    after = digests(maps)
    kept = {name for name in before if after[name] == before[name]}
    assert kept == {"mine.npy", "notes.txt"} and set(after) == set(before)
    assert "2 files removed, made with other settings" in (result_dir / "run.log").read_text()


def test_a_mask_that_was_corrected_by_hand_stays(call, refused, result_dir, boundary_file):
    passes = ("--make_recam_pass", "--make_sem_seg_pass", "--irn_weights_name", boundary_file)
    assert call(*passes)[0] == 0
    path = result_dir / "sem_seg" / f"{FIRST}.png"
    Image.fromarray(np.zeros_like(read_label_png(path))).save(path)
    line = refused(*passes)
    assert f"{path}: was not made by this program, or was changed since" in line


def test_a_picture_of_others_stays_be_it_readable_or_not(call, refused, result_dir):
    assert call("--make_cam_pass", "--visualize", 1)[0] == 0
    path = result_dir / "visualize" / f"{FIRST}.png"
    path.write_bytes(path.read_bytes()[:100])
    for _ in range(2):
        line = refused("--make_cam_pass", "--visualize", 1)
        assert f"{path}: was not made by this program" in line
        Image.new("RGB", (3, 3)).save(path)


def test_a_flipped_byte_in_a_map_is_found_by_every_reader(call, refused, result_dir):
    assert call("--make_recam_pass")[0] == 0
    path = result_dir / "cam" / f"{SECOND}.npy"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0x40
    path.write_bytes(damaged)
    for name in ("eval_cam", "cam_to_ir_label"):
        for more in ((), ("--check",)):
            line = refused(f"--{name}_pass", *more)
            assert f"{path} is not a dict of arrays (damaged" in line
    assert call("--make_recam_pass", "--eval_cam_pass")[0] == 0
    assert path.read_bytes() == whole
    assert f"{path}: is damaged; it is made again" in (result_dir / "run.log").read_text()


def test_two_outputs_in_one_place_are_found_before_the_run(refused, result_dir):
    both = ("--make_cam_pass", "--make_recam_pass", "--check", "--cam_out_dir")
    line = refused(*both, result_dir / "cam_plain")
    assert "is written by --plain_cam_out_dir too" in line
    both = ("--cam_to_ir_label_pass", "--make_sem_seg_pass", "--check", "--ir_label_out_dir")
    line = refused(*both, result_dir / "sem_seg" / "palette")
    assert "is written by --ir_label_out_dir too" in line


def test_a_damaged_manifest_of_an_input_is_found_by_the_check(call, refused, result_dir):
    assert call("--make_recam_pass")[0] == 0
    (result_dir / "cam" / "manifest.json").write_text("{")
    for options in (["--cam_to_ir_label_pass", "--check"], ["--eval_cam_pass"]):
        assert f"{result_dir / 'cam' / 'manifest.json'}: is damaged" in refused(*options)


# --- lists --------------------------------------------------------------------------------------


def test_a_hand_written_list_is_never_replaced(call, refused, info, result_dir):
    path = result_dir / "lists" / "train_aug.txt"
    path.parent.mkdir(parents=True)
    path.write_text(f"{SECOND}\n")
    for more in ((), ("--overwrite",), ("--check", "--overwrite")):
        assert "holds 1 .txt file and no manifest.json" in refused("--make_cam_pass", *more)
    path.unlink()
    assert call("--make_cam_pass")[0] == 0
    mine = path.with_name("mine.txt")
    mine.write_text(f"{SECOND}\n")
    path.write_text(f"{SECOND}\n")
    line = refused("--make_cam_pass", "--overwrite", "--skip_mismatched")
    assert f"{path}: was not made by this program, or was changed since" in line
    path.unlink()
    assert call("--make_cam_pass", "--overwrite", "--skip_mismatched")[0] == 0
    assert mine.read_text() == f"{SECOND}\n" and FIRST in path.read_text()


def test_a_list_of_ours_that_was_changed_is_named(call, refused, result_dir):
    assert call("--make_cam_pass")[0] == 0
    path = result_dir / "lists" / "train_aug.txt"
    path.write_text(path.read_text().replace(f"{FIRST}\n", ""))
    assert f"{path}: was changed since this program made it" in refused("--make_cam_pass")


# --- --check ------------------------------------------------------------------------------------


def test_check_writes_and_deletes_nothing(call, tmp_path, result_dir):
    before = digests(tmp_path)
    for options in ([], ["--overwrite"], ["--make_cam_pass"]):
        assert call("--check", *options)[0] == 0
        assert digests(tmp_path) == before and not result_dir.exists()
    assert call("--make_cam_pass")[0] == 0
    before = digests(tmp_path)
    changed = ("--make_cam_pass", "--cam_scales", "1.0,0.5", "--skip_mismatched", "--overwrite")
    assert call("--check", *changed)[0] == 0
    assert digests(tmp_path) == before
    assert not (result_dir / LOCK).exists()


def test_check_names_lists_by_the_place_where_a_run_would_make_them(call, info, result_dir):
    (info.root / "ImageSets" / "Segmentation" / "train.txt").write_text("2012_000099\n")
    code, lines = call("--check", "--make_cam_pass")
    assert code == 2 and all("/tmp" not in line.replace(str(info.root), "") for line in lines)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_sees_a_folder_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    line = refused("--check", "--make_cam_pass", "--plain_cam_out_dir", tmp_path / "locked" / "x")
    assert "cannot be written" in line


# --- two runs at once ---------------------------------------------------------------------------


def test_a_second_run_in_a_folder_ends_before_it_writes(
    tiny_run, info, result_dir, classifier_file, capsys, monkeypatch
):
    """In this process, where locks of the system would not show: they belong to processes."""
    held = []

    def hold(folders):
        held.extend(folders)
        return locked(folders)

    monkeypatch.setattr("misc.cli.places.locked", hold)
    given = ("--voc12_root", info.root, "--result_dir", result_dir, "--limit", 1)
    given += ("--cam_weights_name", classifier_file, "--cam_out_dir", result_dir / "else" / "cam")
    assert tiny_run(*given, "--make_recam_pass") == 0
    assert set(held) >= {result_dir, result_dir / "lists", result_dir / "else" / "cam"}
    assert not list(result_dir.rglob(LOCK))
    assert read_manifest(result_dir / "else" / "cam")["step"] == "make_recam_with_RIB"
    assert load_cam(result_dir / "else" / "cam" / f"{FIRST}.npy")["keys"].size
