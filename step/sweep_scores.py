"""Scores of a sweep: mIoU of every point with an interval over the images, as table and plot."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from misc import metrics
from misc.cams import load_cam
from misc.cli.options import Options
from misc.data.datasets import mask_of
from misc.labels import read_label_png
from misc.metrics import ThresholdScores, pseudo_mask_confusion
from misc.runtime.image_task import MAPS_WORTH_A_PROCESS, ImageTask, run_over_images
from misc.storage.files import remove_leftovers
from misc.storage.outputs import require_own, write_output
from step.eval_cam import thresholds
from step.visualize import save_figure

log = logging.getLogger("sweep")

CONFIDENCE = 0.95
_BATCH = 100  # resamples that are summed at once
_FOLDERS = {"plain": "plain_cam_out_dir", "seed": "cam_out_dir", "masks": "sem_seg_out_dir"}
_COLUMNS = ("miou", "low", "high", "threshold", "difference", "difference_low", "difference_high",
            "compared_with", "seed_spread", "images", "folder")  # fmt: skip


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
        weights = np.asarray(weights, np.float64)
        agreed, predicted, truth = (
            np.tensordot(weights, pixels, axes=1)
            for pixels in (self.agreed, self.predicted, self.truth)
        )
        union = truth[:, None] + predicted - agreed
        defined = union > 0
        ious = np.divide(agreed, union, out=np.zeros_like(union), where=defined)
        return ious.sum(axis=2) / np.maximum(1, defined.sum(axis=2))


@dataclass(frozen=True, eq=False)
class Point:
    """A point of a sweep, or the CAMs beside it, which are `plain`.

    counts: of each seed. usual: it has the current values.
    """

    values: dict[str, object]
    counts: list[Counts]
    usual: bool
    folder: str
    plain: "Point | None" = None

    @property
    def label(self) -> str:
        """Such as "RIB_iter=5"."""
        return ", ".join(f"{n}={v}" if v != "" else n for n, v in self.values.items())

    def best_mious(self, weights: np.ndarray) -> np.ndarray:
        """mIoU at the best threshold, mean over the seeds, (R,); see `Counts.mean_ious`."""
        return np.mean([counts.mean_ious(weights).max(axis=1) for counts in self.counts], axis=0)


class CountImages(ImageTask):
    """Counts the pixels of one image after the other, in a folder of maps or of masks."""

    images_worth_a_process = MAPS_WORTH_A_PROCESS
    on_gpu = False

    def __init__(self, args: Options, kind: str):
        self.args, self.are_masks = args, kind == "masks"
        self.folder = getattr(args, _FOLDERS[kind])
        self.name = f"scores of {self.folder}"
        self.at = np.array([args.sem_seg_bg_thres]) if self.are_masks else thresholds(args)
        self.found: dict[str, tuple[np.ndarray, ...]] = {}

    def one(self, image_id: str) -> None:
        info, truth = self.args.info, mask_of(self.args.info, image_id)
        if self.are_masks:
            mask = read_label_png(self.folder / f"{image_id}.png")
            found = pseudo_mask_confusion(truth, mask, info.num_labels)[None]
        else:
            maps = load_cam(self.folder / f"{image_id}.npy")
            scores = ThresholdScores(self.at, info.num_labels)
            scores.add(maps["high_res"], maps["keys"], truth)
            found = scores.counts
        agreed, true, predicted = metrics.counts_of(found)  # T x L
        self.found[image_id] = (agreed, predicted, true[0])

    def finish(self) -> dict[str, tuple[np.ndarray, ...]]:
        return self.found


def counts_of(runs: Sequence[Options], kind: str) -> list[Counts]:
    """Counts of the results of some runs; every rank calls it. kind: a key of _FOLDERS."""
    counts = []
    for args in runs:
        task, ids, found = CountImages(args, kind), args.scored_ids(), {}
        for of_process in run_over_images(task, ids, args.resources):
            found |= of_process
        stacked = (np.stack(pixels) for pixels in zip(*(found[i] for i in ids), strict=True))
        counts.append(Counts(*stacked, task.at))
    return counts


def bootstrapped(
    statistic: Callable[[np.ndarray], np.ndarray], count: int, resamples: int, seed: int
) -> np.ndarray:
    """Values V of a set of images and the ends of their intervals, V x 3 (percentile bootstrap).

    statistic: weights R x N, how often each image counts, -> V x R. All values see the same
    resamples, so a difference among them is paired.
    """
    values = statistic(np.ones((1, count)))
    if count < 2:  # nothing to resample
        return np.concatenate([values, np.full((len(values), 2), np.nan)], axis=1)
    rng, drawn = np.random.default_rng(seed), []
    for first in range(0, resamples, _BATCH):
        images = rng.integers(0, count, (min(_BATCH, resamples - first), count))
        drawn.append(statistic(np.stack([np.bincount(row, minlength=count) for row in images])))
    tail = 50 * (1 - CONFIDENCE)
    ends = np.percentile(np.concatenate(drawn, axis=1), [tail, 100 - tail], axis=1)
    return np.concatenate([values, ends.T], axis=1)


def check(folder: Path) -> None:
    """Raise UserError where a file in the way of the summary is not one of this program."""
    for name in ("sweep.csv", "sweep.png"):
        require_own(folder / name)


def summarize(folder: Path, points: Sequence[Point], resamples: int, seed: int) -> None:
    """Write sweep.csv and sweep.png into a folder and log the table."""
    rows = rows_of(points, resamples, seed)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    text = rows.to_csv(index=False, float_format="%.6f", na_rep="nan", lineterminator="\n")
    write_output(folder / "sweep.csv", text.encode())
    save_figure(plot(rows, points), folder / "sweep.png")
    log.info("\n%s\n%s and sweep.png", table(rows), folder / "sweep.csv")


def rows_of(points: Sequence[Point], resamples: int, seed: int) -> pd.DataFrame:
    """A row for every point, the CAMs beside them first.

    Differences are those to the point with the current values, or to the first one; where the
    points have CAMs of their own, those to these.
    """
    plain = list(dict.fromkeys(point.plain for point in points if point.plain))
    every, count = [*plain, *points], len(points[0].counts[0].truth)
    usual = next((point for point in points if point.usual), points[0])
    compared = [(point.plain or point) if len(plain) > 1 else usual for point in every]
    places = [every.index(reference) for reference in compared]

    def statistic(weights: np.ndarray) -> np.ndarray:
        mious = np.stack([point.best_mious(weights) for point in every])
        return np.concatenate([mious, mious - mious[places]])

    mious, differences = np.split(bootstrapped(statistic, count, resamples, seed), 2)
    rows = []
    for point, reference, miou, difference in zip(every, compared, mious, differences, strict=True):
        bests = [counts.mean_ious(np.ones((1, count)))[0] for counts in point.counts]
        spread = np.std([b.max() for b in bests], ddof=1) if len(bests) > 1 else float("nan")
        to = "" if reference is point else reference.label
        rows.append((point.label, *miou, point.counts[0].at[bests[0].argmax()], *difference, to,
                     spread, count, point.folder))  # fmt: skip
    return pd.DataFrame(rows, columns=["point", *_COLUMNS])


def table(rows: pd.DataFrame) -> str:
    """The table as text, in per cent."""
    lines, references = [], set(rows["compared_with"]) - {""}
    for row in rows.itertuples():
        line = {"": row.point, "mIoU (%)": f"{100 * row.miou:.2f}"}
        line["95 %"] = f"{100 * row.low:.2f}..{100 * row.high:.2f}"
        line["threshold"] = f"{row.threshold:.2f}"
        if row.compared_with:
            low, high = 100 * row.difference_low, 100 * row.difference_high
            line["difference"] = f"{100 * row.difference:+.2f}"
            line["95 % "] = f"{low:+.2f}..{high:+.2f}{' *' if low > 0 or high < 0 else ''}"
        lines.append(line)
    to = references.pop() if len(references) == 1 else "the plain CAM of each"
    return (f"{pd.DataFrame(lines).fillna('').to_string(index=False)}\ndifferences to {to}, * where"
            f" the interval leaves out 0; intervals by resampling the {rows['images'][0]} images,"
            " the best threshold chosen in each")  # fmt: skip


def plot(rows: pd.DataFrame, points: Sequence[Point]) -> Figure:
    """mIoU over the swept option with 95 % intervals, a line for each value of further options."""
    figure = Figure(figsize=(5, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    name, *others = points[0].values
    values = list(dict.fromkeys(point.values[name] for point in points))
    axes.set_xticks(range(len(values)), [str(value) for value in values])
    of_points = rows.tail(len(points)).assign(
        x=[values.index(point.values[name]) for point in points],
        line=[", ".join(f"{n}={point.values[n]}" for n in others) for point in points],
    )
    for label, line in of_points.groupby("line", sort=False):
        errors = [line["miou"] - line["low"], line["high"] - line["miou"]]
        axes.errorbar(line["x"], 100 * line["miou"], 100 * np.clip(errors, 0, None),
                      marker="o", capsize=3, label=label or None)  # fmt: skip
    for row in rows[: len(rows) - len(points)].itertuples():
        axes.axhline(100 * row.miou, color="gray", linestyle="--", label=row.point)
    axes.set(xlabel=name, ylabel="mIoU (%)")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    return figure
