"""Memory: what to lower where it ends; freed memory kept for the next pass on a CPU."""

import contextlib
import ctypes
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from misc.errors import StoppedError, UserError

# What libraries say in other errors when it is memory that they do not get.
_PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")

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
def memory_can_end(where: str, options: Sequence[str]) -> Iterator[None]:
    """Say in one line which options to lower where memory ends in the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and not any(phrase in text for phrase in _PHRASES):
            raise
        first = text.splitlines()[0] if text else "no memory is left"
        lower = " or ".join([", ".join(options[:-1]), options[-1]] if options[1:] else options)
        raise StoppedError(f"{where}: out of memory ({first}); lower {lower}") from None
