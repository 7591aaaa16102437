"""misc/runtime/training.py: the loop, its continuation, and when a checkpoint is trained again."""

import logging

import pytest
import torch
from torch.utils.data import Dataset

from misc.errors import UserError
from misc.runtime.training import (
    Training,
    check_batch,
    check_target,
    is_trained,
    save_trained,
    state_of,
    train,
)
from misc.storage.outputs import Output
from misc.storage.torch_files import write_torch
from misc.torchutils import PolyOptimizer
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net
from tests.conftest import THIN

OPTIONS = {"step": "train_cam", "seed": 0, "cam_long": [64, 96]}
OTHER = {**OPTIONS, "seed": 1}
INPUTS = {"labels": "abc"}
OTHER_SETTINGS = "cam.pth: was trained with .*seed is 0 there and 1 now.*--overwrite"


@pytest.fixture(autouse=True)
def saved_after_every_step(monkeypatch):
    monkeypatch.setattr("misc.runtime.training.CHECKPOINT_MINUTES", 0)


class Numbers(Dataset):
    """Item i of an epoch is (i, 100 epoch + i)."""

    image_ids = "abcdefghijkl"

    def __init__(self, length):
        self.length, self.epoch = length, None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor(float(index)), torch.tensor(100.0 * self.epoch + index)


class Number(torch.nn.Module):
    """One number, which is trained."""

    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, items):
        return (self.value - items).square().mean()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cam.pth"


def training(path, options=OPTIONS, inputs=INPUTS, **changes):
    values = {"name": "toy", "epochs": 3, "batch_size": 2, "seed": 0, "num_workers": 0}
    file = Output("--cam_weights_name", path, is_file=True)
    settings = {**options, "inputs": inputs}
    return Training(**{"file": file, "settings": settings, **values, **changes})


def assert_refused(job, words, options=OPTIONS):
    """By the check before a run and by the run."""
    calls = (lambda: check_target(job.file, options, job.overwrite), lambda: is_trained(job))
    for call in calls:
        with pytest.raises(UserError, match=words):
            call()


@pytest.fixture
def run(tmp_path):
    """Fits one number to the items; gives it, and the batches that were seen."""

    def call(dataset, lr=0.01, weight_decay=0.1, interrupt_at=None, nan_at=-1, **changes):
        model, seen = Number(), []

        def losses_of(network, batch, part):
            if len(seen) == interrupt_at:
                raise KeyboardInterrupt
            seen.append([part.clone() for part in batch])
            loss = part * network(batch[0])
            total = 2 * loss * torch.where(batch[0] == nan_at, torch.nan, 1.0).prod()
            return {"part": loss, "total": total}

        groups = [{"params": [model.value], "lr": lr, "weight_decay": weight_decay}]
        job = training(changes.pop("path", tmp_path / f"{len(list(tmp_path.iterdir()))}.pth"),
                       **changes)  # fmt: skip
        optimizer = PolyOptimizer(groups, lr, weight_decay, job.steps(len(dataset))[1])
        try:
            train(job, model, optimizer, dataset, losses_of)
        except KeyboardInterrupt:
            pass
        return model.value.item(), seen

    return call


def test_every_epoch_shows_each_item_once_and_drops_the_rest(run):
    _, seen = run(Numbers(5))
    assert len(seen) == 3 * 2 and all(len(batch[0]) == 2 for batch in seen)
    for epoch in range(3):
        items, values = (torch.cat(parts) for parts in zip(*seen[2 * epoch :][:2], strict=True))
        assert len(items.unique()) == 4 and torch.equal(values, 100 * epoch + items)
    assert [len(batch[0]) for batch in run(Numbers(3), batch_size=16)[1]] == [3, 3, 3]


def test_the_order_depends_on_seed_and_epoch_alone(run):
    def order(**changes):
        return [batch[0].tolist() for batch in run(Numbers(12), **changes)[1]]

    first = order(epochs=2)
    torch.rand(3)  # the global generator plays no part
    assert order(epochs=2) == first == order(epochs=3)[: len(first)]
    assert first[:6] != first[6:] and order(seed=1)[:6] != first[:6]


def test_gradients_of_micro_batches_are_summed(run):
    accumulated, seen = run(Numbers(8), batch_size=4, accumulate=4, epochs=1)
    assert len(seen) == 8
    whole, _ = run(Numbers(8), batch_size=4, epochs=1)
    assert accumulated == pytest.approx(whole, abs=1e-6)


def test_a_loss_that_is_not_finite_names_the_images_of_its_micro_batch(run, tmp_path):
    with pytest.raises(UserError, match=r"loss of step 1 .* not finite, with the images c; give"):
        run(Numbers(4), nan_at=2, batch_size=4, accumulate=4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", range(7))
def test_an_interrupted_training_ends_in_the_same_number(run, path, end):
    value, seen = run(Numbers(4), weight_decay=0.5)
    _, before = run(Numbers(4), 0.01, 0.5, end, path=path)
    resumed, after = run(Numbers(4), weight_decay=0.5, path=path)
    assert resumed == value  # to the last bit
    assert len(before) == end and len(seen) == 6
    for first, second in zip(seen, before + after, strict=True):
        assert all(map(torch.equal, first, second))
    # It was finished, but its checkpoint not yet written.
    assert run(Numbers(4), path=path) == (value, [])


def test_the_screen_shows_six_epochs_of_a_training_and_its_last(run, path, caplog):
    caplog.set_level(logging.DEBUG, logger="misc")
    run(Numbers(4), lr=1e-9, epochs=32, path=path)
    said = [r for r in caplog.records if " epoch " in r.message]
    shown = [r.args[1] for r in said if r.levelno == logging.INFO]
    assert len(said) == 32 and shown == [6, 12, 18, 24, 30, 32]


def test_random_draws_continue_where_they_were(run, path):
    class Draws(Numbers):
        def __getitem__(self, index):
            return torch.rand(()), torch.tensor(0.0)

    torch.manual_seed(5)
    value, _ = run(Draws(4))
    torch.manual_seed(5)
    run(Draws(4), interrupt_at=3, path=path)
    torch.manual_seed(6)
    assert run(Draws(4), path=path)[0] == value  # what was read and not used is drawn again


def test_a_state_of_other_settings_is_refused_or_left(run, path):
    run(Numbers(4), interrupt_at=3, path=path)
    file = training(path).file
    assert_refused(training(path, OTHER), OTHER_SETTINGS, OTHER)
    assert not check_target(file, OPTIONS, False) and not check_target(file, OTHER, True)
    assert len(run(Numbers(4), path=path, options=OTHER, overwrite=True)[1]) == 6


def test_a_state_of_another_network_is_refused_and_a_damaged_one_is_left(run, path):
    run(Numbers(4), interrupt_at=3, path=path)
    file = state_of(training(path).file).path
    state, whole = torch.load(file, weights_only=True), bytearray(file.read_bytes())
    write_torch(file, {**state, "model": {"other": torch.zeros(3)}})
    with pytest.raises(UserError, match="cam.partial.pth: is of another network .*remove it"):
        run(Numbers(4), path=path)
    whole[len(whole) // 2] ^= 1
    write_torch(file, {**state, "done": "three"})
    for content in (file.read_bytes(), whole):
        file.write_bytes(content)
        assert not check_target(training(path).file, OPTIONS, overwrite=False)
        assert len(run(Numbers(4), path=path)[1]) == 6


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", [b"mine", b""])
def test_a_file_of_the_user_in_the_place_of_the_state_stays(path, content, overwrite):
    job = training(path, overwrite=overwrite)
    state_of(job.file).path.write_bytes(content)
    assert_refused(job, "cam.partial.pth: was not made by this program")
    save_trained(job, Net(3, **THIN), save_checkpoint)  # that would end an unfinished training
    assert state_of(job.file).path.read_bytes() == content


def test_the_state_goes_when_the_checkpoint_is_there(path):
    job = training(path)
    for end in (lambda: save_trained(job, Net(3, **THIN), save_checkpoint), lambda: None):
        write_torch(state_of(job.file).path, {"done": 1})
        end()
        assert is_trained(job) and [file.name for file in path.parent.iterdir()] == ["cam.pth"]


def test_every_announced_rank_needs_a_part_of_each_batch(monkeypatch):
    check_batch("--cam_batch_size", 1, 9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    check_batch("--cam_batch_size", 3, 9)
    with pytest.raises(UserError, match="--cam_batch_size 2: .* 3 processes; give NPROC=2"):
        check_batch("--cam_batch_size", 2, 9)
    with pytest.raises(UserError, match="--cam_batch_size 8, of 2 images"):
        check_batch("--cam_batch_size", 8, 2)
    with pytest.raises(UserError, match="give NPROC=2"):  # micro-batches of 4, 4 and 2
        check_batch("--seg_batch_size", 10, 99, accumulate=3)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_checkpoint_is_kept_or_trained_again_by_its_settings(path, overwrite):
    file = training(path).file
    assert not check_target(file, OPTIONS, overwrite) and not is_trained(training(path))
    save_checkpoint(path, Net(3, **THIN), settings={**OPTIONS, "inputs": INPUTS})
    same = {**OPTIONS, "cam_long": (64, 96)}
    assert check_target(file, same, overwrite)  # the inputs may be made by then
    assert is_trained(training(path, same, overwrite=overwrite))
    for options, inputs, words in ((OTHER, INPUTS, OTHER_SETTINGS),
                                   (OPTIONS, {"labels": 1}, "labels is abc there")):  # fmt: skip
        if overwrite:
            assert not is_trained(training(path, options, inputs, overwrite=True))
        else:
            with pytest.raises(UserError, match=words):
                is_trained(training(path, options, inputs))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", [None, {"step": "train_irn"}, b"nothing", "a folder"])
def test_what_others_made_is_never_replaced(path, overwrite, content):
    words = "cam.pth: was not written by train_cam|cam.pth: is a folder|cam.pth cannot be read"
    if content == "a folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_checkpoint(path, Net(3, **THIN), settings=content)
    before = path.stat().st_mtime_ns
    assert_refused(training(path, overwrite=overwrite), words)
    assert path.stat().st_mtime_ns == before
