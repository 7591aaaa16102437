"""Decoded images that the processes of a run share."""

import fcntl
import mmap
import os
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import DupFd

import numpy as np

from misc.runtime import distributed
from misc.runtime.memory import available_bytes

_ENTRY = 3  # where an image starts (0: not kept; _BEING_WRITTEN), its height, its width
_BEING_WRITTEN = -1


def cache_room(gib: float | None) -> int:
    """Bytes of decoded images that each rank of this machine keeps; None: an eighth of the free."""
    room = available_bytes() // 8 if gib is None else int(gib * 2**30)
    return room // distributed.local_size()


class _Kept:
    """Caches that later steps of this process use again; None outside of `kept_caches`."""

    caches: "dict[Hashable, ImageCache] | None" = None


@contextmanager
def kept_caches() -> Iterator[None]:
    """In the block, `cache_of` gives for the same images the cache that was filled before."""
    _Kept.caches = {}
    try:
        yield
    finally:
        _Kept.caches = None


def cache_of(images: Hashable, count: int, room: int) -> "ImageCache":
    """A cache of `count` images; images: says which they are, and how they are read."""
    if _Kept.caches is None:
        return ImageCache(count, room)
    if images not in _Kept.caches:
        _Kept.caches[images] = ImageCache(count, room)
    return _Kept.caches[images]


class ImageCache:
    """Images by number, in memory that all processes see to which this object was handed.

    It is filled until it is full and never emptied: every image is as likely to be drawn as any
    other, so that to replace one by another gains nothing. The memory has no name, takes no more
    than has been written, and is gone with the last process, however that ends.

    count: images 0..count-1 may be kept. room: bytes for their pixels; 0 keeps none.
    """

    def __init__(self, count: int, room: int):
        self._count = count if hasattr(os, "memfd_create") else 0  # Linux alone has such memory
        if room < 1:
            self._count = 0
        if self._count:
            self._file = os.memfd_create("images")
            os.ftruncate(self._file, self._pixels_start + room)
            self._open()

    @property
    def _pixels_start(self) -> int:
        return 8 * (1 + _ENTRY * self._count)

    def _open(self) -> None:
        weakref.finalize(self, os.close, self._file)
        memory = mmap.mmap(self._file, 0)
        numbers = np.frombuffer(memory, np.int64, 1 + _ENTRY * self._count)
        self._used, self._entries = numbers[:1], numbers[1:].reshape(-1, _ENTRY)
        self._pixels = np.frombuffer(memory, np.uint8, offset=self._pixels_start)

    def __getstate__(self) -> tuple[int, object]:
        return self._count, DupFd(self._file) if self._count else None

    def __setstate__(self, state: tuple[int, object]) -> None:
        self._count, file = state
        if self._count:
            self._file = file.detach()
            self._open()

    def get(self, index: int, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Image `index`, H x W x 3 uint8, not to be changed; `read` decodes it where it is new."""
        if not self._count:
            return read()
        if self._entries[index, 0] > 0:
            return self._kept(index)
        image = read()
        self._keep(index, image)
        return image

    def _kept(self, index: int) -> np.ndarray:
        start, height, width = self._entries[index].tolist()
        start -= 1
        image = self._pixels[start : start + 3 * height * width].reshape(height, width, 3)
        image.flags.writeable = False
        return image

    def _keep(self, index: int, image: np.ndarray) -> None:
        with self._locked():
            start = int(self._used[0])
            if self._entries[index, 0] != 0 or start + image.size > len(self._pixels):
                return
            self._entries[index] = _BEING_WRITTEN, *image.shape[:2]
            self._used[0] = start + image.size
        self._pixels[start : start + image.size] = image.reshape(-1)
        with self._locked():  # and not before: whoever sees the entry must see the pixels
            self._entries[index, 0] = 1 + start

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; the lock of a process that is killed is gone with it."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
