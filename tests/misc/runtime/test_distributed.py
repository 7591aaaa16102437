"""misc/runtime/distributed.py: what ranks share, with two real processes."""

import multiprocessing
import os
import signal
import socket

import pytest
import torch

from misc.errors import UserError
from misc.runtime import distributed


def act(work, rank, port, answers):
    """Body of one of two ranks: joins, works, and says what came of it."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))  # fmt: skip
    torch.set_num_threads(1)
    try:
        with distributed.joined(with_cuda=False):
            answer = work()
    except Exception as error:
        answer = repr(error)
    answers.put((rank, answer))


@pytest.fixture
def ranks():
    """Runs a function of this module on two ranks; what it gave on those that were not killed."""
    started = []

    def call(work, answering=2):
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        answers = context.Queue()
        for rank in range(2):
            started.append(context.Process(target=act, args=(work, rank, port, answers)))
            started[-1].start()
        return [answer for _, answer in sorted(answers.get(timeout=120) for _ in range(answering))]

    yield call
    for process in started:
        process.kill()
        process.join()


def failed(work):
    try:
        work()
    except UserError as error:
        return repr(error)


def wrong():
    raise UserError("file: is wrong")


def train_a_step():
    torch.manual_seed(0)
    model, items = torch.nn.Linear(3, 1), torch.arange(12.0).view(4, 3) / 10
    network, mine = model, distributed.part(items)
    if torch.distributed.is_initialized():
        network = torch.nn.parallel.DistributedDataParallel(model)
    # The rank's part of a mean over all items, as misc.runtime.training wants it.
    loss = network(mine).square().mean() * len(mine) / len(items)
    (loss * distributed.size()).backward()
    return [*model.weight.grad[0].tolist(), distributed.summed(loss).item()]


def meet():
    calls = []
    first = distributed.on_first_rank(lambda: calls.append(1) or "made by the first")
    values = torch.tensor([1.0 + distributed.rank()])
    return {
        "rank": (distributed.rank(), distributed.size(), distributed.part(range(5))),
        "gathered": distributed.gathered(distributed.rank() * 10),
        "summed": (distributed.summed(values).item(), values.item()),
        "first": (first, calls),
        "errors": [failed(lambda: distributed.on_first_rank(wrong)),
                   failed(lambda: distributed.fail("file: is wrong"))],
        "GPUs": [failed(lambda name=name: distributed.require_own_gpu(name))
                 for name in ("GPU-a", f"GPU-{distributed.rank()}")],
        "step": train_a_step(),
    }  # fmt: skip


def test_ranks_exchange_values_and_the_first_one_works_and_speaks_for_all(ranks):
    one, other = ranks(meet)
    assert [one["rank"], other["rank"]] == [(0, 2, range(0, 5, 2)), (1, 2, range(1, 5, 2))]
    assert one["gathered"] == other["gathered"] == [0, 10]
    assert [one["summed"], other["summed"]] == [(3.0, 1.0), (3.0, 2.0)]
    assert one["first"] == ("made by the first", [1])
    assert other["first"] == ("made by the first", [])
    assert one["errors"] == ["UserError('file: is wrong')"] * 2
    assert other["errors"] == ["SaidElsewhereError('file: is wrong')"] * 2
    assert "UserError" in one["GPUs"][0] and "GPU-a: is the GPU of several" in one["GPUs"][0]
    assert "SaidElsewhere" in other["GPUs"][0] and one["GPUs"][1] is other["GPUs"][1] is None
    expected = train_a_step()  # gradients and loss of the whole batch
    assert one["step"] == other["step"] == pytest.approx(expected, abs=1e-6)


def lose():
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.gathered(None)


def test_a_killed_rank_is_noticed(ranks):
    (said,) = ranks(lose, answering=1)
    assert said == "StoppedError('another process of the run has ended')"
