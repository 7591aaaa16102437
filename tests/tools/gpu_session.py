"""Measures on a GPU what is still to be known of it, in at most 40 minutes.

    python -m tests.tools.gpu_session OUT [--device cuda]

Writes OUT/session.json after every part. A part that fails is recorded with its error, and the
others follow. On a CPU the sizes are tiny, which only shows that the script works.
"""

import argparse
import copy
import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from Dataset.objects import OBJECT_CLASSES
from Dataset.scene import draw_scene
from misc.data.datasets import multi_scale_pairs
from misc.rib import RIBSettings, fine_tune
from misc.runtime.devices import machine, set_up_process
from misc.runtime.processes import Resources, in_processes
from net.resnet50_cam import CAM
from tests.tools.comparisons import timed
from tests.weights import fill_by_recipe

BUDGET = 40 * 60.0  # seconds after which no further part begins
PRECISIONS = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class Session:
    """The device, and how large everything is: VOC's photographs and the published settings."""

    device: torch.device
    image: tuple[int, int] = (375, 500)
    width: int = 64
    crops: tuple[int, int] = (20, 512)
    iterations: int = 10
    images: int = 4  # for the images per second
    matrix: int = 8192
    processes: tuple[int, ...] = (1, 2, 3)

    @property
    def on_gpu(self) -> bool:
        """The figures mean something."""
        return self.device.type == "cuda"

    def seconds(self, work: Callable[[], Any], repeats: int = 1) -> float:
        """Median seconds of a call until the device has finished."""
        return median(timed(work, self.device)[0] for _ in range(repeats))

    def compute_in(self, precision: str, deterministic: bool = False) -> None:
        """Set PyTorch's flags as a run with these options does."""
        resources = Resources(precision=precision, deterministic=deterministic)
        set_up_process(resources, self.device, torch.get_num_threads())

    def photograph(self) -> np.ndarray:
        """A synthetic image, H x W x 3 uint8."""
        return draw_scene(np.random.default_rng(0), OBJECT_CLASSES[3:5], self.image).image


def session_on(device: torch.device) -> Session:
    """A session at full size on a GPU, and with tiny sizes on a CPU."""
    return Session(device) if device.type == "cuda" else Session(
        device, (32, 48), width=8, crops=(2, 32), iterations=2, images=1, matrix=64, processes=(1,)
    )  # fmt: skip


class RIBWork:
    """RIB on one image, from weights by recipe: maps that depend on the precision alone."""

    def __init__(self, session: Session, precision: str):
        session.compute_in(precision)
        self.session = session
        model = CAM(20, width=session.width, stem=min(session.width, 64))
        with torch.no_grad():
            fill_by_recipe(model)
        layout = torch.channels_last if session.on_gpu else torch.contiguous_format
        self.model = model.to(session.device, memory_format=layout)
        self.model.bf16 = precision == "bf16"
        self.trained = copy.deepcopy(model.state_dict())
        self.settings = RIBSettings(
            iterations=session.iterations, margin=float("inf"), explode_ratio=1.0
        )
        pairs = multi_scale_pairs(session.photograph(), self.settings.scales)
        self.pairs = [pair.to(session.device) for pair in pairs]
        count, side = session.crops
        crops = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
        batch = (crops, torch.eye(20)[5].expand(count, -1))
        self.batch = tuple(part.to(session.device) for part in batch)

    def __call__(self) -> list[torch.Tensor]:
        """Return the map sums, C x h x w at each scale."""
        batches = iter([self.batch] * self.settings.iterations)
        label = torch.eye(20)[7].to(self.session.device)
        self.model.load_state_dict(self.trained)
        *_, last = fine_tune(self.model, self.pairs, label, batches, self.settings)
        return [sums.float().cpu() for sums in last.map_sums]


def apart(maps: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """The largest difference as a fraction of the peak of each scale."""
    pairs = zip(maps, exact, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)) for a, b in pairs)


# --- the parts ------------------------------------------------------------------------------------


def flags(session: Session) -> dict[str, Any]:
    """The machine, and PyTorch's defaults."""
    return {
        **machine(),
        "cudnn": torch.backends.cudnn.version(),
        "products in TF32 by default": torch.backends.cuda.matmul.allow_tf32,
        "convolutions in TF32 by default": torch.backends.cudnn.allow_tf32,
    }


def matrix_products(session: Session) -> dict[str, float]:
    """TFLOP/s of a large product of random matrices; of ones a GPU is faster than of data."""
    side, speeds = session.matrix, {}
    random = torch.randn(side, side, device=session.device)
    kinds = {"float32": torch.float, "tf32": torch.float, "fp16": torch.half,
             "bf16": torch.bfloat16}  # fmt: skip
    for name, dtype in kinds.items():
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        matrix = random.to(dtype)
        matrix @ matrix  # loads the library
        speeds[name] = 2 * side**3 / session.seconds(partial(torch.mm, matrix, matrix), 5) / 1e12
    torch.backends.cuda.matmul.allow_tf32 = False
    return speeds


def rib(session: Session) -> dict[str, dict[str, float]]:
    """RIB in every precision: seconds of an image, distance from float32, memory."""
    rows, exact = {}, None
    for precision in PRECISIONS:
        work = RIBWork(session, precision)
        maps = work()  # the first one loads libraries
        if session.on_gpu:
            torch.cuda.reset_peak_memory_stats(session.device)
        exact = maps if exact is None else exact
        rows[precision] = {
            "seconds per image": session.seconds(work, session.images),
            "from float32": apart(maps, exact),
            "from itself": apart(work(), maps),
        }
        if session.on_gpu:
            peak = torch.cuda.max_memory_allocated(session.device)
            rows[precision]["peak GiB"] = peak / 2**30
    return rows


def profiled(session: Session) -> dict[str, Any]:
    """One image under the profiler: waits for values, how busy the GPU is, its slowest kernels."""
    work = RIBWork(session, "tf32")
    work()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if session.on_gpu else [])]
    with profile(activities=kinds) as profiler:
        seconds = session.seconds(work)
    averages = profiler.key_averages()
    waits = sum(e.count for e in averages if e.key == "aten::_local_scalar_dense")
    spent = {e.key: getattr(e, "self_device_time_total", 0) / 1e6 for e in averages}
    found = {"operations": sum(e.count for e in averages), "waits": waits, "seconds": seconds}
    if session.on_gpu:
        slowest = sorted(spent.items(), key=lambda pair: -pair[1])[:15]
        found |= {"busy": sum(spent.values()) / seconds, "slowest": dict(slowest)}
    return found


def _rib_alone(session: Session, precision: str, report: Callable) -> None:
    work = RIBWork(session, precision)
    work()
    report(session.seconds(work, session.images))


def processes(session: Session) -> dict[str, float]:
    """Images per second of several processes on one GPU, in TF32."""
    speeds = {}
    for count in session.processes:
        reports = in_processes(partial(_rib_alone, session), ["tf32"] * count, "RIB")
        speeds[f"{count}"] = sum(1 / seconds for _, seconds in reports)
    return speeds


def deterministic(session: Session) -> dict[str, bool]:
    """Two runs with --deterministic are bitwise identical."""
    work = RIBWork(session, "tf32")
    try:
        session.compute_in("tf32", deterministic=True)
        first, second = work(), work()
    finally:
        torch.use_deterministic_algorithms(False)
    return {"equal": all(torch.equal(a, b) for a, b in zip(first, second, strict=True))}


PARTS = {
    "flags": flags,
    "matrix products, TFLOP/s": matrix_products,
    "RIB": rib,
    "one image under the profiler": profiled,
    "processes on one GPU, images per second": processes,
    "deterministic": deterministic,
}


def measure(out: Path, device: torch.device) -> dict[str, Any]:
    """Measure all parts and write the file; returns what was found, by part."""
    out.mkdir(parents=True, exist_ok=True)
    session, found, start = session_on(device), {}, time.monotonic()
    for name, part in PARTS.items():
        if time.monotonic() - start > BUDGET:
            break
        print(f"{name} ...", flush=True)
        try:
            found[name] = part(session)
        except Exception as error:  # the others are still worth having
            found[name] = {"failed": f"{error}", "where": traceback.format_exc().splitlines()[-3:]}
        if session.on_gpu:
            torch.cuda.empty_cache()
        content = json.dumps(found, indent=1, default=str) + "\n"
        (out / "session.json").write_text(content)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.gpu_session")
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    args = parser.parse_args(argv)
    measure(args.out, args.device)


if __name__ == "__main__":
    main()
