"""What to measure when a GPU is at hand: one script, at most 40 minutes, one JSON and one page.

    python -m tests.tools.benchmark --gpu_session OUT [--device cuda]

Writes OUT/session.json and OUT/session.md. Every part is measured by itself: one that fails is
noted with its error and the others go on. On a processor the sizes are toys, which shows that the
script works and nothing else.
"""

import contextlib
import copy
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
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
from misc.indexing import WalkSettings
from misc.rib import RIBSettings, fine_tune
from misc.runtime.devices import machine, set_up_process
from misc.runtime.processes import Resources, in_processes
from net.inference import pseudo_mask
from net.resnet50_cam import CAM
from net.resnet50_irn import EdgeDisplacement
from tests.tools.launches import Counting
from tests.weights import fill_by_recipe

BUDGET = 40 * 60.0  # seconds after which no further part begins
PRECISIONS = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class Sizes:
    """How large everything is: VOC's photographs and the published settings, or a toy."""

    image: tuple[int, int] = (375, 500)
    width: int = 64
    stem: int = 64
    crops: tuple[int, int] = (20, 512)
    iterations: int = 10
    images: int = 4  # for a rate
    matrix: int = 8192
    processes: tuple[int, ...] = (1, 2, 3)


TOY = Sizes((32, 48), 8, 8, (2, 32), 2, 1, 64, (1,))


@dataclass
class Session:
    """Where the parts of a session are measured, and what they have found."""

    device: torch.device
    sizes: Sizes
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether the figures mean anything."""
        return self.device.type == "cuda"

    def timed(self, work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
        """Median seconds of a call until the device has finished, and its last result."""
        seconds, result = [], None
        for _ in range(repeats):
            self._wait()
            start = time.perf_counter()
            result = work()
            self._wait()
            seconds.append(time.perf_counter() - start)
        return median(seconds), result

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def computing_in(self, precision: str, deterministic: bool = False) -> None:
        """Set the flags of a precision."""
        resources = Resources(precision=precision, deterministic=deterministic)
        set_up_process(resources, self.device, torch.get_num_threads())


class RIBWork:
    """RIB on one photograph, from weights by recipe: maps that depend on the precision alone."""

    def __init__(self, session: Session, precision: str = "float32"):
        sizes, self.session = session.sizes, session
        session.computing_in(precision)
        model = CAM(20, width=sizes.width, stem=sizes.stem)
        with torch.no_grad():
            fill_by_recipe(model)
        layout = torch.channels_last if session.on_gpu else torch.contiguous_format
        self.model = model.to(session.device, memory_format=layout)
        self.model.bf16 = precision == "bf16"
        self.trained = copy.deepcopy(model.state_dict())
        image = photograph(sizes)
        self.settings = RIBSettings(
            iterations=sizes.iterations, margin=float("inf"), explode_ratio=1.0
        )
        pairs = multi_scale_pairs(image, self.settings.scales)
        self.pairs = [pair.to(session.device) for pair in pairs]
        count, side = sizes.crops
        generator = torch.Generator().manual_seed(0)
        crops = torch.randn(count, 3, side, side, generator=generator)
        batch = (crops, torch.eye(20)[5].expand(count, -1))
        self.batch = tuple(part.to(session.device) for part in batch)

    def __call__(self) -> list[torch.Tensor]:
        """The sums of the maps."""
        batches = iter([self.batch] * self.settings.iterations)
        label = torch.eye(20)[7].to(self.session.device)
        self.model.load_state_dict(self.trained)
        *_, last = fine_tune(self.model, self.pairs, label, batches, self.settings)
        return [sums.float().cpu() for sums in last.map_sums]


def photograph(sizes: Sizes) -> np.ndarray:
    """A drawn image, H x W x 3 uint8."""
    return draw_scene(np.random.default_rng(0), OBJECT_CLASSES[3:5], sizes.image).image


def apart(maps: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Largest difference as a share of the peak of each scale."""
    pairs = zip(maps, exact, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)) for a, b in pairs)


# --- the parts ------------------------------------------------------------------------------------


def flags(session: Session) -> dict[str, Any]:
    """The machine, and what PyTorch's defaults are."""
    found = {
        **machine(),
        "cudnn": torch.backends.cudnn.version(),
        "products in TF32 by default": torch.backends.cuda.matmul.allow_tf32,
        "convolutions in TF32 by default": torch.backends.cudnn.allow_tf32,
    }
    if session.on_gpu:
        found["memory GiB"] = torch.cuda.get_device_properties(session.device).total_memory / 2**30
    return found


def matrix_rates(session: Session) -> dict[str, float]:
    """TFLOP/s of a large product of random matrices; of ones a GPU is faster than of data."""
    side, rates = session.sizes.matrix, {}
    random = torch.randn(side, side, device=session.device)
    for name, dtype in (("float32", None), ("tf32", None), ("fp16", torch.half),
                        ("bf16", torch.bfloat16)):  # fmt: skip
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        matrix = random.to(dtype or torch.float32)
        matrix @ matrix
        seconds, _ = session.timed(partial(torch.matmul, matrix, matrix), repeats=5)
        rates[name] = 2 * side**3 / seconds / 1e12
    torch.backends.cuda.matmul.allow_tf32 = False
    return rates


def rib(session: Session) -> dict[str, dict[str, float]]:
    """RIB at full size in every precision: seconds of an image, memory, distance from float32."""
    rows, exact = {}, None
    for precision in PRECISIONS:
        work = RIBWork(session, precision)
        maps = work()  # the first one loads libraries
        if session.on_gpu:
            torch.cuda.reset_peak_memory_stats(session.device)
        seconds, again = session.timed(work, repeats=session.sizes.images)
        exact = maps if exact is None else exact
        rows[precision] = {
            "seconds per image": seconds,
            "seconds per iteration": seconds / session.sizes.iterations,
            "from float32": apart(maps, exact),
            "from itself": apart(again, maps),
        }
        if session.on_gpu:
            peak = torch.cuda.max_memory_allocated(session.device)
            rows[precision]["peak GiB"] = peak / 2**30
    return rows


def trace(session: Session) -> dict[str, Any]:
    """One image under the profiler: operations, waits, share of the time the GPU is busy."""
    work = RIBWork(session, "tf32")
    work()
    with Counting() as counting:
        work()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if session.on_gpu else [])]
    with profile(activities=kinds) as profiler:
        seconds, _ = session.timed(work)
    averages = profiler.key_averages()
    spent = {e.key: getattr(e, "self_device_time_total", 0) / 1e6 for e in averages}
    slowest = sorted(spent.items(), key=lambda pair: -pair[1])[:15]
    return {
        **counting.found()._asdict(),
        "seconds": seconds,
        "busy": sum(spent.values()) / seconds if session.on_gpu else None,
        "slowest": dict(slowest) if session.on_gpu else {},
    }


def _rib_share(session: Session, precision: str, report: Callable) -> None:
    work = RIBWork(session, precision)
    work()
    report("ready")
    seconds, _ = session.timed(work, repeats=session.sizes.images)
    report(seconds)


def processes(session: Session) -> dict[str, float]:
    """Images per second of several processes on one GPU, in TF32."""
    rates = {}
    for count in session.sizes.processes:
        body = partial(_rib_share, session)
        reports = list(in_processes(body, ["tf32"] * count, "RIB"))
        seconds = [found for _, found in reports if found != "ready"]
        rates[f"{count}"] = sum(1 / each for each in seconds)
    return rates


def pseudo_masks(session: Session) -> dict[str, float]:
    """Pseudo masks per second."""
    sizes = session.sizes
    model = EdgeDisplacement(width=sizes.width, stem=sizes.stem)
    with torch.no_grad():
        fill_by_recipe(model)
    model = model.to(session.device).eval()
    rng, image = np.random.default_rng(0), photograph(sizes)
    height, width = ((side - 1) // 4 + 1 for side in sizes.image)
    maps = {"keys": np.array([3, 7]), "cam": rng.random((2, height, width), dtype=np.float32)}
    work = partial(pseudo_mask, model, image, maps, WalkSettings(), 0)
    work()
    seconds, _ = session.timed(work, repeats=3)
    return {"per second": 1 / seconds}


def deterministic(session: Session) -> dict[str, bool]:
    """Whether two runs give the same bits with --deterministic."""
    try:
        work = RIBWork(session, "tf32")
        session.computing_in("tf32", deterministic=True)
        first, second = work(), work()
    finally:
        torch.use_deterministic_algorithms(False)
    return {"equal": all(torch.equal(a, b) for a, b in zip(first, second, strict=True))}


PARTS = {
    "flags": flags,
    "matrix rates, TFLOP/s": matrix_rates,
    "RIB": rib,
    "one image under the profiler": trace,
    "processes on one GPU, images per second": processes,
    "pseudo masks": pseudo_masks,
    "deterministic": deterministic,
}


def page(session: Session, seconds: float) -> str:
    """The figures as Markdown."""
    kind = "" if session.on_gpu else " (toy sizes on a processor: no figures)"
    lines = [f"# A session on {session.device}{kind}", "", f"{seconds:.0f} s", ""]
    for name, found in session.found.items():
        lines += [f"## {name}", ""]
        lines += [f"- {key}: {_said(value)}" for key, value in found.items()]
        lines.append("")
    return "\n".join(lines)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(each)}" for key, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def hold(out: Path, device: torch.device) -> dict[str, Any]:
    """Measure all parts and write the two files; what was found, by part."""
    out.mkdir(parents=True, exist_ok=True)
    session = Session(device, Sizes() if device.type == "cuda" else TOY)
    start = time.monotonic()
    for name, part in PARTS.items():
        if time.monotonic() - start > BUDGET:
            session.found[name] = {"left out": "the time is over"}
            continue
        print(f"{name} ...", flush=True)
        try:
            session.found[name] = part(session)
        except Exception as error:  # the others are still worth having
            last = traceback.format_exc().splitlines()[-3:]
            session.found[name] = {"failed": f"{error}", "where": " ".join(last)}
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
        # After every part: a session may end at any time.
        content = json.dumps(session.found, indent=1, default=str) + "\n"
        (out / "session.json").write_text(content, encoding="utf-8")
        text = page(session, time.monotonic() - start)
        (out / "session.md").write_text(text, encoding="utf-8")
    return session.found
