"""misc/cli/check.py: what is looked at before a run, how often, and what is said of it."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from misc.cli import check
from misc.cli.check import Preflight, check_places, processes_to_start, say_disk
from misc.cli.options import build_parser, parse
from misc.cli.run import parts_of, written
from misc.data.folder import masks
from misc.data.folder.prepare import prepare
from misc.errors import UserError
from step import all_steps
from voc12.prepare import prepare as prepare_voc

IDS = tuple(f"2012_00000{n}" for n in range(1, 9))


def test_each_file_is_looked_at_once_also_by_other_processes(info, tmp_path, monkeypatch):
    def through_pickle(work, items, processes):
        seen.append((processes, len(items)))
        return map(pickle.loads(pickle.dumps(work)), items)

    seen, args = [], parse(["--voc12_root", str(info.root), "--result_dir", str(tmp_path / "r")])
    monkeypatch.setattr(check, "map_in_processes", through_pickle)
    monkeypatch.setattr(check, "cpu_count", lambda: 3)
    for image_id in IDS[2:4]:
        info.image_path(image_id).unlink()  # is no problem of its mask as well
    info.mask_path(IDS[6]).write_bytes(b"nothing")

    def lines():
        checks = Preflight(args, {}, all_steps())
        for ids in (IDS[:5], IDS[3:], IDS):
            checks.masks(ids)
            checks.images(ids)
            checks.cams(ids, tmp_path)
            checks.label_maps(ids, tmp_path)
        with pytest.raises(UserError) as raised:
            checks.finish()
        return str(raised.value).splitlines()

    alone = lines()
    monkeypatch.setattr(check, "_WORTH_PROCESSES", 8)
    assert lines() == alone and seen == [(1, 32), (3, 32)]
    assert f"{IDS[2]}.jpg: no such image" in alone[0]
    assert alone[-1].startswith("19 problems: 2 images, 1 mask, 8 maps")


def test_the_disk_that_maps_need_is_compared_with_what_is_free(
    sample, tmp_path, caplog, monkeypatch
):
    caplog.set_level("INFO")
    (tmp_path / "list.txt").write_text("2012_000001\n")
    words = ["--voc12_root", sample.root, "--infer_list", tmp_path / "list.txt", "--device", "cpu"]
    args = parse([*map(str, words), "--result_dir", str(tmp_path / "new" / "r")])
    say_disk(args, ["train_irn", "eval_sem_seg"])
    assert not caplog.records
    say_disk(args, ["make_cam"])  # labels are missing, which ends no check
    assert "cannot be estimated: " in caplog.text
    prepare_voc(sample, args.list_dir)
    say_disk(args, ["train_cam", "make_cam", "make_recam_with_RIB"])
    one = caplog.records[-1]
    assert one.levelname == "INFO" and one.getMessage().startswith("maps need about 0.00 GB")
    monkeypatch.setattr(check.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    say_disk(args, ["make_cam"])
    assert caplog.records[-1].levelname == "WARNING"


PATHS = {action.dest for action in build_parser()._actions if action.type is Path}
PATHS -= {"result_dir", "root", "voc12_root", "coco14_root"}
OF_PHOTOGRAPHS = ("labels", "classes", "masks", "val_list")


@pytest.fixture
def project(tmp_path):
    """A folder as a user has it: photographs, their labels and masks side by side."""
    for name, mode, suffix in (("photos", "RGB", "jpg"), ("masks", "L", "png")):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new(mode, (32, 24)).save(tmp_path / name / f"{number}.{suffix}")
    rows = [f"{number}.jpg,{'cat' if number else 'dog'}" for number in range(3)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


def words(project, *more):
    given = ("--dataset", "folder", "--root", project / "photos", "--labels")
    return [*given, project / "labels.csv", *more]


def places_of(argv, *steps):
    """Options of a run of these steps, and where it writes."""
    args = parse([*map(str, argv), *(f"--{name}_pass" for name in steps)])
    return args, written(args, parts_of(args, all_steps()))


def refusal(argv, *steps):
    with pytest.raises(UserError) as error:
        check_places(*places_of(argv, *steps))
    return str(error.value)


@pytest.mark.parametrize("gpus, words, processes", [
    (1, "", 1), (2, "", 2), (5, "", 5), (8, "--irn_batch_size 4", 4), (5, "--limit 3", 3),
    (2, "--device cuda:1", 1), (2, "--device cpu", 1), (2, "--report", 1),
    (8, "--irn_batch_size 4 --make_cam_pass", 8), (8, "--train_list LIST", 2),
    (8, "--train_seg_pass --seg_preset clims --seg_batch_size 9", 4),
])  # fmt: skip
def test_a_script_starts_as_many_processes_as_have_something_to_do(
    monkeypatch, tmp_path, gpus, words, processes
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    (tmp_path / "LIST").write_text("2007_000001\n2007_000002\n")
    words = words.replace("LIST", str(tmp_path / "LIST")).split()
    assert processes_to_start(parse([*words, "--result_dir", str(tmp_path)])) == processes


@pytest.mark.parametrize("name", sorted(PATHS))
def test_no_output_goes_over_what_an_option_names(project, name):
    files = {"classes": "classes.txt", "labels": "labels.csv"}
    place = project / files.get(name, "masks")
    given = words(project) if name in OF_PHOTOGRAPHS else []
    argv = [*given, f"--{name}", place, "--visualize", "1"]
    other = "seg_submission" if name == "ins_seg_json" else "ins_seg_json"
    said = refusal([*argv, f"--{other}", place], "eval_ins_seg", "export_masks", "make_seg")
    assert str(place) in said and f"--{other}" in said and f"--{name}" in said


@pytest.mark.parametrize("over", ["labels.csv", "masks/0.png", "photos/0.jpg", "photos/new.json"])
def test_no_file_that_is_named_goes_over_what_is_read(project, over):
    argv = words(project, "--masks", project / "masks", "--seg_submission", project / over)
    assert refusal(argv, "make_seg").startswith(f"--seg_submission {project / over}: ")


def test_masks_of_the_user_are_not_those_of_the_run(project):
    argv = words(project, "--masks", project / "masks", "--result_dir", project)
    line = refusal(argv, "make_sem_seg_labels")
    assert line == f"--result_dir {project / 'masks'}: is the folder of --masks; give another place"
    check_places(*places_of(argv, "make_cam"))  # this one makes none


def test_what_the_steps_hand_to_each_other_is_no_input_of_the_user(tmp_path):
    place = tmp_path / "sem_seg"
    argv = ["--sem_seg_out_dir", place, "--seg_label_dir", place, "--export_from", place]
    argv += ["--train_list", tmp_path / "lists" / "train_aug.txt", "--result_dir", tmp_path]
    args, outputs = places_of(argv, "make_sem_seg_labels", "train_seg", "export_masks")
    assert args.brought == ()
    check_places(args, outputs)


def test_an_unfinished_training_has_a_place_of_its_own(tmp_path):
    argv = ["--cam_weights_name", tmp_path / "a.pth", "--irn_weights_name"]
    line = refusal([*argv, tmp_path / "a.partial.pth"], "train_cam", "train_irn")
    assert line.endswith("a.partial.pth: is written by --cam_weights_name too; give another one")


def test_three_photographs_never_share_two_masks(project):
    for path in (project / "photos").iterdir():
        path.unlink()
    for name in ("a.jpg", "a.png", "a.jpg.png"):
        Image.new("RGB", (32, 24)).save(project / "photos" / name)
    (project / "labels.csv").write_text("image,label\na.jpg,cat\na.png,dog\na.jpg.png,cat\n")
    args = parse([str(word) for word in words(project, "--result_dir", project / "r")])
    prepare(args.info, args.list_dir)
    with pytest.raises(UserError, match="would both be written to .*a.jpg.png; rename one"):
        masks.check(args)
