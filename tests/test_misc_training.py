"""misc/training.py: the loop, and when a checkpoint is trained again."""

import logging

import pytest
import torch
from torch.utils.data import Dataset

from misc.errors import UserError
from misc.torchutils import PolyOptimizer
from misc.training import CheckpointFile, Schedule, check_target, is_trained, train
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net
from tests.conftest import THIN

OPTIONS = {"step": "train_cam", "seed": 0, "cam_long": [64, 96]}
SETTINGS = {**OPTIONS, "inputs": {"labels": "abc"}}


class Numbers(Dataset):
    """Item i of an epoch is (i, 100 epoch + i); remembers what was asked."""

    def __init__(self, length):
        self.length, self.epoch, self.asked = length, None, []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.asked.append((self.epoch, index))
        return torch.tensor(float(index)), torch.tensor(100.0 * self.epoch + index)


def schedule(**changes):
    values = {"name": "toy", "epochs": 3, "batch_size": 2, "seed": 0, "num_workers": 0}
    return Schedule(**{**values, **changes})


def run(dataset, lr=0.01, weight_decay=0.1, **changes):
    """Fits one number to the items; gives it, and the batches that were seen."""
    number = torch.nn.Parameter(torch.tensor(1.0))
    seen = []

    def losses_of(batch):
        seen.append([part.clone() for part in batch])
        part = (number - batch[0]).square().mean()
        return {"part": part, "total": 2 * part}

    groups = [{"params": [number], "lr": lr, "weight_decay": weight_decay}]
    train(dataset, schedule(**changes), groups, losses_of)
    return number.item(), seen


def test_every_epoch_shows_each_item_once_and_drops_the_rest():
    dataset = Numbers(5)
    _, seen = run(dataset)
    assert len(seen) == 3 * 2 and all(len(batch[0]) == 2 for batch in seen)
    for epoch in range(3):
        items = [i for batch in seen[2 * epoch : 2 * epoch + 2] for i in batch[0].tolist()]
        assert len(set(items)) == 4
        values = [v for batch in seen[2 * epoch : 2 * epoch + 2] for v in batch[1].tolist()]
        assert values == [100 * epoch + i for i in items]


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(**changes):
        return [batch[0].tolist() for batch in run(Numbers(12), **changes)[1]]

    first = order(epochs=2)
    torch.rand(3)  # the global generator plays no part
    assert order(epochs=2) == first == order(epochs=3)[: len(first)]
    assert first[:6] != first[6:] and order(seed=1)[:6] != first[:6]


def test_the_updates_are_those_of_the_optimiser():
    value, seen = run(Numbers(6), lr=0.02, weight_decay=0.1)
    number = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = PolyOptimizer([number], lr=0.02, weight_decay=0.1, max_step=9)
    for items, _ in seen:
        optimizer.zero_grad()
        (2 * (number - items).square().mean()).backward()
        optimizer.step()
    assert len(seen) == 9 and value == pytest.approx(number.item(), abs=1e-7)


def test_fewer_items_than_a_batch_make_one_batch():
    _, seen = run(Numbers(3), batch_size=16)
    assert [len(batch[0]) for batch in seen] == [3, 3, 3]


def test_mean_losses_of_an_epoch_are_logged(caplog):
    caplog.set_level(logging.INFO)
    run(Numbers(4), lr=1e-9, epochs=1)
    # Items 0..3 and the number 1: squares 1, 0, 1, 4.
    assert "toy: epoch 1 of 1, mean losses: part 1.5000, total 3.0000" in caplog.text


# --- checkpoints --------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    return CheckpointFile("--cam_weights_name", tmp_path / "new" / "cam.pth")


@pytest.fixture
def trained_file(file):
    save_checkpoint(file.path, Net(3, **THIN), settings=SETTINGS)
    return file


def test_a_new_checkpoint_may_be_written(file):
    check_target(file, OPTIONS, overwrite=False)
    assert file.path.parent.is_dir() and not is_trained(file, SETTINGS, overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_checkpoint_of_the_same_settings_is_kept(trained_file, overwrite):
    check_target(trained_file, {**OPTIONS, "cam_long": (64, 96)}, overwrite)
    assert is_trained(trained_file, {**SETTINGS, "cam_long": (64, 96)}, overwrite)


def test_a_checkpoint_of_other_options_is_refused_early(trained_file):
    words = (
        "--cam_weights_name .*cam.pth: was trained with .*seed is 0 there and 1 now.*--overwrite"
    )
    with pytest.raises(UserError, match=words):
        check_target(trained_file, {**OPTIONS, "seed": 1}, overwrite=False)
    with pytest.raises(UserError, match=words):
        is_trained(trained_file, {**SETTINGS, "seed": 1}, overwrite=False)
    check_target(trained_file, {**OPTIONS, "seed": 1}, overwrite=True)
    assert not is_trained(trained_file, {**SETTINGS, "seed": 1}, overwrite=True)


def test_a_checkpoint_of_other_inputs_is_refused(trained_file):
    check_target(trained_file, OPTIONS, overwrite=False)  # inputs may be made by then
    with pytest.raises(UserError, match="labels is abc there and xyz now"):
        is_trained(trained_file, {**OPTIONS, "inputs": {"labels": "xyz"}}, overwrite=False)


def test_a_checkpoint_of_another_origin_is_refused(file):
    save_checkpoint(file.path, Net(3, **THIN))
    with pytest.raises(UserError, match="cam.pth: says not how it was trained; .*--overwrite"):
        check_target(file, OPTIONS, overwrite=False)
    assert not is_trained(file, SETTINGS, overwrite=True)


def test_a_damaged_checkpoint_can_be_trained_again(trained_file):
    trained_file.path.write_bytes(b"nothing")
    for check in (check_target, is_trained):
        with pytest.raises(UserError, match="cam.pth cannot be read as network weights"):
            check(trained_file, SETTINGS, overwrite=False)
    check_target(trained_file, OPTIONS, overwrite=True)
    assert not is_trained(trained_file, SETTINGS, overwrite=True)


def test_a_folder_cannot_be_a_checkpoint(file):
    file.path.mkdir(parents=True)
    with pytest.raises(UserError, match="cam.pth: is a folder"):
        check_target(file, OPTIONS, overwrite=True)
