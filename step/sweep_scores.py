"""Scores of a sweep: mIoU of every point with an interval over the images, as table and plot."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from misc.cli.options import Options
from misc.metrics import Counts, mean_iou
from misc.metrics import counts_of as pixels_of
from misc.runtime.image_task import MAPS_WORTH_A_PROCESS, ImageTask, run_over_images
from misc.storage.files import remove_leftovers
from misc.storage.outputs import write_output
from step.eval_cam import ScoreCAMs
from step.eval_sem_seg import ScoreMasks
from step.visualize import save_figure

log = logging.getLogger("sweep")

CONFIDENCE = 0.95
_BATCH = 100  # resamples of a batch
FOLDERS = {"plain": "plain_cam_out_dir", "seed": "cam_out_dir", "masks": "sem_seg_out_dir"}
_COLUMNS = ("miou", "low", "high", "threshold", "difference", "difference_low", "difference_high",
            "compared_with", "seed_spread", "images", "folder")  # fmt: skip


def mean_ious(counts: Counts, weights: np.ndarray) -> np.ndarray:
    """mIoU, R x T, of images that count `weights` R x N; counts: N x T x L, truth N x 1 x L."""
    return mean_iou(Counts(*(np.tensordot(weights, pixels, axes=1) for pixels in counts)))


@dataclass(frozen=True, eq=False)
class Point:
    """A point of a sweep, or its CAMs (`plain`). counts: of each seed. usual: of current values."""

    values: dict[str, object]
    counts: list[Counts]
    at: np.ndarray
    usual: bool
    folder: str
    plain: "Point | None" = None

    @property
    def label(self) -> str:
        return ", ".join(f"{n}={v}" if v != "" else n for n, v in self.values.items())


class CountImages(ImageTask):
    """Counts the pixels of one image after the other, in a folder of maps or of masks."""

    images_worth_a_process = MAPS_WORTH_A_PROCESS
    on_gpu = False

    def __init__(self, args: Options, kind: str):
        self.args, self.are_masks, self.folder = args, kind == "masks", getattr(args, FOLDERS[kind])
        self.name = f"scores of {self.folder}"
        self.found: dict[str, Counts] = {}

    def one(self, image_id: str) -> None:
        task = (ScoreMasks if self.are_masks else ScoreCAMs)(self.args, self.folder, self.name)
        task.one(image_id)
        counted = task.finish()[None] if self.are_masks else task.finish().counts
        agreed, truth, predicted = pixels_of(counted)  # T x L
        self.found[image_id] = Counts(agreed, truth[:1], predicted)

    def finish(self) -> dict[str, Counts]:
        return self.found


def counts_of(runs: Sequence[Options], kind: str) -> list[Counts]:
    """Counts of the results of some runs. kind: a key of FOLDERS."""
    counts = []
    for args in runs:
        ids, found = args.scored_ids(), {}
        for of_process in run_over_images(CountImages(args, kind), ids, args.resources):
            found |= of_process
        counts.append(Counts(*map(np.stack, zip(*(found[i] for i in ids), strict=True))))
    return counts


def bootstrapped(
    statistic: Callable[[np.ndarray], np.ndarray], count: int, resamples: int, seed: int
) -> np.ndarray:
    """Values V of a set of images and the ends of their intervals, V x 3 (percentile bootstrap).

    statistic: weights R x N of the images -> V x R, so that differences among values are paired.
    """
    values = statistic(np.ones((1, count)))
    if count < 2:  # nothing to resample
        return np.concatenate([values, np.full((len(values), 2), np.nan)], axis=1)
    rng, drawn = np.random.default_rng(seed), []
    for first in range(0, resamples, _BATCH):
        images = rng.integers(0, count, (min(_BATCH, resamples - first), count))
        weights = np.stack([np.bincount(row, minlength=count) for row in images])
        drawn.append(statistic(weights.astype(np.float64)))
    tail = 50 * (1 - CONFIDENCE)
    ends = np.percentile(np.concatenate(drawn, axis=1), [tail, 100 - tail], axis=1)
    return np.concatenate([values, ends.T], axis=1)


def summarize(folder: Path, points: Sequence[Point], resamples: int, seed: int) -> None:
    rows = rows_of(points, resamples, seed)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    text = rows.to_csv(index=False, float_format="%.6f", na_rep="nan", lineterminator="\n")
    write_output(folder / "sweep.csv", text.encode())
    save_figure(plot(rows, points), folder / "sweep.png")
    log.info("\n%s\n%s and sweep.png", table(rows), folder / "sweep.csv")


def rows_of(points: Sequence[Point], resamples: int, seed: int) -> pd.DataFrame:
    """A row for every point, those of CAMs first.

    Differences are to its own CAMs, else to the point of the current values, else to the first.
    """
    plain = list(dict.fromkeys(point.plain for point in points if point.plain))
    every, count = [*plain, *points], len(points[0].counts[0].truth)
    usual = next((point for point in points if point.usual), points[0])
    compared = [(point.plain or point) if len(plain) > 1 else usual for point in every]
    places = [every.index(reference) for reference in compared]

    def statistic(weights: np.ndarray) -> np.ndarray:
        bests = [[mean_ious(c, weights).max(axis=1) for c in point.counts] for point in every]
        mious = np.stack([np.mean(of_seeds, axis=0) for of_seeds in bests])
        return np.concatenate([mious, mious - mious[places]])

    mious, differences = np.split(bootstrapped(statistic, count, resamples, seed), 2)
    rows = []
    for point, reference, miou, difference in zip(every, compared, mious, differences, strict=True):
        bests = [mean_ious(counts, np.ones((1, count)))[0] for counts in point.counts]
        spread = np.std([b.max() for b in bests], ddof=1) if len(bests) > 1 else float("nan")
        to = "" if reference is point else reference.label
        rows.append((point.label, *miou, point.at[bests[0].argmax()], *difference, to,
                     spread, count, point.folder))  # fmt: skip
    return pd.DataFrame(rows, columns=["point", *_COLUMNS])


def table(rows: pd.DataFrame) -> str:
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
    to = references.pop() if len(references) == 1 else "the CAM of each"
    return (f"{pd.DataFrame(lines).fillna('').to_string(index=False)}\ndifferences to {to}, * where"
            f" the interval leaves out 0; intervals by resampling the {rows['images'][0]} images,"
            " the best threshold chosen in each")  # fmt: skip


def plot(rows: pd.DataFrame, points: Sequence[Point]) -> Figure:
    """mIoU over the first option with 95 % intervals, a line for each value of the others."""
    axes = Figure(figsize=(5, 3.2), dpi=120, layout="constrained").subplots()
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
    return axes.figure
