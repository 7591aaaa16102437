"""Reading ahead of the one that computes, and writing behind it, in threads of its process."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

from misc.runtime.interrupts import shielded

Read = TypeVar("Read")

_MOST_WAITING = 4  # results that wait to be written, which bounds the memory that they hold


class Overlap:
    """A thread that reads the next image and one that writes results, while a GPU computes.

    Without threads everything is done at once by the caller; that is also what a task has which
    nobody gave another one.

    image_ids: in the order in which they will be read. device: what computes. named: gives the
    context that puts an image's name into errors of its writing. threads: whether there are any.
    """

    def __init__(
        self,
        image_ids: Sequence[str] = (),
        device: torch.device | None = None,
        named: Callable[[str], AbstractContextManager] = nullcontext,
        threads: bool = False,
    ):
        self.threads = threads
        self._following = dict(zip(image_ids, image_ids[1:], strict=False))
        self._named = named
        self._ahead: tuple[str, Future] | None = None
        self._behind: deque[Future] = deque()
        self._failure: Exception | None = None
        if threads:
            self._reader, self._writer = (
                ThreadPoolExecutor(1, name, _use, (device,)) for name in ("reader", "writer")
            )

    def read(self, work: Callable[[str], Read], image_id: str) -> Read:
        """`work(image_id)`, which is under way already if all goes as it was said."""
        if not self.threads:
            return work(image_id)
        expected, found = self._ahead or (None, None)
        result = found.result() if expected == image_id else work(image_id)
        self._ahead = None
        following = self._following.get(image_id)
        if following is not None:
            self._ahead = following, self._reader.submit(work, following)
        return result

    def write(self, image_id: str, work: Callable[..., object], *arguments: object) -> None:
        """Have `work(*arguments)` done, one after the other; waits while many are to be done.

        Once one has failed nothing more is written: `check` raises what it was.
        """
        if not self.threads:
            work(*arguments)
            return
        while len(self._behind) >= _MOST_WAITING:
            wait([self._behind[0]])
            self._behind.popleft()
        with shielded():  # a signal cannot come between the two
            self._behind.append(self._writer.submit(self._write, image_id, work, arguments))

    def _write(self, image_id: str, work: Callable[..., object], arguments: tuple) -> None:
        if self._failure:
            return
        try:
            with self._named(image_id):
                work(*arguments)
        except Exception as error:
            self._failure = error

    def check(self) -> None:
        """Raise what the writing of an image has failed with, if any has."""
        if self._failure:
            raise self._failure

    def written(self) -> None:
        """Wait until everything is written, and `check`."""
        wait(self._behind)
        self._behind.clear()
        self.check()

    def close(self) -> None:
        """End the threads; what was to be written is written."""
        if self.threads:
            self._reader.shutdown(cancel_futures=True)
            self._writer.shutdown()


def _use(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.set_device(device)


class OnItsWay:
    """Tensors that a device copies to main memory while it is given other work.

    Whoever needs them calls `arrived`, in any thread.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]):
        # Without waiting: the copies are in pinned memory then, and complete after the event.
        self._copies: list[Any] = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._event = None
        if any(tensor.is_cuda for tensor in tensors):
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensors[0].device))

    def arrived(self) -> list[torch.Tensor]:
        """The copies, complete."""
        if self._event:
            self._event.synchronize()
        return self._copies
