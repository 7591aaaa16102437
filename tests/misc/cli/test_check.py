"""Checks before a run: what is looked at, how often, and what is said of it."""

import pickle
import shutil

import numpy as np
import pytest

from misc.cli import check
from misc.cli.check import Preflight, check_mask
from misc.cli.options import parse
from misc.errors import UserError
from misc.labels import save_label_png
from misc.storage.outputs import Output
from step import all_steps
from voc12.dataset import describe

IDS = tuple(f"2012_00000{n}" for n in range(1, 9))
NOWHERE = tuple(f"2012_3000{n}" for n in range(10, 40))  # 30 images that are not there


@pytest.fixture
def info(sample, tmp_path):
    """A copy of the drawn sample that may be spoilt."""
    shutil.copytree(sample.root, tmp_path / "voc")
    return describe(tmp_path / "voc")


@pytest.fixture
def begin(info, tmp_path):
    """Begins the checks of a run of the named steps."""

    def call(*planned, result_dir=tmp_path / "result"):
        return Preflight(
            parse(["--voc12_root", str(info.root), "--result_dir", str(result_dir)]),
            {name: all_steps()[name] for name in planned},
            all_steps(),
        )

    return call


def lines_of(checks):
    with pytest.raises(UserError) as raised:
        checks.finish()
    return str(raised.value).splitlines()


# --- what is said -------------------------------------------------------------------------------


def test_what_was_looked_at_is_counted(begin, caplog):
    checks = begin()
    with caplog.at_level("INFO"):
        checks.images(IDS)
        checks.masks(IDS[:3])
        checks.finish()
    assert "checked: 8 images, 3 masks; no problem (" in caplog.text


def test_nothing_to_look_at(begin, caplog):
    with caplog.at_level("INFO"):
        begin().finish()
    assert "checked: no file; no problem (" in caplog.text


def test_many_problems_of_a_kind(begin):
    checks = begin()
    checks.images((*IDS, *NOWHERE))
    checks.masks(NOWHERE[:5])
    lines = lines_of(checks)
    for image_id, line in zip(NOWHERE[:20], lines[:20], strict=True):
        assert f"{image_id}.jpg: no such image" in line
    assert lines[20] == "... and 10 more of this kind (image)"
    for image_id, line in zip(NOWHERE[:5], lines[21:26], strict=True):
        assert f"{image_id}.png: no ground truth mask" in line
    assert lines[26:] == ["35 problems: 30 images, 5 masks"]


def test_nothing_is_raised_before_the_end(begin, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "result" / "lists").mkdir(parents=True)
    (tmp_path / "result" / "lists" / "train_aug.txt").write_text("\n".join(IDS))
    checks = begin("make_cam")
    checks.classifier(tmp_path / "none.pth")
    checks.output(Output("--cam_out_dir", tmp_path / "file" / "below", suffix=".npy"), {})
    checks.cams(IDS + NOWHERE, checks.args.plain_cam_out_dir)
    checks.collect(lambda: checks.args.image_ids("eval"))
    checks.labels(IDS)
    *lines, count = lines_of(checks)
    expected = ("none.pth", "--cam_out_dir", "--infer_list", "train.txt", "cls_labels.npy")
    assert all(words in line for words, line in zip(expected, lines, strict=True))
    assert count == "5 problems: 1 checkpoint, 1 output, 1 list, 1 other, 1 label"


def test_a_broken_image_is_no_problem_of_its_mask(begin, info):
    for image_id in IDS[2:4]:
        info.image_path(image_id).unlink()
    checks = begin()
    checks.masks(IDS)
    checks.images(IDS)
    lines = lines_of(checks)
    assert f"{IDS[2]}.jpg: no such image" in lines[0]
    assert lines[2:] == ["2 problems: 2 images"]


# --- how often ----------------------------------------------------------------------------------


def test_each_file_is_looked_at_once(begin, tmp_path, monkeypatch):
    looked_at = []
    for name in ("check_image", "check_mask", "load_backbone", "load_labels"):
        monkeypatch.setattr(check, name, lambda *what, **_: looked_at.append(str(what[-1])))
    monkeypatch.setattr(check, "load_backbone", lambda path, *_: looked_at.append(str(path)))
    monkeypatch.setattr(check, "load_labels", lambda _, ids, info: looked_at.extend(ids))
    checks = begin()
    for ids in (IDS[:5], IDS[3:], IDS):
        checks.images(ids)
        checks.masks(ids)
        checks.labels(ids)
        checks.backbone(tmp_path / "weights.pth")
    checks.finish()
    assert sorted(looked_at) == sorted([*IDS, *IDS, *IDS, str(tmp_path / "weights.pth")])


def test_other_processes_find_the_same(begin, info, tmp_path, monkeypatch):
    """What goes to them and comes back can be pickled, and the chunks cover everything."""

    def through_pickle(work, chunks, processes):
        seen.append(processes)
        for chunk in chunks:
            work_there, chunk_there = pickle.loads(pickle.dumps((work, chunk)))
            yield pickle.loads(pickle.dumps(work_there(chunk_there)))

    seen = []
    monkeypatch.setattr(check, "map_in_processes", through_pickle)
    monkeypatch.setattr(check, "cpu_count", lambda: 3)
    info.mask_path(IDS[6]).write_bytes(b"nothing")

    def lines():
        checks = begin()
        checks.images(IDS)
        checks.masks(IDS)
        checks.cams(IDS, tmp_path)
        checks.label_maps(IDS, tmp_path)
        return lines_of(checks)

    alone = lines()
    monkeypatch.setattr(check, "_WORTH_PROCESSES", 8)
    monkeypatch.setattr(check, "_CHUNK", 7)
    assert lines() == alone and len(alone) == 18 and seen == [1, 3]


# --- single files -------------------------------------------------------------------------------


@pytest.mark.parametrize("highest, fits", [(0, True), (20, True), (21, False), (254, False)])
def test_values_of_a_mask(info, highest, fits):
    mask = np.full(info.image_size(IDS[0]), 255, dtype=np.uint8)
    save_label_png(info.mask_path(IDS[0]), mask)
    check_mask(info, IDS[0])  # "ignore" alone
    mask[1, 2] = highest
    save_label_png(info.mask_path(IDS[0]), mask)
    if fits:
        check_mask(info, IDS[0])
    else:
        with pytest.raises(UserError, match=f"has label {highest}, voc12 ends at 20"):
            check_mask(info, IDS[0])


def test_checks_make_no_folder(begin, tmp_path):
    (tmp_path / "there" / "lists").mkdir(parents=True)
    (tmp_path / "there" / "lists" / "train_aug.txt").write_text("\n".join(IDS))
    checks = begin(result_dir=tmp_path / "there")
    for path in (tmp_path / "there", tmp_path / "a" / "b"):
        checks.output(Output("--cam_out_dir", path, suffix=".npy"), {})
    checks.finish()
    assert (tmp_path / "there").is_dir() and not (tmp_path / "a").exists()


def test_under_check_masks_that_a_run_would_draw_need_not_be_there(tmp_path):
    (tmp_path / "annotations").mkdir()
    for more, lacking in (("--check", False), ("--limit=1", True)):
        args = parse(["--dataset", "coco14", f"--coco14_root={tmp_path}", more])
        checks = Preflight(args, {}, {})
        checks.masks(("COCO_train2014_000000000009",))
        if lacking:
            assert "no ground truth mask of COCO_train2014" in lines_of(checks)[0]
        else:
            checks.finish()
