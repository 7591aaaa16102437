"""How fast this machine is at what the steps do, measured in a few seconds on one of the images."""

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from misc.cli.options import Options
from misc.crf import refine_label_maps
from misc.data.datasets import byte_crop, image_of
from misc.indexing import propagate_to_edge
from misc.metrics import ThresholdScores
from misc.runtime.devices import main_device, pick_devices
from misc.runtime.processes import in_processes
from misc.torchutils import worker_rng

_SIDE = 256  # of the image of a forward pass, pixels
_PART = 192  # of the part of a photograph that a CRF refines, pixels
_POSITIONS = 48  # side of the map that a random walk is measured on
_SECONDS = 0.7  # that passes are measured at least
_OTHERS = 0.3  # and everything else
AT_ONCE = 4  # processes that are imitated at most; more are taken to be as fast each
_LEVELS = 50  # thresholds of a score


class Speed:
    """Times of this machine; each is measured when it is first asked for.

    image_id: the photograph that is looked at. Ten to twenty seconds for all with the passes
    of `misc.cli.passes`.
    """

    def __init__(self, args: Options, image_id: str):
        self.args, self.device = args, main_device(args.resources)
        self.image_id = image_id

    def operations(self, forward: Callable[[torch.Tensor], object], count: float) -> float:
        """Floating-point operations a second of a network, whose pass on 256 x 256 has `count`."""
        image = torch.zeros(1, 3, _SIDE, _SIDE, device=self.device)

        def once() -> None:
            ended(forward(image))

        with torch.no_grad():
            return count / _seconds(once, _OTHERS)

    def at_once(self, prepare: Callable[[], Callable[[], object]], processes: int, threads: int):
        """Seconds of a pass where several processes do the same, each with so many threads.

        prepare: makes what is called, for each of them.
        """
        before = torch.get_num_threads()

        def timed(_: int) -> float:
            torch.set_num_threads(threads)
            return _seconds(prepare(), _SECONDS)

        try:
            with ThreadPoolExecutor(processes) as pool:  # torch computes outside of Python's lock
                return sum(pool.map(timed, range(processes))) / processes
        finally:
            torch.set_num_threads(before)

    @property
    def measured_side(self) -> int:
        """Side of the image that `operations` wants the operations of."""
        return _SIDE

    @functools.cached_property
    def image(self) -> np.ndarray:
        """The photograph, H x W x 3 uint8."""
        return image_of(self.args.info, self.image_id)

    @functools.cached_property
    def read(self) -> float:
        """Seconds to read a photograph."""
        return _seconds(lambda: image_of(self.args.info, self.image_id), _OTHERS)

    @functools.cached_property
    def crop(self) -> float:
        """Seconds to cut a training view out of a decoded photograph."""
        rng = worker_rng(0, "speed", 0, self.image_id)
        long_range, size = self.args.cam_long, self.args.cam_crop_size
        return _seconds(lambda: byte_crop(self.image, long_range, size, rng), _OTHERS)

    @functools.cached_property
    def crf(self) -> float:
        """Seconds of a dense CRF for four maps of a pixel (they are filtered together)."""
        part = np.ascontiguousarray(self.image[:_PART, :_PART])
        bright = part.mean(axis=2) > part.mean()
        maps = np.stack([bright, ~bright]).astype(np.uint8)
        return _seconds(lambda: refine_label_maps(part, maps, 2), _OTHERS) / bright.size

    @functools.cached_property
    def walk(self) -> float:
        """Seconds of the random walk of one class from a position of its map."""
        args, size = self.args, (1, _POSITIONS, _POSITIONS)
        cam, edge = (torch.rand(size, device=self.device) for _ in range(2))
        walk = functools.partial(propagate_to_edge, cam, edge, args.walk_radius, args.beta)
        seconds = _seconds(lambda: ended(walk(args.exp_times)), _OTHERS)
        return seconds / edge.numel()

    @functools.cached_property
    def start(self) -> float:
        """Seconds until processes that share a step have all started."""
        count = len(pick_devices(self.args.resources, AT_ONCE))
        began = time.perf_counter()
        list(in_processes(_nothing, [None] * count, "a start"))
        return time.perf_counter() - began

    @functools.cached_property
    def score(self) -> float:
        """Seconds to score the map of a pixel at many thresholds."""
        cams = np.random.default_rng(0).random((1, _SIDE, _SIDE), dtype=np.float32)
        truth, keys = np.zeros((_SIDE, _SIDE), np.uint8), np.zeros(1, np.int64)
        scores = ThresholdScores(np.arange(_LEVELS) / _LEVELS, 2)
        return _seconds(lambda: scores.add(cams, keys, truth), _OTHERS) / truth.size


def ended(result: torch.Tensor) -> None:
    """Wait until the device has computed something."""
    result.flatten()[0].item()


def _seconds(function: Callable[[], object], at_least: float) -> float:
    """Seconds of a call, from as many as fit into a time; the first one also prepares."""
    function()
    start, calls = time.perf_counter(), 0
    while calls < 1 or time.perf_counter() - start < at_least:
        function()
        calls += 1
    return (time.perf_counter() - start) / calls


def _nothing(share: None, report: Callable) -> None:
    """What a process does that is started to see how long that takes."""
