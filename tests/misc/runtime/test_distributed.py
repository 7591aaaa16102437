"""misc/runtime/distributed.py: what ranks share, with two real processes."""

import multiprocessing
import os
import signal
import socket
import time

import pytest
import torch

from misc.errors import StoppedError, UserError
from misc.runtime import distributed


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def act(work, rank, size, port, answers):
    """Body of a rank: joins, works, and says what came of it."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    try:
        with distributed.joined(with_cuda=False):
            answer = work()
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    answers.put((rank, answer))


@pytest.fixture
def ranks():
    """Runs a function of this module on two ranks; what it gave on each."""
    started = []

    def call(work, size=2):
        context = multiprocessing.get_context("spawn")
        answers, port = context.Queue(), free_port()
        for rank in range(size):
            process = context.Process(target=act, args=(work, rank, size, port, answers))
            process.start()
            started.append(process)
        found = {}
        deadline = time.monotonic() + 60
        while len(found) < size and time.monotonic() < deadline:
            if any(p.exitcode for p in started) and answers.empty():
                found.update({r: "gone" for r, p in enumerate(started) if p.exitcode})
            else:
                rank, answer = answers.get(timeout=60)
                found[rank] = answer
        return [found[rank] for rank in range(size)]

    yield call
    for process in started:
        process.kill()
        process.join()


def test_alone_everything_is_as_without_ranks():
    with distributed.joined(with_cuda=False):
        assert (distributed.rank(), distributed.size()) == (0, 1)
        assert distributed.part("abc") == "abc" and distributed.gathered(5) == [5]
        assert distributed.on_first_rank(lambda: 7) == 7
        values, model = torch.ones(2, requires_grad=True), torch.nn.Linear(2, 1)
        assert not distributed.summed(values).requires_grad
        assert torch.equal(distributed.summed(values), values.detach())
        assert distributed.data_parallel(model) is model


def meet():
    values = torch.tensor([1.0 + distributed.rank()])
    return (
        distributed.rank(),
        distributed.size(),
        distributed.part(range(5)),
        distributed.gathered(distributed.rank() * 10),
        distributed.summed(values).item(),
        values.item(),
    )


def test_ranks_share_a_list_and_exchange_values(ranks):
    assert ranks(meet) == [
        (0, 2, range(0, 5, 2), [0, 10], 3.0, 1.0),
        (1, 2, range(1, 5, 2), [0, 10], 3.0, 2.0),
    ]


def work_once():
    calls = []
    return distributed.on_first_rank(lambda: calls.append(1) or "made by the first"), calls


def test_the_first_rank_works_for_all(ranks):
    assert ranks(work_once) == [("made by the first", [1]), ("made by the first", [])]


def fail():
    def work():
        raise UserError("file: is wrong")

    distributed.on_first_rank(work)


def test_an_error_of_the_first_rank_ends_all_and_is_said_once(ranks):
    assert ranks(fail) == ["UserError: file: is wrong", "SaidElsewhereError: file: is wrong"]
    assert issubclass(distributed.SaidElsewhereError, UserError)


def lose():
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.gathered(None)


def test_a_killed_rank_is_noticed(ranks):
    first, second = ranks(lose)
    assert second == "gone"
    assert first == f"{StoppedError.__name__}: another process of the run has ended"


def train_a_step():
    torch.manual_seed(0)
    model, items = torch.nn.Linear(3, 1), torch.arange(12.0).view(4, 3) / 10
    network = distributed.data_parallel(model)
    mine = items[distributed.rank() :: distributed.size()]
    # The rank's part of a mean over all items, as misc.runtime.training wants it.
    loss = network(mine).square().mean() * len(mine) / len(items)
    (loss * distributed.size()).backward()
    return model.weight.grad.tolist(), distributed.summed(loss).item()


def test_gradients_are_those_of_the_whole_batch(ranks):
    expected, loss = train_a_step()
    for gradient, total in ranks(train_a_step):
        assert torch.tensor(gradient).allclose(torch.tensor(expected), atol=1e-6)
        assert total == pytest.approx(loss, abs=1e-6)
