"""misc/runtime/training.py: the loop, its continuation, and when a checkpoint is trained again."""

import logging
from collections import Counter

import pytest
import torch
from torch.utils.data import Dataset

from misc.errors import UserError
from misc.runtime import distributed
from misc.runtime.training import (
    Training,
    check_batch,
    check_target,
    is_trained,
    save_trained,
    state_of,
    train,
)
from misc.storage.manifest import settings_of
from misc.storage.outputs import Output
from misc.storage.torch_files import write_torch
from misc.torchutils import PolyOptimizer
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net
from tests.conftest import THIN

OPTIONS = {"step": "train_cam", "seed": 0, "cam_long": [64, 96]}
INPUTS = {"labels": "abc"}


@pytest.fixture(autouse=True)
def saved_after_every_step(monkeypatch):
    monkeypatch.setattr("misc.runtime.training.CHECKPOINT_MINUTES", 0)


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


def training(path, options=OPTIONS, inputs=INPUTS, **changes):
    values = {"name": "toy", "epochs": 3, "batch_size": 2, "seed": 0, "num_workers": 0}
    file = Output("--cam_weights_name", path, is_file=True)
    settings = settings_of(options, inputs)
    return Training(**{"file": file, "settings": settings, **values, **changes})


class Number(torch.nn.Module):
    """What is trained: one number."""

    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, items):
        return (self.value - items).square().mean()


@pytest.fixture
def run(tmp_path):
    """Fits one number to the items; gives it, and the batches that were seen."""

    def call(dataset, lr=0.01, weight_decay=0.1, interrupt_at=None, **changes):
        model, seen = Number(), []

        def losses_of(network, batch, part):
            if len(seen) == interrupt_at:
                raise KeyboardInterrupt
            assert part == 1
            seen.append([part.clone() for part in batch])
            loss = network(batch[0])
            return {"part": loss, "total": 2 * loss}

        groups = [{"params": [model.value], "lr": lr, "weight_decay": weight_decay}]
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.pth"
        job = training(changes.pop("path", path), **changes)
        try:
            optimizer = PolyOptimizer(groups, lr, weight_decay, job.steps(len(dataset))[1])
            train(job, model, optimizer, dataset, losses_of)
        except KeyboardInterrupt:
            pass
        return model.value.item(), seen

    return call


def test_every_epoch_shows_each_item_once_and_drops_the_rest(run):
    dataset = Numbers(5)
    _, seen = run(dataset)
    assert len(seen) == 3 * 2 and all(len(batch[0]) == 2 for batch in seen)
    for epoch in range(3):
        items = [i for batch in seen[2 * epoch : 2 * epoch + 2] for i in batch[0].tolist()]
        assert len(set(items)) == 4
        values = [v for batch in seen[2 * epoch : 2 * epoch + 2] for v in batch[1].tolist()]
        assert values == [100 * epoch + i for i in items]


def test_the_order_depends_on_seed_and_epoch_alone(run):
    def order(**changes):
        return [batch[0].tolist() for batch in run(Numbers(12), **changes)[1]]

    first = order(epochs=2)
    torch.rand(3)  # the global generator plays no part
    assert order(epochs=2) == first == order(epochs=3)[: len(first)]
    assert first[:6] != first[6:] and order(seed=1)[:6] != first[:6]


def test_the_updates_are_those_of_the_optimiser(run):
    value, seen = run(Numbers(6), lr=0.02, weight_decay=0.1)
    number = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = PolyOptimizer([number], lr=0.02, weight_decay=0.1, max_step=9)
    for items, _ in seen:
        optimizer.zero_grad()
        (2 * (number - items).square().mean()).backward()
        optimizer.step()
    assert len(seen) == 9 and value == pytest.approx(number.item(), abs=1e-7)


@pytest.fixture
def reductions(monkeypatch):
    """Counts what ranks would add up: "gradients" of the one bucket, and "losses"."""
    counts = Counter()

    def parallel(model):
        network = torch.nn.parallel.DistributedDataParallel(model)

        def hook(state, bucket):
            counts["gradients"] += 1
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        network.register_comm_hook(None, hook)
        return network

    def summed(values):
        counts["losses"] += 1
        return values

    monkeypatch.setattr(distributed, "data_parallel", parallel)
    monkeypatch.setattr(distributed, "summed", summed)
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield counts
    torch.distributed.destroy_process_group()


def test_ranks_add_up_once_for_each_step_however_many_batches_it_has(reductions, tmp_path):
    model, dataset = Number(), Numbers(8)
    job = training(tmp_path / "a.pth", batch_size=4, accumulate=4, epochs=1)

    def losses_of(network, batch, part):
        return {"total": part * network(batch[0])}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(job, model, optimizer, dataset, losses_of)
    assert reductions == {"gradients": 2, "losses": 2}
    whole = Number()
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.01)
    job = training(tmp_path / "b.pth", batch_size=4, epochs=1)
    train(job, whole, optimizer, dataset, losses_of)
    assert model.value.item() == pytest.approx(whole.value.item(), abs=1e-6)


def test_a_loss_that_is_not_finite_names_the_images_of_its_batch(tmp_path):
    class Named(Numbers):
        image_ids = ("a", "b", "c", "d")

    def losses_of(network, batch, part):
        wrong = torch.where(batch[0] == 2, torch.nan, 1.0).prod()
        return {"total": part * network(batch[0]) * wrong}

    model = Number()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    job = training(tmp_path / "a.pth", batch_size=4, accumulate=4)
    with pytest.raises(UserError, match=r"loss of step 1 .* not finite, with the images c; give"):
        train(job, model, optimizer, Named(4), losses_of)
    assert model.value.item() == 1 and not list(tmp_path.iterdir())


def test_fewer_items_than_a_batch_make_one_batch(run):
    _, seen = run(Numbers(3), batch_size=16)
    assert [len(batch[0]) for batch in seen] == [3, 3, 3]


def test_mean_losses_of_an_epoch_are_logged(run, caplog):
    caplog.set_level(logging.INFO)
    run(Numbers(4), lr=1e-9, epochs=1)
    # Items 0..3 and the number 1: squares 1, 0, 1, 4.
    assert "toy: epoch 1 of 1, mean losses: part 1.5000, total 3.0000" in caplog.text


# --- continuation -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", range(7))
def test_an_interrupted_training_goes_on_the_same_way(run, tmp_path, end):
    path = tmp_path / "cam.pth"
    value, seen = run(Numbers(4), weight_decay=0.5)
    _, before = run(Numbers(4), 0.01, 0.5, end, path=path)
    resumed, after = run(Numbers(4), weight_decay=0.5, path=path)
    assert resumed == value  # to the last bit
    assert len(before) == end and len(seen) == 6
    for first, second in zip(seen, before + after, strict=True):
        assert all(map(torch.equal, first, second))
    again, nothing = run(Numbers(4), path=path)
    assert again == value and not nothing  # it was finished, but its checkpoint not yet written


def test_mean_losses_count_the_steps_before_the_interruption(run, tmp_path, caplog):
    path = tmp_path / "cam.pth"
    run(Numbers(4), 1e-9, interrupt_at=1, epochs=1, path=path)
    caplog.set_level(logging.INFO)
    run(Numbers(4), lr=1e-9, epochs=1, path=path)
    assert "toy: resumes after 1 steps from" in caplog.text
    assert "toy: epoch 1 of 1, mean losses: part 1.5000, total 3.0000" in caplog.text


def test_the_state_is_saved_from_time_to_time_only(run, tmp_path, monkeypatch):
    monkeypatch.undo()
    run(Numbers(4), interrupt_at=5, path=tmp_path / "cam.pth")
    assert not list(tmp_path.iterdir())


def test_random_draws_go_on_where_they_were(run, tmp_path):
    class Draws(Numbers):
        def __getitem__(self, index):
            return torch.rand(()), torch.tensor(0.0)

    torch.manual_seed(5)
    value, _ = run(Draws(4))
    torch.manual_seed(5)
    run(Draws(4), interrupt_at=3, path=tmp_path / "cam.pth")
    torch.manual_seed(6)
    resumed, _ = run(Draws(4), path=tmp_path / "cam.pth")
    assert resumed == value  # the batch that was read and not used is drawn again


def test_a_state_of_other_settings_is_refused_early(run, tmp_path):
    path, options = tmp_path / "cam.pth", {**OPTIONS, "seed": 1}
    run(Numbers(4), interrupt_at=3, path=path)
    words = "cam.pth: was trained with .*seed is 0 there and 1 now.*--overwrite"
    file = training(path).file
    with pytest.raises(UserError, match=words):
        check_target(file, options, overwrite=False)
    with pytest.raises(UserError, match=words):
        is_trained(training(path, options))
    check_target(file, OPTIONS, overwrite=False)
    check_target(file, options, overwrite=True)
    _, seen = run(Numbers(4), path=path, options=options, overwrite=True)
    assert len(seen) == 6


def test_a_damaged_state_is_left(run, tmp_path):
    path = tmp_path / "cam.pth"
    run(Numbers(4), interrupt_at=3, path=path)
    state = state_of(training(path).file).path
    whole = bytearray(state.read_bytes())
    whole[len(whole) // 2] ^= 1
    state.write_bytes(whole)
    check_target(training(path).file, OPTIONS, overwrite=False)
    _, seen = run(Numbers(4), path=path)
    assert len(seen) == 6


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", [b"mine", b""])
def test_a_file_of_the_user_in_the_place_of_the_state_stays(tmp_path, content, overwrite):
    job = training(tmp_path / "cam.pth")
    state_of(job.file).path.write_bytes(content)
    for refuse in (lambda: check_target(job.file, OPTIONS, overwrite), lambda: is_trained(job)):
        with pytest.raises(UserError, match="cam.partial.pth: was not made by this program"):
            refuse()
    save_trained(job, Net(3, **THIN), save_checkpoint)  # that would end an unfinished training
    assert state_of(job.file).path.read_bytes() == content


def test_a_state_of_another_network_is_refused(run, tmp_path):
    path = tmp_path / "cam.pth"
    run(Numbers(4), interrupt_at=3, path=path)
    file = training(path).file
    state = torch.load(state_of(file).path, weights_only=True)
    write_torch(state_of(file).path, {**state, "model": {"other": torch.zeros(3)}})
    with pytest.raises(UserError, match="cam.partial.pth: is of another network .*remove it"):
        run(Numbers(4), path=path)
    write_torch(state_of(file).path, {**state, "done": "three"})
    _, seen = run(Numbers(4), path=path)
    assert len(seen) == 6


def test_the_state_goes_when_the_checkpoint_is_there(tmp_path):
    job = training(tmp_path / "cam.pth")
    write_torch(state_of(job.file).path, {"done": 1})
    save_trained(job, Net(3, **THIN), save_checkpoint)
    assert is_trained(job) and [path.name for path in tmp_path.iterdir()] == ["cam.pth"]
    write_torch(state_of(job.file).path, {"done": 1})  # a run was ended between the two
    assert is_trained(job) and [path.name for path in tmp_path.iterdir()] == ["cam.pth"]


def test_every_announced_rank_needs_a_part_of_each_batch(monkeypatch):
    check_batch("--cam_batch_size", 1, 9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    check_batch("--cam_batch_size", 3, 9)
    with pytest.raises(UserError, match="--cam_batch_size 2: .* 3 processes; give NPROC=2"):
        check_batch("--cam_batch_size", 2, 9)
    with pytest.raises(UserError, match="--cam_batch_size 8, of 2 images: .* give NPROC=2"):
        check_batch("--cam_batch_size", 8, 2)
    with pytest.raises(UserError, match="give NPROC=2"):  # passes of 4, 4 and 2
        check_batch("--seg_batch_size", 10, 99, accumulate=3)


# --- checkpoints --------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    return Output("--cam_weights_name", tmp_path / "new" / "cam.pth", is_file=True)


@pytest.fixture
def trained_file(file):
    save_checkpoint(file.path, Net(3, **THIN), settings=settings_of(OPTIONS, INPUTS))
    return file


def test_a_new_checkpoint_may_be_written(file):
    check_target(file, OPTIONS, overwrite=False)
    assert not is_trained(training(file.path))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_checkpoint_of_the_same_settings_is_kept(trained_file, overwrite):
    check_target(trained_file, {**OPTIONS, "cam_long": (64, 96)}, overwrite)
    assert is_trained(
        training(trained_file.path, {**OPTIONS, "cam_long": (64, 96)}, overwrite=overwrite)
    )


def test_a_checkpoint_of_other_options_is_refused_early(trained_file):
    words = (
        "--cam_weights_name .*cam.pth: was trained with .*seed is 0 there and 1 now.*--overwrite"
    )
    with pytest.raises(UserError, match=words):
        check_target(trained_file, {**OPTIONS, "seed": 1}, overwrite=False)
    with pytest.raises(UserError, match=words):
        is_trained(training(trained_file.path, {**OPTIONS, "seed": 1}))
    check_target(trained_file, {**OPTIONS, "seed": 1}, overwrite=True)
    assert not is_trained(training(trained_file.path, {**OPTIONS, "seed": 1}, overwrite=True))


def test_a_checkpoint_of_other_inputs_is_refused(trained_file):
    check_target(trained_file, OPTIONS, overwrite=False)  # inputs may be made by then
    with pytest.raises(UserError, match="labels is abc there and xyz now"):
        is_trained(training(trained_file.path, inputs={"labels": "xyz"}))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("settings", [None, {"step": "train_irn"}])
def test_a_checkpoint_of_another_origin_is_never_replaced(file, overwrite, settings):
    save_checkpoint(file.path, Net(3, **THIN), settings=settings)
    words = "cam.pth: was not written by train_cam and stays as it is"
    with pytest.raises(UserError, match=words) as refusal:
        check_target(file, OPTIONS, overwrite)
    assert "--overwrite" not in str(refusal.value)
    with pytest.raises(UserError, match=words):
        is_trained(training(file.path, overwrite=overwrite))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_damaged_checkpoint_is_named_and_stays(trained_file, overwrite):
    trained_file.path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cam.pth cannot be read as network weights"):
        check_target(trained_file, OPTIONS, overwrite)
    with pytest.raises(UserError, match="cam.pth cannot be read as network weights"):
        is_trained(training(trained_file.path, overwrite=overwrite))
    assert trained_file.path.read_bytes() == b"nothing"


def test_a_folder_cannot_be_a_checkpoint(file):
    file.path.mkdir(parents=True)
    with pytest.raises(UserError, match="cam.pth: is a folder"):
        check_target(file, OPTIONS, overwrite=True)
