"""The store of decoded images: what it keeps, how much, and which processes see it."""

import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest

from misc.data import image_cache
from misc.data.image_cache import ImageCache, cache_of, cache_room, kept_caches

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory of Linux")


def picture(number: int) -> np.ndarray:
    """An image of a size and with pixels of its own."""
    shape = (10 + number, 7, 3)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def unread() -> np.ndarray:
    raise AssertionError("this image is kept: it must not be read again")


def test_an_image_is_read_once():
    cache = ImageCache(5, 10_000)
    for number in (3, 0, 4):
        assert np.array_equal(cache.get(number, lambda n=number: picture(n)), picture(number))
    for number in (4, 3, 0):
        kept = cache.get(number, unread)
        assert np.array_equal(kept, picture(number)) and not kept.flags.writeable
    assert np.array_equal(cache.get(1, lambda: picture(1)), picture(1))


def test_a_full_cache_goes_on_reading():
    room = picture(0).size + picture(1).size + picture(2).size - 1
    cache, read = ImageCache(4, room), []
    for number in (0, 1, 2, 3, 2, 1, 0):
        image = cache.get(number, lambda n=number: read.append(n) or picture(n))
        assert np.array_equal(image, picture(number))
    assert read == [0, 1, 2, 3, 2]


@pytest.mark.parametrize("cache", [ImageCache(0, 100), ImageCache(3, 0)])
def test_without_room_nothing_is_kept(cache):
    read = []
    for _ in range(2):
        assert np.array_equal(cache.get(2, lambda: read.append(1) or picture(2)), picture(2))
    assert len(read) == 2


def fill(cache: ImageCache, first: int, count: int) -> None:
    for number in range(first, first + count):
        assert np.array_equal(cache.get(number, lambda n=number: picture(n)), picture(number))


def in_process(method: str, *given) -> int:
    process = multiprocessing.get_context(method).Process(target=fill, args=given)
    process.start()
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_another_process_fills_it_too(method):
    cache = ImageCache(8, 100_000)
    assert in_process(method, cache, 2, 3) == 0
    for number in (2, 3, 4):
        assert np.array_equal(cache.get(number, unread), picture(number))


def test_many_processes_fill_it_at_once():
    cache, context = ImageCache(200, 1 << 20), multiprocessing.get_context("fork")
    starts = (0, 0, 50, 100)
    processes = [context.Process(target=fill, args=(cache, start, 100)) for start in starts]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for number in range(200):
        assert np.array_equal(cache.get(number, unread), picture(number))


def killed_while_writing(cache: ImageCache) -> None:
    with cache._locked():
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_killed_inside_leaves_no_lock():
    cache = ImageCache(3, 10_000)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=killed_while_writing, args=(cache,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert in_process("fork", cache, 0, 3) == 0
    assert np.array_equal(cache.get(1, unread), picture(1))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_its_memory_ends_with_it():
    def files() -> int:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return sum("memfd:images" in os.readlink(link) for link in links if os.path.islink(link))

    before = files()
    cache = ImageCache(3, 10_000)
    image = cache.get(0, lambda: picture(0))
    assert files() > before
    del cache, image
    assert files() == before


def test_room_is_shared_by_the_ranks_of_a_machine(monkeypatch):
    monkeypatch.setattr(image_cache, "available_bytes", lambda: 8000)
    assert (cache_room(None), cache_room(0.5), cache_room(0)) == (1000, 2**29, 0)
    monkeypatch.setattr(image_cache.distributed, "local_size", lambda: 4)
    assert cache_room(None) == 250


def test_in_a_sweep_the_same_images_are_decoded_once():
    images = ("root", ("a", "b"))
    with kept_caches():
        cache_of(images, 2, 10_000).get(1, lambda: picture(1))
        assert np.array_equal(cache_of(images, 2, 10_000).get(1, unread), picture(1))
        assert cache_of(("root", ("a", "c")), 2, 10_000) is not cache_of(images, 2, 10_000)
    assert cache_of(images, 2, 10_000) is not cache_of(images, 2, 10_000)
