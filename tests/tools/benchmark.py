"""Times parts of the project against reference implementations (`tests/references.py`).

    python -m tests.tools.benchmark [name ...] [--repeats 5] [--device cuda] [--json FILE]

Both get the same made-up input and take turns in one process. Their results are compared in strict
float32, and timed in what a GPU computes by default (convolutions in TF32). The ratio of their
median times is what counts. Peak memory is measured in processes of their own.
"""

import argparse
import json
import multiprocessing
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch

from misc.runtime.devices import machine, set_up_process
from misc.runtime.processes import Resources, cpu_count
from tests.tools.comparisons import COMPARISONS, CPU, Comparison, Entry, Results, timed

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that ru_maxrss counts in


@dataclass(frozen=True)
class Report:
    """The figures of a comparison: seconds of every run, growth of the peak memory in bytes."""

    name: str
    title: str
    reference: list[float]
    ours: list[float]
    memory: tuple[int, int] | None  # reference, ours
    difference: float  # as a fraction of the largest value
    agrees: bool  # the difference is within the tolerance

    @property
    def ratio(self) -> float:
        """The factor by which the project is faster, by the medians."""
        return median(self.reference) / median(self.ours)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Quartiles of the ratio of consecutive runs."""
        ratios = [one / other for one, other in zip(self.reference, self.ours, strict=True)]
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        return low, high


def difference(ours: Results, reference: Results) -> float:
    """The largest difference, as a fraction of the largest value of each part."""
    fractions = []
    for one, other in zip(ours, reference, strict=True):
        one, other = (
            np.asarray(part.cpu() if isinstance(part, torch.Tensor) else part, dtype=np.float64)
            for part in (one, other)
        )
        if one.shape != other.shape:
            return float("inf")
        fractions.append(np.abs(one - other).max() / max(np.abs(other).max(), 1e-30))
    return float(np.max(fractions))


def measure(name: str, entry: Entry, repeats: int, device: torch.device, memory=None) -> Report:
    """Compare the results of one comparison, which also loads the libraries, then time it."""
    comparison = entry.kind(device, **entry.sizes)
    compute_in("float32", comparison.device)
    _, expected = comparison.timed_reference()
    apart = difference(comparison.ours(), expected)
    agrees = apart <= comparison.tolerance
    compute_in("tf32", comparison.device)
    seconds = {"reference": [], "ours": []}
    for _ in range(repeats):
        seconds["reference"].append(comparison.timed_reference()[0])
        seconds["ours"].append(timed(comparison.ours, comparison.device)[0])
    return Report(name, comparison.title, **seconds, memory=memory, difference=apart, agrees=agrees)


def compute_in(precision: str, device: torch.device) -> None:
    """Set PyTorch's flags as a run with this --precision does."""
    set_up_process(Resources(precision=precision), device, torch.get_num_threads())


def measure_memory(entry: Entry, device: torch.device) -> tuple[int, int] | None:
    """Growth of the peak by the reference and by the project, each in a new process.

    A process inherits the peak of the one that starts it, so this comes before the comparisons.
    """
    if not entry.kind.with_memory:
        return None
    peaks = []
    for way in ("timed_reference", "ours"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks.append(pool.apply(peak_growth, (entry, way, device)))
    return tuple(peaks)


def peak_growth(entry: Entry, way: str, device: torch.device) -> int:
    """Bytes by which one run raises the peak of this process, or of the memory of a GPU."""
    getattr(entry.kind(device, **entry.small), way)()
    comparison = entry.kind(device, **entry.sizes)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = peak_bytes(comparison)
    getattr(comparison, way)()
    return peak_bytes(comparison) - before


def peak_bytes(comparison: Comparison) -> int:
    """The peak of this process in main memory, or of its memory on a GPU."""
    if comparison.device.type == "cuda":
        return torch.cuda.max_memory_allocated(comparison.device)
    return RSS_UNIT * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# --- report ---------------------------------------------------------------------------------------


def format_times(seconds: list[float]) -> str:
    """Median, range and number of runs."""
    factor, unit = (1e3, "ms") if median(seconds) < 1 else (1, "s")
    middle, low, high = (f"{factor * t:.3g}" for t in (median(seconds), min(seconds), max(seconds)))
    return f"{middle} {unit} ({low} to {high}, n = {len(seconds)})"


def format_table(reports: Sequence[Report]) -> str:
    """One line for each comparison in columns of equal width."""
    rows = [("comparison", "reference", "ours", "ratio", "memory", "difference")]
    for report in reports:
        low, high = report.quartiles
        peaks = [f"{size / 2**20:.0f}" for size in report.memory or ()]
        rows.append((
            report.title,
            format_times(report.reference),
            format_times(report.ours),
            f"{report.ratio:.3g} x ({low:.3g} to {high:.3g})",
            f"{' / '.join(peaks)} MiB" if peaks else "-",
            f"{report.difference:.0e}{'' if report.agrees else ' TOO LARGE'}",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    explanation = (
        "Times: median (range, n runs). Ratio: of the medians (quartiles of the ratio of "
        "consecutive runs). Memory: growth of the peak in a process of its own, reference / ours. "
        "Difference: of the results, as a fraction of the largest value."
    )
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], "", explanation])


def to_json(report: Report) -> dict[str, object]:
    """All figures of a report: seconds and bytes."""
    return {**asdict(report), "ratio": report.ratio, "ratio_quartiles": report.quartiles}


def device_named(name: str) -> torch.device:
    """The device of an option; a GPU gets the number that `torch.cuda.set_device` wants."""
    return torch.device(f"{name}:0" if name == "cuda" else name)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.benchmark",
        description="Times parts of the project against reference implementations.",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="name", help=f"of {', '.join(COMPARISONS)}")
    add("--repeats", type=int, default=5, help="runs of each (default: %(default)s)")
    add("--device", type=device_named, default=CPU, metavar="NAME",
        help="where tensors and networks are, cpu or cuda (default: %(default)s)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write all figures there too")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.names) - set(COMPARISONS)):
        parser.error(f"no comparison is called {unknown[0]}; choose of {', '.join(COMPARISONS)}")
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats} is not 1 or more")
    if args.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: no such GPU here; leave the option out")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns 1 where two results differ."""
    args = parse_args(argv)
    entries = {name: COMPARISONS[name] for name in args.names or COMPARISONS}
    memory = {name: measure_memory(entry, args.device) for name, entry in entries.items()}
    reports = []
    for name, entry in entries.items():
        reports.append(measure(name, entry, args.repeats, args.device, memory[name]))
        print(f"{name} done", file=sys.stderr)
    host = {**machine(), "cores": cpu_count(), "threads": torch.get_num_threads()}
    print(", ".join(f"{key}: {value}" for key, value in host.items()))
    print("", format_table(reports), sep="\n")
    if args.json:
        content = {"machine": host, "comparisons": [to_json(report) for report in reports]}
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(report.agrees for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
