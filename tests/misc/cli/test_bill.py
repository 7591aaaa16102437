import copy
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from misc.cli import bill, passes, speed
from misc.cli.costs import Operations, Rest
from misc.cli.options import STEPS, parse
from misc.cli.passes import Rates
from misc.cli.speed import Speed
from misc.runtime.processes import cpu_count
from net.resnet50_cam import CAM
from tests.conftest import THIN, TINY
from voc12.prepare import prepare


@pytest.fixture
def args(sample, classifier_file, tmp_path):
    """Options of a run on two images of the sample."""
    (tmp_path / "list.txt").write_text("2012_000001\n2012_000002\n")
    lists = [f"--{role}_list={tmp_path / 'list.txt'}" for role in ("train", "infer")]
    options = (*TINY, "--num_threads", "1", "--voc12_root", str(sample.root), *lists)
    options += ("--result_dir", str(tmp_path / "r"), "--imagenet_weights", str(classifier_file))
    return parse(options)


def changed(args, **values):
    """Options with other values; they are read-only."""
    other = copy.copy(args)
    other.__dict__.update(values)
    return other


@pytest.fixture(autouse=True)
def soon_measured(monkeypatch):
    monkeypatch.setattr(passes, "_SECONDS", 0.02)
    for name in ("_SECONDS", "_OTHERS"):
        monkeypatch.setattr(speed, name, 0.01)


def test_operations_are_those_of_the_passes(args):
    model, found = CAM(20, **THIN), Operations(args)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert sum(found.forward(64, 64)) == counter.get_total_flops() > 1e6
    frozen, trained = found.forward(64, 64)
    flops = found.of(["train_cam", "eval_cam", "make_cam"])
    flops |= found.of(["make_cam", "make_recam_with_RIB"])  # which makes both
    assert flops["train_cam"] == 2 * (frozen + 3 * trained) and "eval_cam" not in flops
    # The images are shrunk to 96; scale 0.5 has a quarter of scale 1.0, and so on.
    assert flops["make_cam"] / (2 * 2 * 7.5 * sum(found.forward(72, 96))) == pytest.approx(
        1, rel=0.2
    )
    assert flops["make_recam_with_RIB"] > 2 * flops["make_cam"]


def test_the_bill_is_said(args, sample, caplog):
    caplog.set_level("INFO")
    bill.say_bill(args, ["make_cam"])  # there are no labels, on which the size of maps depends
    assert "cannot be said: " in caplog.text
    prepare(sample, args.list_dir)
    steps = ["make_sem_seg_labels", "train_irn", "eval_sem_seg", "export_masks"]
    assert list(bill.say_bill(args, steps)) == steps[:-1]
    assert "GFLOP" in caplog.text and "no network" in caplog.text
    assert "by what cpu does now" in caplog.text and "free in" in caplog.text


@pytest.mark.parametrize(
    "seconds, text", [(3, "3 s"), (300, "5 min"), (36_000, "10 h"), (864_000, "10 days")]
)
def test_times_are_in_the_unit_that_suits_them(seconds, text):
    assert bill.duration(seconds) == text


class EverySecond:
    """A machine that takes a second for everything."""

    device = torch.device("cpu")
    read = crop = crf = walk = score = start = 1.0


def test_seconds_are_those_of_all_images(args, sample):
    prepare(sample, args.list_dir)
    found = Rest(Operations(args), EverySecond())
    pixels, classes = found.pixels, found.classes
    seconds = found.of(STEPS)
    assert seconds["train_cam"] == 2 * (1 + 1) / cpu_count()  # two images, read and cut
    crops = 2 * 2 * 2  # images, iterations, images of a batch; read beside what is computed
    assert seconds["make_recam_with_RIB"] == crops / cpu_count()
    assert seconds["cam_to_ir_label"] == 2 * (1 + pixels)  # four maps are filtered at once
    assert seconds["make_sem_seg_labels"] == pytest.approx(2 * (1 + pixels / 16 * classes))
    assert seconds["train_irn"] == (1 * 2 + 2) * (1 + 1) / cpu_count()
    assert seconds["make_seg"] > seconds["eval_seg"] > 0  # six filterings each
    assert "export_masks" not in seconds


def test_what_every_step_costs_is_known_or_little(args, sample):
    prepare(sample, args.list_dir)
    operations = Operations(args)
    flops = operations.of(STEPS)
    known = {*flops, *Rest(operations, EverySecond()).of(STEPS)}
    left = {"eval_ins_seg", "export_masks", "import_maps"}
    assert set(STEPS) - known == left | {"make_cam"}  # which RIB makes
    assert all(count > 0 for count in flops.values())
    assert flops["train_seg"] > 1000 * flops["make_seg"]  # 30,000 steps of ten crops


def test_speeds_are_measured(args, sample):
    speed = Speed(args, args.image_ids("infer")[0])
    names = ("read", "crop", "crf", "walk", "score")
    assert all(0 < getattr(speed, name) < 10 for name in names)


def test_rates_are_those_of_the_passes_of_every_step(args, sample, classifier_file):
    prepare(sample, args.list_dir)
    args = changed(args, seg_init=classifier_file, seg_crop_size=65)
    operations = Operations(args)
    rates = Rates(operations, Speed(args, args.image_ids("infer")[0]))
    flops = {**operations.of(STEPS), **operations.of(["make_cam"])}
    assert all(1e6 < rates.of(step) < 1e14 for step in flops)


def test_a_pass_of_a_large_network_is_timed_on_a_smaller_crop(args, monkeypatch):
    rates = Rates(Operations(args), EverySecond())
    monkeypatch.setattr(Rates, "_wanted", 100.0)
    assert rates._fitting(256, 8, 10.0) == (256, 8) and rates._fitting(256, 8, 40.0) == (256, 2)
    assert rates._fitting(256, 8, 400.0) == (128, 1)  # a quarter of the operations
    assert rates._fitting(256, 8, 1e9) == (64, 1) and rates._fitting(32, 8, 1e9) == (32, 1)


def test_several_processes_have_to_start(sample, args):
    prepare(sample, args.list_dir)
    found = Rest(Operations(changed(args, num_processes=2)), EverySecond())
    assert found.of(["make_recam_with_RIB"])["make_recam_with_RIB"] == 1 + 2 * 2 * 2 / cpu_count()


def test_only_what_is_left_is_expected(args, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    folder, file = tmp_path / "maps", tmp_path / "network.pth"
    step = {"a": SimpleNamespace(writes=lambda args: {"--folder": folder, "--name": file})}
    monkeypatch.setattr(bill, "say_bill", lambda args, steps: {"a": 10.0})
    assert bill.expectation(args, step) == {}  # two images are soon done
    monkeypatch.setattr(bill, "_WORTH_IMAGES", 1)
    assert bill.expectation(args, step) == {"a": 10.0}
    folder.mkdir()
    (folder / "2012_000001.npy").touch()
    assert bill.expectation(args, step) == {"a": 5.0} and "is there already" in caplog.text
    file.touch()
    assert bill.expectation(args, step) == {}


def test_expected_and_real_times_are_said_together(caplog):
    caplog.set_level("INFO")
    bill.say_kept({"train_cam": 60, "train_irn": 180}, {"train_cam": 70, "other": 3})
    assert caplog.messages == ["expected and real time: train_cam 60 s, 70 s; together 60 s, 70 s"]
    bill.say_kept({}, {"train_cam": 70})
    assert len(caplog.messages) == 1
