"""Times parts of the project against plain forms of the same formulas (`tests/references.py`).

    python -m tests.benchmark [names ...] [--repeats 5] [--full] [--json FILE]

Both forms get the same made-up input and take turns in one process, and their results are compared.
What counts is the ratio of their median times. Peak memory is measured in processes of their own.
"""

import argparse
import contextlib
import json
import multiprocessing
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from Dataset.objects import CAT, DOG, smooth_noise
from Dataset.scene import draw_scene
from misc.cams import load_cam, save_cam
from misc.datasets import multi_scale_pairs
from misc.indexing import PathIndex, propagate_to_edge
from misc.metrics import ThresholdScores
from misc.palette import read_label_png, save_label_png
from misc.processes import cpu_count
from misc.rib import RIB, RIBSettings
from misc.torchutils import gndp2d
from net.resnet50_cam import CAM
from net.resnet50_irn import AffinityDisplacementLoss
from step.cam_to_ir_label import confident_labels
from tests import references
from tests.weights import fill_by_recipe

Size = tuple[int, int]
Results = Sequence[torch.Tensor | np.ndarray]

PLAIN_BUDGET = 30.0  # seconds of plain runs after which the plain way is not repeated again
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that ru_maxrss counts in


class Comparison:
    """A piece of work on made-up input, done in the project's way and in the plain way."""

    what = ""  # with sizes
    tolerance = 1e-4  # allowed difference of the results, as a share of the largest value
    with_memory = False
    note = ""

    def here(self) -> Results:
        """The project's way."""
        raise NotImplementedError

    def plain(self) -> Results:
        """The plain way; returns the same as `here`."""
        raise NotImplementedError

    def prepare_plain(self) -> None:
        """Makes what the plain way keeps between calls: part of its memory, not of its time."""

    def timed_plain(self) -> tuple[float, Any]:
        """Seconds of the plain way, and what `plain_results` takes."""
        return timed(self.plain)

    def plain_results(self, outcome: Any) -> Results:
        """The results of the plain way."""
        return outcome

    def close(self) -> None:
        """Removes the files of the input."""


class Walk(Comparison):
    """Random walk: shifted views step by step, or a dense matrix that is squared."""

    with_memory = True
    beta, radius, exp_times = 10, 5, 8

    def __init__(self, size: Size, classes: int):
        rng = np.random.default_rng(0)
        self.what = f"random walk, {size[0]} x {size[1]}, {classes} classes"
        noise = smooth_noise(rng, size, cell=12)
        self.edge = torch.from_numpy(0.95 * np.exp(-((noise / 0.15) ** 2)))[None]
        self.x = torch.from_numpy(made_up_cams(rng, size, classes)) ** 1.3

    def here(self) -> Results:
        return [propagate_to_edge(self.x, self.edge, self.radius, self.beta, self.exp_times)]

    def plain(self) -> Results:
        return [references.dense_walk(self.x, self.edge, self.radius, self.beta, self.exp_times)]


class WalkByOneSquaring(Walk):
    """The same at a size at which 8 dense squarings take minutes: one of them is timed."""

    note = "the plain time is that of building the matrix + 8 x that of its first squaring"

    def __init__(self, size: Size, classes: int):
        super().__init__(size, classes)
        self.what += " (plain: one of 8 squarings timed, x 8)"

    def timed_plain(self) -> tuple[float, torch.Tensor]:
        building, matrix = timed(
            lambda: references.dense_transition_matrix(self.edge, self.radius, self.beta)
        )
        squaring, squared = timed(lambda: matrix @ matrix)
        return building + self.exp_times * squaring, squared

    def plain_results(self, outcome: torch.Tensor) -> Results:
        """The scores times the squared matrix, as often as the whole power needs; not timed."""
        walked = (self.x * (1 - self.edge)).flatten(1)
        for _ in range(2 ** (self.exp_times - 1)):
            walked = walked @ outcome
        return [walked.view(len(self.x), 1, *self.edge.shape[-2:])]


class Scoring(Comparison):
    """Scores of saved CAMs at many thresholds: one pass, or all files again for each of them."""

    tolerance = 0
    num_labels = 21
    note = "the files are in the page cache"

    def __init__(self, size: Size, images: int, thresholds: int):
        rng = np.random.default_rng(0)
        self.what = f"scores at {thresholds} thresholds, {images} files of {size[0]} x {size[1]}"
        self.thresholds = np.arange(20, 20 + thresholds) / 100
        self.folder = tempfile.TemporaryDirectory()
        stems = [Path(self.folder.name) / f"image_{i}" for i in range(images)]
        self.cam_files = [stem.with_suffix(".npy") for stem in stems]
        self.truth_files = [stem.with_suffix(".png") for stem in stems]
        for i, (cam_file, truth_file) in enumerate(
            zip(self.cam_files, self.truth_files, strict=True)
        ):
            keys = np.sort(rng.choice(self.num_labels - 1, 1 + i % 3, replace=False))
            cams = made_up_cams(rng, size, len(keys))
            truth = references.argmax_labels(np.roll(cams, 9, axis=2), keys, 0.3).astype(np.uint8)
            truth[:3] = 255
            save_cam(cam_file, keys, cams[:, ::4, ::4], cams)
            save_label_png(truth_file, truth)

    def here(self) -> Results:
        scores = ThresholdScores(self.thresholds, self.num_labels)
        for cam_file, truth_file in zip(self.cam_files, self.truth_files, strict=True):
            maps = load_cam(cam_file)
            scores.add(maps["high_res"], maps["keys"], read_label_png(truth_file))
        return [scores.confusions]

    def plain(self) -> Results:
        files = self.cam_files, self.truth_files
        return [references.confusions_by_threshold(*files, self.thresholds, self.num_labels)]

    def close(self) -> None:
        self.folder.cleanup()


class IRLabels(Comparison):
    """Confident labels: one CRF for both refinements of an image, or one CRF for each."""

    tolerance = 0

    def __init__(self, size: Size):
        rng = np.random.default_rng(0)
        self.what = f"IR labels, {size[0]} x {size[1]}, 2 classes"
        scene = draw_scene(rng, [CAT, DOG], size)
        blurred = [
            gaussian_filter(instance.mask.astype(np.float32), sigma=max(size) / 40)
            for instance in scene.instances
        ]
        self.cams = np.stack([cam / cam.max() for cam in blurred])
        self.image, self.keys = scene.image, np.array([7, 11])[: len(self.cams)]

    def here(self) -> Results:
        return [confident_labels(self.image, self.cams, self.keys, fg_th=0.35, bg_th=0.17)]

    def plain(self) -> Results:
        return [references.confident_labels(self.image, self.cams, self.keys, 0.35, 0.17)]


class Pooling(Comparison):
    """Non-discriminative pooling and its gradient: masked, or looping over images and classes."""

    tolerance = 1e-5
    tau = 0.4
    note = (
        "plain: the gradient of each x[b, c] is as large as x; a loop over x.unbind() avoids that, "
        "and is several times faster"
    )

    def __init__(self, shape: tuple[int, int, int, int]):
        generator = torch.Generator().manual_seed(0)
        self.what = f"pooling with gradient, {' x '.join(map(str, shape))}"
        self.maps = torch.randn(shape, generator=generator)
        self.present = torch.rand(shape[:2], generator=generator) < 0.1
        self.present[:, 0] = True
        self.weights = torch.randn(shape[:2], generator=generator)

    def here(self) -> Results:
        return self._with_gradient(gndp2d)

    def plain(self) -> Results:
        return self._with_gradient(references.looped_pooling)

    def _with_gradient(self, pooling: Callable[..., torch.Tensor]) -> Results:
        maps = self.maps.clone().requires_grad_()
        logits = pooling(maps, self.present, self.tau)
        (logits * self.weights).sum().backward()
        return [logits.detach(), maps.grad]


class Affinity(Comparison):
    """Affinities of all pairs and their gradient: shifted views, or gathered path pixels."""

    with_memory, tolerance = True, 1e-5
    note = "the plain way's memory includes its index tensors; its time does not"

    def __init__(self, batch: int, size: Size, radius: int):
        generator = torch.Generator().manual_seed(0)
        self.what = f"affinity with gradient, {batch} x {size[0]} x {size[1]}, radius {radius}"
        self.path_index = PathIndex(radius, size)
        self.loss = AffinityDisplacementLoss(self.path_index, width=8, stem=8)
        self.edge = torch.rand(batch, 1, *size, generator=generator)
        pairs = len(self.path_index.search_dst)
        self.weights = torch.linspace(-1, 1, pairs)[:, None]

    def prepare_plain(self) -> None:
        self.groups = [torch.from_numpy(group) for group in self.path_index.path_indices]

    def here(self) -> Results:
        return self._with_gradient(self.loss.to_affinity)

    def plain(self) -> Results:
        return self._with_gradient(
            lambda edge: 1 - references.gathered_maximum(edge.squeeze(1), self.groups)
        )

    def _with_gradient(self, to_affinity: Callable[[torch.Tensor], torch.Tensor]) -> Results:
        edge = self.edge.clone().requires_grad_()
        affinity = to_affinity(edge)
        (affinity * self.weights).sum().backward()
        return [affinity.detach(), edge.grad]


class RIBIterations(Comparison):
    """RIB on one image: frozen layers run once, or whole passes and a single backward pass."""

    with_memory = True
    num_classes = 20

    def __init__(self, size: Size, batch: int, crop: int, iterations: int, width: int):
        self.what = (
            f"RIB, {iterations} iterations, width {width}, {size[0]} x {size[1]}, "
            f"batch {batch} x {crop}"
        )
        # A higher rate than the paper's, so that the iterations differ by more than the tolerance.
        self.settings = RIBSettings(
            iterations=iterations, learning_rate=1e-4, margin=float("inf"), explode_ratio=1.0
        )
        image = draw_scene(np.random.default_rng(0), [CAT, DOG], size).image
        self.pairs = multi_scale_pairs(image, self.settings.scales)
        self.label = torch.zeros(self.num_classes)
        self.label[[7, 11]] = 1
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(iterations, batch, 3, crop, crop, generator=generator)
        labels = (
            torch.rand(iterations, batch, self.num_classes, generator=generator) < 0.1
        ).float()
        self.batches = list(zip(images, labels * (1 - self.label), strict=True))
        self.model, self.plain_model = (CAM(self.num_classes, width=width) for _ in range(2))
        fill_by_recipe(self.model)
        self.rib = RIB(self.model, self.settings)
        self.initial = {name: t.clone() for name, t in self.model.state_dict().items()}

    def here(self) -> Results:
        for state in self.rib.iterate(self.pairs, self.label, iter(self.batches)):
            map_sums = state.map_sums
        return map_sums

    def plain(self) -> Results:
        self.plain_model.load_state_dict(self.initial)
        return references.rib_map_sums(
            self.plain_model, self.settings, self.pairs, self.label, iter(self.batches)
        )


class Entry(NamedTuple):
    """A comparison with its sizes (those of the report, and toy sizes) and its goals."""

    kind: type[Comparison]
    sizes: dict[str, Any]
    toy_sizes: dict[str, Any]
    goal_ratio: float | None = None
    goal_seconds: float | None = None  # of the project's way


COMPARISONS = {
    "walk": Entry(
        WalkByOneSquaring,
        {"size": (94, 125), "classes": 2},
        {"size": (11, 14), "classes": 2},
        goal_ratio=100,
        goal_seconds=2,
    ),
    "walk_small": Entry(Walk, {"size": (32, 42), "classes": 2}, {"size": (9, 12), "classes": 1}),
    "scoring": Entry(
        Scoring,
        {"size": (375, 500), "images": 24, "thresholds": 30},
        {"size": (40, 52), "images": 3, "thresholds": 4},
        goal_ratio=20,
    ),
    "ir_labels": Entry(IRLabels, {"size": (375, 500)}, {"size": (60, 80)}, goal_ratio=1.15),
    "pooling": Entry(Pooling, {"shape": (26, 20, 32, 32)}, {"shape": (3, 4, 6, 5)}, goal_ratio=20),
    "affinity": Entry(
        Affinity,
        {"batch": 4, "size": (128, 128), "radius": 10},
        {"batch": 2, "size": (14, 16), "radius": 4},
    ),
    "rib": Entry(
        RIBIterations,
        {"size": (240, 320), "batch": 4, "crop": 128, "iterations": 4, "width": 16},
        {"size": (64, 80), "batch": 2, "crop": 32, "iterations": 2, "width": 8},
    ),
}


def made_up_cams(rng: np.random.Generator, size: Size, classes: int) -> np.ndarray:
    """Smooth random maps, K x H x W float32 in 0..1."""
    noise = np.stack([smooth_noise(rng, size, cell=max(size) / 5) for _ in range(classes)])
    cams = np.maximum(noise, 0)
    return cams / cams.max(axis=(1, 2), keepdims=True)


# --- measuring ------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """Bytes by which one run raises the peak of a process."""

    plain: int
    here: int


class Times(NamedTuple):
    """Seconds of every run, and how far the results lie apart."""

    plain: list[float]
    here: list[float]
    difference: float  # as a share of the largest value

    @property
    def ratio(self) -> float:
        """How many times faster the project's way is, by the medians."""
        return median(self.plain) / median(self.here)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def difference(here: Results, plain: Results) -> float:
    """Largest difference of two results, as a share of the largest value of each part."""
    shares = []
    for ours, theirs in zip(here, plain, strict=True):
        ours, theirs = (np.asarray(part, dtype=np.float64) for part in (ours, theirs))
        if ours.shape != theirs.shape:
            return float("inf")
        shares.append(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return float(np.max(shares))


def measure_times(comparison: Comparison, repeats: int) -> Times:
    """Runs the two ways in turn; the plain one no more once it has spent its budget."""
    comparison.prepare_plain()
    plain_times, here_times = [], []
    for _ in range(repeats):
        if sum(plain_times) < PLAIN_BUDGET:
            seconds, outcome = comparison.timed_plain()
            plain_times.append(seconds)
        seconds, here = timed(comparison.here)
        here_times.append(seconds)
    apart = difference(here, comparison.plain_results(outcome))
    return Times(plain_times, here_times, apart)


def peak_growth(entry: Entry, way: str) -> int:
    """Bytes by which one run of a way ("plain" or "here") raises the peak of this process."""
    with contextlib.closing(entry.kind(**entry.toy_sizes)) as toy:
        measure_times(toy, repeats=1)  # loads the code of the libraries
    with contextlib.closing(entry.kind(**entry.sizes)) as comparison:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if way == "plain":
            comparison.prepare_plain()
            comparison.timed_plain()
        else:
            comparison.here()
        return RSS_UNIT * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def measure_memory(entry: Entry) -> Memory:
    """Peaks of both ways, each in a new process.

    A process inherits the peak of the one that starts it, so this comes before everything large.
    """
    peaks = []
    for way in Memory._fields:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks.append(pool.apply(peak_growth, (entry, way)))
    return Memory(*peaks)


class Report(NamedTuple):
    """What was found out about one comparison."""

    name: str
    what: str
    entry: Entry
    times: Times
    memory: Memory | None

    @property
    def agrees(self) -> bool:
        """Whether the two ways give the same result, within the tolerance."""
        return self.times.difference <= self.entry.kind.tolerance


def measure(name: str, entry: Entry, repeats: int, memory: Memory | None) -> Report:
    """Times one comparison at full size; the peaks of memory have been measured before."""
    with contextlib.closing(entry.kind(**entry.toy_sizes)) as toy:
        measure_times(toy, repeats=1)  # loads the code of the libraries
    with contextlib.closing(entry.kind(**entry.sizes)) as comparison:
        times = measure_times(comparison, repeats)
        return Report(name, comparison.what, entry, times, memory)


# --- report ---------------------------------------------------------------------------------------


def machine() -> str:
    """The processor, how much of it is used, and the version of torch."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{name}, {cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def format_times(seconds: list[float]) -> str:
    """Median, range and number of runs."""
    factor, unit = (1e3, "ms") if median(seconds) < 1 else (1, "s")
    middle, low, high = (f"{factor * t:.3g}" for t in (median(seconds), min(seconds), max(seconds)))
    return f"{middle} {unit} ({low} to {high}, n = {len(seconds)})"


def format_goal(entry: Entry, times: Times) -> str:
    """The goals of a comparison and whether they are met."""
    goals, met = [], True
    if entry.goal_ratio is not None:
        goals.append(f"{entry.goal_ratio:g} x")
        met &= times.ratio >= entry.goal_ratio
    if entry.goal_seconds is not None:
        goals.append(f"{entry.goal_seconds:g} s")
        met &= median(times.here) <= entry.goal_seconds
    return f"{', '.join(goals)}: {'met' if met else 'missed'}" if goals else "-"


def format_memory(memory: Memory | None) -> str:
    """Peak memory of both ways."""
    if memory is None:
        return "-"
    return f"{memory.plain / 2**20:.0f} / {memory.here / 2**20:.0f} MiB"


def format_table(reports: Sequence[Report]) -> str:
    """One line for each comparison in columns of equal width, then the remarks."""
    rows = [
        (
            report.what,
            format_times(report.times.plain),
            format_times(report.times.here),
            f"{report.times.ratio:.3g} x",
            format_goal(report.entry, report.times),
            format_memory(report.memory),
            f"{report.times.difference:.0e}{'' if report.agrees else ' TOO LARGE'}",
        )
        for report in reports
    ]
    headings = ("what", "plain", "here", "ratio", "goal", "memory plain / here", "difference")
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (headings, *rows)]
    notes = [
        f"{report.what}: {report.entry.kind.note}" for report in reports if report.entry.kind.note
    ]
    explanation = (
        "Times: median (range, n runs). Memory: growth of the peak in a process of its own. "
        "Difference: of the results, as a share of the largest value."
    )
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], "", explanation, *notes])


def to_json(report: Report) -> dict[str, Any]:
    """All numbers of a report: seconds and bytes."""
    memory = report.memory._asdict() if report.memory else None
    return {
        "name": report.name,
        "what": report.what,
        "seconds": {"plain": report.times.plain, "here": report.times.here},
        "ratio": report.times.ratio,
        "goal_ratio": report.entry.goal_ratio,
        "goal_seconds": report.entry.goal_seconds,
        "memory_bytes": memory,
        "difference": report.times.difference,
        "agrees": report.agrees,
        "note": report.entry.kind.note,
    }


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark",
        description="Times parts of the project against plain forms of the same formulas.",
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(COMPARISONS)}")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way")
    parser.add_argument(
        "--full", action="store_true", help="walk: square the dense matrix 8 times (minutes)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there too")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.names) - set(COMPARISONS))
    if unknown:
        parser.error(f"no comparison is called {unknown[0]}; choose of {', '.join(COMPARISONS)}")
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats} is not 1 or more")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 1 where two results differ."""
    args = parse_args(argv)
    chosen = {name: COMPARISONS[name] for name in args.names or COMPARISONS}
    if args.full and "walk" in chosen:
        chosen["walk"] = chosen["walk"]._replace(kind=Walk)
    memories = {name: measure_memory(e) for name, e in chosen.items() if e.kind.with_memory}
    reports = []
    for name, entry in chosen.items():
        reports.append(measure(name, entry, args.repeats, memories.get(name)))
        print(f"{name} done", file=sys.stderr)
    print(machine(), format_table(reports), sep="\n\n")
    if args.json:
        content = {"machine": machine(), "comparisons": [to_json(report) for report in reports]}
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(report.agrees for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
