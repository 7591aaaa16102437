from types import SimpleNamespace

import pytest

from misc.cli import disk
from misc.cli.options import parse
from tests.conftest import TINY
from voc12.prepare import prepare


@pytest.fixture
def args(sample, classifier_file, tmp_path):
    """Options of a run on two images of the sample."""
    (tmp_path / "list.txt").write_text("2012_000001\n2012_000002\n")
    lists = [f"--{role}_list={tmp_path / 'list.txt'}" for role in ("train", "infer")]
    options = (*TINY, "--voc12_root", str(sample.root), *lists)
    return parse((*options, "--result_dir", str(tmp_path / "new" / "r")))


def test_the_disk_that_maps_need_is_compared_with_what_is_free(args, sample, caplog, monkeypatch):
    caplog.set_level("INFO")
    prepare(sample, args.list_dir)
    disk.say_disk(args, ["train_cam", "make_cam", "make_recam_with_RIB"])
    one = caplog.records[-1]
    assert one.levelname == "INFO" and one.getMessage().startswith("maps need about ")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    disk.say_disk(args, ["make_cam"])
    assert caplog.records[-1].levelname == "WARNING"


def test_the_size_of_maps_follows_from_classes_and_photographs(args, sample):
    prepare(sample, args.list_dir)
    height, width = sample.image_size("2012_000001")
    one_class = 4 * (1 + 1 / 16) * height * width
    assert one_class <= disk._bytes_of_image(args) <= 4 * one_class


def test_steps_without_maps_need_no_estimate_and_missing_labels_end_no_check(args, caplog):
    caplog.set_level("INFO")
    disk.say_disk(args, ["train_irn", "eval_sem_seg"])
    assert not caplog.records
    disk.say_disk(args, ["make_cam"])
    assert "cannot be estimated: " in caplog.text
