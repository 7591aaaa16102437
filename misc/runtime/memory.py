"""Memory: passes in parts that fit into a GPU; freed memory kept for the next pass on a CPU."""

import contextlib
import ctypes
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from misc.errors import UserError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# What libraries below torch say when it is them who get no memory.
# The last two have other causes too; then a pass of one row says so in the end.
_PHRASES = (
    "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED", "unable to find an engine",
)  # fmt: skip


# Parameters of glibc's mallopt, and what it comes to by itself when large tensors are freed.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_USUAL = {_TRIM_THRESHOLD: 64 * 2**20, _MMAP_THRESHOLD: 32 * 2**20}
_KEEPING = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_THRESHOLD: 2**30}


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """In the block the C library keeps freed memory for the next tensors; for equal passes.

    Usually a map of more than 32 MB gets its pages from the system and gives them back. That the
    system clears each of them can take half as long as the map's 1x1 convolution. Only glibc is
    asked to; images of many sizes would leave gaps.
    """
    _set_allocator(_KEEPING)
    try:
        yield
    finally:
        _set_allocator(_USUAL)


def _set_allocator(parameters: dict[int, int]) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library or system
        library = ctypes.CDLL(None)
        for parameter, value in parameters.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


class RowTooLargeError(Exception):
    """A single row of a pass does not fit into memory."""


class PixelBudget:
    """The most pixels (rows x height x width) that one pass may have; halved where memory ends.

    One is kept for all passes of a process, so that later images profit from what it has learnt.
    """

    def __init__(self) -> None:
        self.pixels = math.inf
        self._rows, self._size = 0, (0, 0)  # of the pass that runs

    def parts(self, count: int, size: tuple[int, int]) -> Iterator[slice]:
        """Cut `count` rows, made from images of a size (height, width), into passes."""
        rows = int(max(1, min(count, self.pixels // math.prod(size))))
        for start in range(0, count, rows):
            self._rows, self._size = min(rows, count - start), size
            yield slice(start, start + rows)

    def fitted(self, attempt: Callable[[], Result]) -> Result:
        """What an attempt returns, which is repeated with smaller passes until memory is enough.

        An attempt takes its passes from `parts` and must not build on what a failed one has left.
        Raises RowTooLargeError where a pass of one row is too large.
        """
        while not (done := _tried(attempt)):
            self._halve()
        return done[0]

    def _halve(self) -> None:
        torch.cuda.empty_cache()
        height, width = self._size
        if self._rows <= 1:
            raise RowTooLargeError(
                f"a pass of {height} x {width} pixels does not fit into its memory"
            )
        self.pixels = min(self.pixels, self._rows * height * width // 2)
        log.warning(
            "out of memory in a pass of %d x %d x %d pixels: from now on a pass has %d at most",
            *(self._rows, height, width, self.pixels),
        )


class InParts(torch.autograd.Function):
    """A function of rows B x ..., differentiable, in passes that fit into a budget.

    `InParts.apply(rows, function, budget)` is function(rows), which must compute every row by
    itself. While one pass has all rows it costs the same; otherwise rows are computed twice.
    """

    @staticmethod
    def forward(ctx, rows: torch.Tensor, function: Callable, budget: PixelBudget) -> torch.Tensor:
        def attempt() -> torch.Tensor:
            ctx.kept.clear()
            outputs, parts = [], list(budget.parts(len(rows), rows.shape[-2:]))
            for part in parts:
                given, output = _pass_of(function, rows[part], len(parts) == 1)
                outputs.append(output.detach())
                if len(parts) == 1:
                    ctx.kept.append((given, output))
            return torch.cat(outputs)

        ctx.rows, ctx.function, ctx.budget, ctx.kept = rows.detach(), function, budget, []
        return budget.fitted(attempt)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        def attempt() -> torch.Tensor:
            gradients = []
            for part in ctx.budget.parts(len(ctx.rows), ctx.rows.shape[-2:]):
                # What was kept of a whole pass is used once: a failed attempt has lost it.
                kept = ctx.kept.pop() if ctx.kept else None
                given, output = kept or _pass_of(ctx.function, ctx.rows[part], True)
                gradients += torch.autograd.grad(output, given, gradient[part])
            return torch.cat(gradients)

        return ctx.budget.fitted(attempt), None, None


def _pass_of(function: Callable, rows: torch.Tensor, with_graph: bool) -> tuple:
    """Rows of a graph of their own, and the function of them."""
    with torch.set_grad_enabled(with_graph):
        given = rows.detach().requires_grad_(with_graph)
        return given, function(given)


def available_bytes() -> int:
    """Main memory that new data may take, of the machine or of the group this process is in."""
    free = 0
    info = Path("/proc/meminfo")
    if info.exists():
        values = dict(line.split(":") for line in info.read_text().splitlines())
        free = int(values["MemAvailable"].split()[0]) << 10
    limit, used = (Path("/sys/fs/cgroup", f"memory.{name}") for name in ("max", "current"))
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(0, free)


def require_shared_memory(needed: int, folder: Path = Path("/dev/shm")) -> None:
    """Raise UserError where processes that read ahead could not hand over so many bytes."""
    with contextlib.suppress(OSError):  # another system, which has no such folder
        total = shutil.disk_usage(folder).total
        if total < needed:
            raise UserError(
                f"{folder}: has {total >> 20} MB, and the processes that read ahead need up to "
                f"{needed >> 20}; make it larger (Docker: --shm-size), or give fewer --num_workers"
            )


@contextmanager
def about_image(image_id: str, device: torch.device) -> Iterator[None]:
    """Says which image a device is too small for."""
    try:
        yield
    except RowTooLargeError as error:
        raise UserError(
            f"image {image_id}: on {device} {error}; give a smaller --max_long (or --cam_crop_size "
            f"where that is larger), fewer --num_processes for each GPU, or --device cpu"
        ) from None


def _tried(attempt: Callable[[], Result]) -> tuple[Result] | None:
    """The result of an attempt, or None where memory was too short.

    Its tensors are free on return: as long as the error is handled, its traceback keeps them.
    """
    try:
        return (attempt(),)
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        if not any(phrase.lower() in str(error).lower() for phrase in _PHRASES):
            raise
        return None
