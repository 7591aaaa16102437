"""Passes in parts, and what is done when memory ends; no GPU needed, the errors are made here."""

import logging
import platform
import shutil
import subprocess
import sys
import weakref

import pytest
import torch

from misc.errors import UserError
from misc.runtime.memory import (
    InParts,
    PixelBudget,
    RowTooLargeError,
    about_image,
    require_shared_memory,
)
from tests.conftest import PROJECT


def doubled(budget: PixelBudget, rows: torch.Tensor, room: int, passes: list) -> torch.Tensor:
    """Twice the rows B x h x w, in passes of which each needs to fit into some room."""

    def attempt() -> torch.Tensor:
        parts = []
        for part in budget.parts(len(rows), tuple(rows.shape[1:])):
            passes.append(len(rows[part]))
            if rows[part].numel() > room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate everything")
            parts.append(2 * rows[part])
        return torch.cat(parts)

    return budget.fitted(attempt)


def test_everything_is_one_pass_while_memory_lasts():
    budget, passes, rows = PixelBudget(), [], torch.rand(7, 4, 5)
    assert torch.equal(doubled(budget, rows, 7 * 20, passes), 2 * rows)
    assert passes == [7] and budget.pixels == float("inf")


def test_passes_are_halved_until_they_fit_and_stay_so(caplog):
    budget, passes, rows = PixelBudget(), [], torch.rand(20, 4, 5)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(doubled(budget, rows, room=7 * 20, passes=passes), 2 * rows)
    assert passes == [20, 10, 5, 5, 5, 5] and budget.pixels == 5 * 20
    assert len(caplog.messages) == 2 and "20 x 4 x 5 pixels" in caplog.messages[0]
    passes.clear()
    larger = torch.rand(5, 8, 5)
    assert torch.equal(doubled(budget, larger, 1000, passes), 2 * larger) and passes == [2, 2, 1]


def test_a_row_larger_than_the_budget_is_tried_alone():
    budget, passes = PixelBudget(), []
    doubled(budget, torch.rand(2, 4, 5), room=20, passes=passes)
    doubled(budget, torch.rand(2, 9, 9), room=81, passes=passes)
    assert passes == [2, 1, 1, 1, 1] and budget.pixels == 20


def test_a_row_that_does_not_fit_is_bad_input():
    budget = PixelBudget()
    with pytest.raises(RowTooLargeError), torch.no_grad():
        doubled(budget, torch.rand(3, 4, 5), room=19, passes=[])
    message = "(?s)image 2007_000032: on cuda:1 .* 4 x 5 pixels .*--max_long"
    with pytest.raises(UserError, match=message), about_image("2007_000032", "cuda:1"):
        doubled(budget, torch.rand(3, 4, 5), room=19, passes=[])


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED when",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when",
        "FIND was unable to find an engine to execute this computation",
        "GET was Unable to find an engine",
    ],
)
def test_libraries_that_say_it_in_other_words(text):
    budget, tries = PixelBudget(), []

    def attempt():
        for part in budget.parts(2, (3, 3)):
            tries.append(part)
            if part == slice(0, 2):
                raise RuntimeError(text)

    budget.fitted(attempt)
    assert tries == [slice(0, 2), slice(0, 1), slice(1, 2)]


def test_too_little_shared_memory_is_said_before(tmp_path):
    there = shutil.disk_usage(tmp_path).total
    require_shared_memory(there, tmp_path)
    require_shared_memory(10**18, tmp_path / "not there")
    with pytest.raises(UserError, match=f"{tmp_path}: has .* MB, .*--shm-size.*--num_workers"):
        require_shared_memory(there + 1, tmp_path)


def test_other_errors_are_left_alone():
    def attempt():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        PixelBudget().fitted(attempt)


def test_a_failed_attempt_holds_no_tensor_when_the_next_begins():
    budget, held, alive = PixelBudget(), [], []

    def attempt():
        alive.append([ref() for ref in held if ref() is not None])
        for part in budget.parts(4, (2, 2)):
            large = torch.rand(4)
            held.append(weakref.ref(large))
            if part.stop - part.start > 1:
                raise torch.OutOfMemoryError("no room")

    budget.fitted(attempt)
    assert alive == [[], [], []]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_freed_memory_is_kept_for_the_next_tensors():
    program = """if True:
        import resource, torch
        from misc.runtime.memory import freed_memory_kept

        def pages_from_system():
            several = [torch.ones(2**24) for _ in range(8)]
            del several
            for _ in range(4):  # an aligned one needs a little more room than it leaves
                torch.ones(2**24)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(4):
                torch.ones(2**24)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        print(pages_from_system())
        with freed_memory_kept():
            print(pages_from_system())
    """
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True)
    usual, kept = map(int, run.stdout.split())
    assert kept < usual / 2


@pytest.mark.parametrize("fails", ["never", "forward", "backward"])
def test_a_function_in_parts_has_the_gradient_of_the_whole(fails):
    """The memory ends in the first whole pass, or on the way back from it."""
    calls = []

    def room(rows, where):
        if fails == where and len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    class Cubed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows):
            calls.append(len(rows))
            room(rows, "forward")
            ctx.save_for_backward(rows)
            return rows**3

        @staticmethod
        def backward(ctx, gradient):
            (rows,) = ctx.saved_tensors
            room(rows, "backward")
            return 3 * rows**2 * gradient

    rows = torch.randn(2, 3, 4, 5, requires_grad=True)
    output = InParts.apply(rows, Cubed.apply, PixelBudget())
    assert torch.equal(output, rows**3)
    (output.sum() ** 2).backward()
    torch.testing.assert_close(rows.grad, 6 * rows.detach() ** 2 * output.detach().sum())
    assert calls == {"never": [2], "forward": [2, 1, 1, 1, 1], "backward": [2, 1, 1]}[fails]
