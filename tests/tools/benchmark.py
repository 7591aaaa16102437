"""Times parts of the project against plain forms of the same formulas (`tests/references.py`).

    python -m tests.tools.benchmark [names ...] [--repeats 5] [--sizes 128 320 ...] [--device cuda]
                              [--full] [--json FILE] [--gpu_session DIR]

Both forms get the same made-up input and take turns in one process, and their results are compared.
What counts is the ratio of their median times. Peak memory is measured in processes of their own.
Where RIB_TEST_DATA names a folder with data/VOC2012_SEG_AUG, its photographs take the place of
drawn images.
"""

import argparse
import contextlib
import json
import multiprocessing
import platform
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from misc.runtime.processes import cpu_count
from tests.tools import gpu_session, pipeline
from tests.tools.comparisons import (
    COMPARISONS,
    CPU,
    Comparison,
    Entry,
    Results,
    Walk,
    photograph_folder,
    timed,
)

PLAIN_BUDGET = 300.0  # seconds of plain runs after which the plain way is not repeated again
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that ru_maxrss counts in


class Memory(NamedTuple):
    """Bytes by which one run raises the peak of a process, or of the GPU."""

    plain: int
    here: int

    @property
    def ratio(self) -> float:
        """How many times less the project's way takes."""
        return self.plain / max(self.here, 1)


class Times(NamedTuple):
    """Seconds of every run, and how far the results lie apart."""

    plain: list[float]
    here: list[float]
    difference: float  # as a share of the largest value
    matrix: list[float]  # of a large matrix product between them, where operations are counted

    @property
    def ratio(self) -> float:
        """How many times faster the project's way is, by the medians."""
        return median(self.plain) / median(self.here)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Quartiles of the ratio of runs that followed each other."""
        ratios = [plain / here for plain, here in zip(self.plain, self.here, strict=False)]
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        return low, high


class Rates(NamedTuple):
    """Floating-point operations per second."""

    plain: float
    here: float
    matrix: float  # of a large matrix product, measured between the runs of the two ways

    @property
    def shares(self) -> tuple[float, float]:
        """Of both ways in the matrix product's rate."""
        return self.plain / self.matrix, self.here / self.matrix


def difference(here: Results, plain: Results) -> float:
    """Largest difference of two results, as a share of the largest value of each part."""
    shares = []
    for ours, theirs in zip(here, plain, strict=True):
        ours, theirs = (
            np.asarray(part.cpu() if isinstance(part, torch.Tensor) else part, dtype=np.float64)
            for part in (ours, theirs)
        )
        if ours.shape != theirs.shape:
            return float("inf")
        shares.append(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))
    return float(np.max(shares))


@contextlib.contextmanager
def opened(entry: Entry, sizes: dict[str, Any], device: torch.device) -> Iterator[Comparison]:
    """A comparison on the device where it runs; its files are removed at the end."""
    with contextlib.closing(entry.kind(**sizes)) as comparison:
        comparison.use(device if entry.kind.on_gpu else CPU)
        yield comparison


def warm_up(entry: Entry, device: torch.device) -> None:
    """Loads the code of the libraries."""
    with opened(entry, entry.toy_sizes, device) as toy:
        measure_times(toy, repeats=1)


def measure_times(comparison: Comparison, repeats: int) -> Times:
    """Runs the two ways in turn; the plain one no more once it has spent its budget."""
    comparison.prepare_plain()
    plain_times, here_times, matrix_times, spent = [], [], [], 0.0
    for _ in range(repeats):
        if comparison.with_flops:
            matrix_times += matrix_seconds(comparison.device)
        if spent < PLAIN_BUDGET:
            # A part may stand for the whole: what it takes is not what it counts.
            taken, (seconds, outcome) = timed(comparison.timed_plain)
            plain_times.append(seconds)
            spent += taken
        seconds, here = timed(comparison.here, comparison.device)
        here_times.append(seconds)
    apart = difference(comparison.here_results(here), comparison.plain_results(outcome))
    return Times(plain_times, here_times, apart, matrix_times)


def measure_rates(comparison: Comparison, times: Times) -> Rates:
    """Operations of convolutions and matrix products of each way over its median time."""
    rates = []
    for way, seconds in ((comparison.plain, times.plain), (comparison.here, times.here)):
        with FlopCounterMode(display=False) as counter:
            way()
        rates.append(counter.get_total_flops() / median(seconds))
    return Rates(*rates, matrix_rate(comparison.device, times.matrix))


def matrix_seconds(device: torch.device, dtype: torch.dtype = torch.float32) -> list[float]:
    """Seconds of five products of two large matrices."""
    side = _matrix_side(device)
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    matrix @ matrix  # the first one loads the library
    return [timed(lambda: matrix @ matrix, device)[0] for _ in range(5)]


def matrix_rate(device: torch.device, seconds: Sequence[float]) -> float:
    """Floating-point operations per second, by the median of `matrix_seconds`."""
    return 2 * _matrix_side(device) ** 3 / median(seconds)


def _matrix_side(device: torch.device) -> int:
    return 8192 if device.type == "cuda" else 1024


def peak_growth(entry: Entry, way: str, device: torch.device) -> int:
    """Bytes by which one run of a way ("plain" or "here") raises the peak of this process.

    On a GPU: the peak of its allocated memory.
    """
    warm_up(entry, device)
    with opened(entry, entry.sizes, device) as comparison:
        if comparison.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        before = peak_bytes(comparison.device)
        if way == "plain":
            comparison.prepare_plain()
            comparison.timed_plain()
        else:
            comparison.here()
        return peak_bytes(comparison.device) - before


def peak_bytes(device: torch.device) -> int:
    """Most bytes so far: of this process in main memory, or of what it holds on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return RSS_UNIT * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_memory(entry: Entry, device: torch.device) -> Memory:
    """Peaks of both ways, each in a new process.

    A process inherits the peak of the one that starts it, so this comes before everything large.
    """
    peaks = []
    for way in Memory._fields:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks.append(pool.apply(peak_growth, (entry._replace(at=None), way, device)))
    return Memory(*peaks)


class Report(NamedTuple):
    """What was found out about one comparison."""

    name: str
    what: str
    entry: Entry
    images: int
    times: Times
    memory: Memory | None
    rates: Rates | None
    remark: str

    @property
    def agrees(self) -> bool:
        """Whether the two ways give the same result, within the tolerance."""
        return self.times.difference <= self.entry.kind.tolerance

    @property
    def images_per_second(self) -> tuple[float, float]:
        """Of the plain and of the project's way."""
        return self.images / median(self.times.plain), self.images / median(self.times.here)


def measure(
    name: str, entry: Entry, repeats: int, device: torch.device, memory: Memory | None
) -> Report:
    """Times one comparison at full size; the peaks of memory have been measured before."""
    warm_up(entry, device)
    with opened(entry, entry.sizes, device) as comparison:
        times = measure_times(comparison, repeats)
        rates = measure_rates(comparison, times) if comparison.with_flops else None
        what, images, remark = comparison.what, comparison.images, comparison.remark()
    return Report(name, what, entry, images, times, memory, rates, remark)


# --- report ---------------------------------------------------------------------------------------


def machine(device: torch.device) -> str:
    """The processor, how much of it is used, the versions, the GPU, and the kind of images."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    images = "photographs" if photograph_folder() else "drawn images"
    return (
        f"{name}, {cpu_count()} cores, {torch.get_num_threads()} threads{gpu}, "
        f"torch {torch.__version__}, Python {platform.python_version()}, {images}"
    )


def matrix_rates(device: torch.device) -> dict[str, float]:
    """Rates of matrix products by type, before the comparisons."""
    types = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]
    return {
        str(dtype).removeprefix("torch."): matrix_rate(device, matrix_seconds(device, dtype))
        for dtype in types
    }


def format_times(seconds: list[float]) -> str:
    """Median, range and number of runs."""
    factor, unit = (1e3, "ms") if median(seconds) < 1 else (1, "s")
    middle, low, high = (f"{factor * t:.3g}" for t in (median(seconds), min(seconds), max(seconds)))
    return f"{middle} {unit} ({low} to {high}, n = {len(seconds)})"


def format_ratio(times: Times) -> str:
    """Ratio of the medians and quartiles of the ratio."""
    low, high = times.quartiles
    return f"{times.ratio:.3g} x ({low:.3g} to {high:.3g})"


def format_goal(report: Report) -> str:
    """The goals of a comparison and whether they are met."""
    entry, times = report.entry, report.times
    goals, met = [], True
    if entry.goal_ratio is not None:
        goals.append(f"{entry.goal_ratio:g} x")
        met &= times.ratio >= entry.goal_ratio
    if entry.goal_seconds is not None:
        goals.append(f"{entry.goal_seconds:g} s")
        met &= median(times.here) <= entry.goal_seconds
    if entry.goal_memory is not None:
        goals.append(f"1/{entry.goal_memory:g} memory")
        met &= report.memory.ratio >= entry.goal_memory
    if entry.goal_share is not None:
        goals.append(f"{entry.goal_share:.0%} of the matrix rate")
        met &= report.rates.shares[1] >= entry.goal_share
    return f"{', '.join(goals)}: {'met' if met else 'missed'}" if goals else "-"


def format_memory(memory: Memory | None) -> str:
    """Peak memory of both ways."""
    if memory is None:
        return "-"
    return f"{memory.plain / 2**20:.0f} / {memory.here / 2**20:.0f} MiB"


def format_rates(rates: Rates | None) -> str:
    """GFLOP/s of both ways, of a matrix product in float32, and the shares in it."""
    if rates is None:
        return "-"
    plain, here, matrix = (f"{rate / 1e9:.3g}" for rate in rates)
    return f"{plain} / {here} of {matrix} ({' / '.join(f'{share:.0%}' for share in rates.shares)})"


def format_table(reports: Sequence[Report], matrix: dict[str, float]) -> str:
    """One line for each comparison in columns of equal width, then the remarks."""
    rows = [
        (
            report.what,
            format_times(report.times.plain),
            format_times(report.times.here),
            format_ratio(report.times),
            format_goal(report),
            format_memory(report.memory),
            " / ".join(f"{rate:.3g}" for rate in report.images_per_second),
            format_rates(report.rates),
            f"{report.times.difference:.0e}{'' if report.agrees else ' TOO LARGE'}",
        )
        for report in reports
    ]
    headings = ("what", "plain", "here", "ratio", "goal", "memory", "images/s", "GFLOP/s", "apart")
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (headings, *rows)]
    remarks = [f"{report.what}: {report.remark}" for report in reports if report.remark]
    products = ", ".join(f"{dtype} {rate / 1e9:.3g}" for dtype, rate in matrix.items())
    explanation = (
        "Two figures are plain / here. Times: median (range, n runs). Ratio: of the medians "
        "(quartiles of the ratio of consecutive runs). Memory: growth of the peak in a process of "
        "its own. GFLOP/s: of convolutions and matrix products, and their share of what a large "
        f"matrix product reaches between these runs (at the start: {products}). Apart: difference "
        "of the results, as a share of the largest value."
    )
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], "", explanation, *remarks])


def to_json(report: Report) -> dict[str, Any]:
    """All numbers of a report: seconds and bytes."""
    plain, here = report.images_per_second
    return {
        "name": report.name,
        "what": report.what,
        "seconds": {"plain": report.times.plain, "here": report.times.here},
        "ratio": report.times.ratio,
        "ratio_quartiles": report.times.quartiles,
        "images_per_second": {"plain": plain, "here": here},
        "goal_ratio": report.entry.goal_ratio,
        "goal_seconds": report.entry.goal_seconds,
        "goal_memory": report.entry.goal_memory,
        "goal_share": report.entry.goal_share,
        "memory_bytes": report.memory._asdict() if report.memory else None,
        "flops_per_second": report.rates._asdict() if report.rates else None,
        "difference": report.times.difference,
        "agrees": report.agrees,
        "remark": report.remark,
    }


def at_sizes(
    name: str, entry: Entry, sides: Sequence[int]
) -> tuple[list[tuple[str, Entry]], list[str]]:
    """The comparison at images with these longer sides, without goals, and what was left out."""
    if not sides:
        return [(name, entry)], []
    if entry.at is None:
        return [], [f"{name}: has one size only; run it without --sizes"]
    fitting = [side for side in sides if entry.largest is None or side <= entry.largest]
    goals = dict.fromkeys(field for field in Entry._fields if field.startswith("goal_"))
    runs = [(f"{name}_{side}", entry._replace(sizes=entry.at(side), **goals)) for side in fitting]
    beyond = [str(side) for side in sides if side not in fitting]
    if not beyond:
        return runs, []
    return runs, [f"{name}: left out at {', '.join(beyond)}: the plain way takes too much there"]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.benchmark",
        description="Times parts of the project against plain forms of the same formulas.",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="name", help=f"of {', '.join(COMPARISONS)}")
    add("--repeats", type=int, default=5, help="runs of each way (default: %(default)s)")
    add("--sizes", type=int, nargs="+", default=[], metavar="PX",
        help="longer sides of images, 128 to 640 for instance: the comparisons that have a size "
        "are made at each of them")  # fmt: skip
    add("--device", type=torch.device, default=CPU, metavar="NAME",
        help="where tensors and networks are, cpu or cuda (default: %(default)s)")  # fmt: skip
    add("--full", action="store_true", help="walk: square the dense matrix 8 times (minutes)")
    add("--json", type=Path, metavar="FILE", help="write all numbers there too")
    add("--gpu_session", type=Path, metavar="DIR",
        help="measure on a GPU what is still to be known (40 minutes at most) and write "
        "session.json and session.md there; without one, toys are run through")  # fmt: skip
    add("--pipeline", type=int, metavar="N",
        help="run the whole pipeline on N drawn photographs of 375 x 500 pixels and time its "
        "steps; takes the options of run_sample.py, too (tests/tools/pipeline.py)")  # fmt: skip
    args = parser.parse_args(argv)
    unknown = sorted(set(args.names) - set(COMPARISONS))
    if unknown:
        parser.error(f"no comparison is called {unknown[0]}; choose of {', '.join(COMPARISONS)}")
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats} is not 1 or more")
    if args.sizes and min(args.sizes) < 128:
        parser.error(f"--sizes {min(args.sizes)} is not 128 or more")
    if args.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: no such GPU here; leave the option out")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 1 where two results differ."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word.partition("=")[0] == "--pipeline" for word in words):  # with options of a run
        return pipeline.main(words)
    args = parse_args(words)
    if args.gpu_session:
        gpu_session.hold(args.gpu_session, args.device)
        return 0
    runs, left_out = [], []
    for name in dict.fromkeys(args.names or COMPARISONS):
        entry = COMPARISONS[name]
        if args.full and name == "walk":
            entry = entry._replace(kind=Walk)
        at, beyond = at_sizes(name, entry, sorted(set(args.sizes)))
        runs += at
        left_out += beyond
    memories = {n: measure_memory(e, args.device) for n, e in runs if e.kind.with_memory}
    matrix = matrix_rates(args.device)
    reports = []
    for name, entry in runs:
        reports.append(measure(name, entry, args.repeats, args.device, memories.get(name)))
        print(f"{name} done", file=sys.stderr)
    print(machine(args.device), "", *([format_table(reports, matrix)] if reports else []), sep="\n")
    print(*left_out, sep="\n", end="\n" if left_out else "")
    if args.json:
        content = {
            "machine": machine(args.device),
            "matrix_flops_per_second": matrix,
            "comparisons": [to_json(report) for report in reports],
            "left_out": left_out,
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(report.agrees for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
