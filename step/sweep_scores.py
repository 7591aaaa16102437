"""Scores of a sweep: mIoU of every point with an interval over the images, as table and plot."""

import csv
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from misc.cams import load_cam
from misc.cli.options import Options
from misc.data.datasets import mask_of
from misc.labels import read_label_png
from misc.metrics import ThresholdScores, counts_of, pseudo_mask_confusion
from misc.runtime.image_task import MAPS_WORTH_A_PROCESS, ImageTask, run_over_images
from misc.storage.files import remove_leftovers
from misc.storage.outputs import require_own, write_output
from step.eval_cam import thresholds
from step.visualize import save_figure

log = logging.getLogger("sweep")

CONFIDENCE = 0.95
_BATCH = 100  # resamples that are summed at once
_COLUMNS = ("miou", "low", "high", "threshold", "difference", "difference_low", "difference_high",
            "compared_with", "seed_spread", "images", "folder")  # fmt: skip
_HEADER = ("point", *_COLUMNS)


class Counts(NamedTuple):
    """Pixels by image, which is all that any mIoU is made of.

    agreed, predicted: N x T x L at T thresholds. truth: N x L. at: the thresholds, T.
    """

    agreed: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray
    at: np.ndarray

    def mean_ious(self, weights: np.ndarray) -> np.ndarray:
        """mIoU at every threshold, R x T, with image n counted weights[r, n] times, R x N."""

        def total(pixels: np.ndarray) -> np.ndarray:
            flat = weights @ pixels.reshape(len(pixels), -1).astype(np.float64)
            return flat.reshape(len(weights), *pixels.shape[1:])

        agreed, predicted, truth = map(total, (self.agreed, self.predicted, self.truth))
        union = truth[:, None] + predicted - agreed
        defined = union > 0
        ious = np.divide(agreed, union, out=np.zeros_like(union), where=defined)
        return ious.sum(axis=2) / np.maximum(1, defined.sum(axis=2))


@dataclass(frozen=True, eq=False)
class Point:
    """A point of a sweep, or the plain maps beside it.

    counts: of each seed. usual: it has the current values.
    """

    values: dict[str, object]
    counts: list[Counts]
    usual: bool
    folder: str

    @property
    def label(self) -> str:
        """Such as "RIB_iter=5"."""
        return ", ".join(f"{n}={v}" if v != "" else n for n, v in self.values.items())

    def best_mious(self, weights: np.ndarray) -> np.ndarray:
        """mIoU at the best threshold, mean over the seeds, (R,); see `Counts.mean_ious`."""
        return np.mean([counts.mean_ious(weights).max(axis=1) for counts in self.counts], axis=0)


class _CountImages(ImageTask):
    """Counts the pixels of one image after the other."""

    images_worth_a_process = MAPS_WORTH_A_PROCESS
    on_gpu = False

    def __init__(self, name: str, confusions: Callable[[str], np.ndarray]):
        self.name, self._confusions = name, confusions
        self._found: dict[str, tuple[np.ndarray, ...]] = {}

    def one(self, image_id: str) -> None:
        agreed, truth, predicted = counts_of(self._confusions(image_id))  # T x L
        self._found[image_id] = (agreed, predicted, truth[0])

    def finish(self) -> dict[str, tuple[np.ndarray, ...]]:
        return self._found


class _MapConfusions(NamedTuple):
    args: Options
    folder: Path

    def __call__(self, image_id: str) -> np.ndarray:
        info, maps = self.args.info, load_cam(self.folder / f"{image_id}.npy")
        scores = ThresholdScores(thresholds(self.args), info.num_labels)
        scores.add(maps["high_res"], maps["keys"], mask_of(info, image_id))
        return scores.counts


class _MaskConfusions(NamedTuple):
    args: Options
    folder: Path

    def __call__(self, image_id: str) -> np.ndarray:
        info, mask = self.args.info, read_label_png(self.folder / f"{image_id}.png")
        return pseudo_mask_confusion(mask_of(info, image_id), mask, info.num_labels)[None]


def counts_of_maps(args: Options, folder: Path) -> Counts:
    """Counts of a folder of maps, at the thresholds of --cam_eval_thres; every rank calls it."""
    return _counts(args, folder, _MapConfusions(args, folder), thresholds(args))


def counts_of_masks(args: Options, folder: Path) -> Counts:
    """Counts of a folder of pseudo masks; every rank calls it."""
    at = np.array([args.sem_seg_bg_thres])
    return _counts(args, folder, _MaskConfusions(args, folder), at)


def _counts(args: Options, folder: Path, confusions: Callable, at: np.ndarray) -> Counts:
    ids = args.scored_ids()
    found: dict[str, tuple[np.ndarray, ...]] = {}
    for of_process in run_over_images(
        _CountImages(f"scores of {folder}", confusions), ids, args.resources
    ):
        found |= of_process
    stacked = (np.stack(of_kind) for of_kind in zip(*(found[i] for i in ids), strict=True))
    return Counts(*stacked, at)


class Interval(NamedTuple):
    """A value and its interval, by resampling the images."""

    value: float
    low: float
    high: float


def bootstrapped(
    statistic: Callable[[np.ndarray], np.ndarray], count: int, resamples: int, seed: int
) -> list[Interval]:
    """Intervals of several values of a set of images (percentile bootstrap over the images).

    statistic: weights R x N, how often each image counts, -> V x R. All values see the same
    resamples, so a difference among them is paired.
    """

    def of_indices(indices: np.ndarray, axis: int = -1) -> np.ndarray:
        shape, rows = indices.shape[:-1], indices.reshape(-1, count)
        offsets = count * np.arange(len(rows))[:, None]
        weights = np.bincount((rows + offsets).ravel(), minlength=rows.size).reshape(rows.shape)
        values = statistic(weights.astype(np.float64))
        return values.reshape(len(values), *shape)

    values = statistic(np.ones((1, count)))[:, 0]
    if count < 2:  # nothing to resample
        return [Interval(value, float("nan"), float("nan")) for value in values]
    result = stats.bootstrap(
        (np.arange(count),), of_indices, n_resamples=resamples, batch=_BATCH, vectorized=True,
        confidence_level=CONFIDENCE, method="percentile", random_state=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = result.confidence_interval
    return [Interval(*each) for each in zip(values, low, high, strict=True)]


def check(folder: Path) -> None:
    """Raise UserError where a file in the way of the summary is not one of this program."""
    for name in ("sweep.csv", "sweep.png"):
        require_own(folder / name)


def summarize(
    folder: Path, baselines: Sequence[Point], points: Sequence[Point], resamples: int, seed: int
) -> list[dict]:
    """Write sweep.csv and sweep.png into a folder and log the table; its rows.

    baselines: the plain maps, one for all points or one for each; none where masks are scored.
    """
    rows = rows_of(baselines, points, resamples, seed)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    _save_csv(folder / "sweep.csv", rows)
    save_figure(plot(rows, points), folder / "sweep.png")
    log.info("\n%s", "\n".join(table(rows)))
    log.info("%s and sweep.png", folder / "sweep.csv")
    return rows


def rows_of(
    baselines: Sequence[Point], points: Sequence[Point], resamples: int, seed: int
) -> list[dict]:
    """A row for every point, the baselines first.

    Differences are those to the point with the current values, or to the first one; where the
    points have plain maps of their own, those to these.
    """
    every, count = [*baselines, *points], len(points[0].counts[0].truth)
    usual = next((point for point in points if point.usual), points[0])
    own = dict(zip(points, baselines, strict=True)) if len(baselines) > 1 else {}
    compared = [own.get(point, point if own else usual) for point in every]
    places = [every.index(reference) for reference in compared]

    def statistic(weights: np.ndarray) -> np.ndarray:
        mious = np.stack([point.best_mious(weights) for point in every])
        return np.concatenate([mious, mious - mious[places]])

    intervals = bootstrapped(statistic, count, resamples, seed)
    rows = []
    for number, (point, reference) in enumerate(zip(every, compared, strict=True)):
        miou, difference = intervals[number], intervals[number + len(every)]
        bests = [counts.mean_ious(np.ones((1, count)))[0] for counts in point.counts]
        spread = np.std([b.max() for b in bests], ddof=1) if len(bests) > 1 else float("nan")
        to = "" if reference is point else reference.label
        values = (*miou, point.counts[0].at[bests[0].argmax()], *difference, to, spread, count,
                  point.folder)  # fmt: skip
        rows.append({"point": point.label, **dict(zip(_COLUMNS, values, strict=True))})
    return rows


def table(rows: Sequence[dict]) -> list[str]:
    """Lines of the table, in per cent."""
    width = max(len(row["point"]) for row in rows) + 2
    lines = [f"{'':{width}}{'mIoU (%)':>9}  {'95 %':>14}  {'threshold':>9}  {'difference':>10}  "
             f"{'95 %':>14}"]  # fmt: skip
    for row in rows:
        inside = f"{100 * row['low']:.2f}..{100 * row['high']:.2f}"
        lines.append(
            f"{row['point']:{width}}{100 * row['miou']:9.2f}  {inside:>14}  {row['threshold']:9.2f}"
            f"  {_of_difference(row)}".rstrip()
        )
    references = list(dict.fromkeys(row["compared_with"] for row in rows if row["compared_with"]))
    to = references[0] if len(references) == 1 else "the plain maps of each"
    lines.append(f"differences to {to}, * where the interval leaves out 0; intervals by resampling "
                 f"the {rows[0]['images']} images, the best threshold chosen in each")  # fmt: skip
    return lines


def _of_difference(row: dict) -> str:
    if not row["compared_with"]:
        return ""
    low, high = 100 * row["difference_low"], 100 * row["difference_high"]
    sure = " *" if low > 0 or high < 0 else ""
    inside = f"{low:+.2f}..{high:+.2f}"
    return f"{100 * row['difference']:+10.2f}  {inside:>14}{sure}"


def _save_csv(path: Path, rows: Sequence[dict]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, _HEADER, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()})
    write_output(path, text.getvalue().encode())


def plot(rows: Sequence[dict], points: Sequence[Point]) -> Figure:
    """mIoU over the swept option with 95 % intervals, a line for each value of further options."""
    figure = Figure(figsize=(5, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    name, *others = points[0].values
    baseline = rows[: len(rows) - len(points)]
    shared = len(baseline) == 1
    lines: dict[str, list[tuple[object, dict]]] = {}
    for point, row in zip(points, rows[len(baseline) :], strict=True):
        label = ", ".join(f"{n}={point.values[n]}" for n in others)
        lines.setdefault(label, []).append((point.values[name], row))
    values = list(dict.fromkeys(point.values[name] for point in points))
    places = _places(axes, values)
    for label, line in lines.items():
        x = [places[value] for value, _ in line]
        miou, low, high = (
            np.array([100 * row[key] for _, row in line]) for key in ("miou", "low", "high")
        )
        errors = np.clip([miou - low, high - miou], 0, None)
        axes.errorbar(x, miou, errors, marker="o", capsize=3, label=label or None)
    for row in baseline[:1] if shared else ():
        axes.axhline(100 * row["miou"], color="gray", linestyle="--", label=row["point"])
    for row, point in zip(() if shared else baseline, points, strict=False):
        axes.plot(places[point.values[name]], 100 * row["miou"], "x", color="gray")
    axes.set(xlabel=name, ylabel="mIoU (%)")
    axes.grid(alpha=0.3)
    if shared or others:
        axes.legend(fontsize=8)
    return figure


def _places(axes, values: list) -> dict:
    """Where each value stands on the axis: at itself, or one after the other where it is a word."""
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not numbers or len(values) < 3:
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        return {value: place for place, value in enumerate(values)}
    if min(values) > 0 and max(values) / min(values) >= 10:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    return {value: value for value in values}
