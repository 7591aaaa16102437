import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from misc.cli import bill
from misc.cli.bill import Bill
from misc.cli.options import parse
from net.resnet50_cam import CAM
from tests.conftest import THIN, TINY


@pytest.fixture
def args(sample, classifier_file, tmp_path):
    """Options of a run on two images of the sample."""
    (tmp_path / "list.txt").write_text("2012_000001\n2012_000002\n")
    lists = [f"--{role}_list={tmp_path / 'list.txt'}" for role in ("train", "infer")]
    return parse([*TINY, "--voc12_root", str(sample.root), "--result_dir", str(tmp_path / "r"),
                  "--imagenet_weights", str(classifier_file), *lists])  # fmt: skip


def test_operations_are_those_of_the_passes(args):
    model, found = CAM(20, **THIN), Bill(args)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert sum(found.forward(64, 64)) == counter.get_total_flops() > 1e6
    frozen, trained = found.forward(64, 64)
    flops = found.of(["train_cam", "eval_cam", "make_recam_with_RIB", "make_cam"])
    assert flops["train_cam"] == 2 * (frozen + 3 * trained) and "eval_cam" not in flops
    # The images are shrunk to 96; scale 0.5 has a quarter of scale 1.0, and so on.
    assert flops["make_cam"] / (2 * 2 * 7.5 * sum(found.forward(72, 96))) == pytest.approx(
        1, rel=0.2
    )
    assert flops["make_recam_with_RIB"] > 2 * flops["make_cam"]


def test_the_bill_is_said(args, caplog):
    caplog.set_level("INFO")
    bill.say_bill(args, ["make_sem_seg_labels", "train_irn"])
    assert "make_sem_seg_labels" in caplog.text and "GFLOP/s measured now on cpu" in caplog.text
    assert "free in" in caplog.text and not args.result_dir.exists()
    bill.say_bill(args, ["make_cam"])  # there are no labels, on which the size of maps depends
    assert "cannot be said: " in caplog.text


@pytest.mark.parametrize(
    "seconds, text", [(3, "3 s"), (300, "5 min"), (36_000, "10 h"), (864_000, "10 days")]
)
def test_times_are_in_the_unit_that_suits_them(seconds, text):
    assert bill.duration(seconds) == text
