"""Confusion matrices (row ground truth, column prediction) and the scores drawn from them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from misc.cams import strongest_class
from misc.errors import UserError
from misc.labels import ignored_value, of_type

_MOST_BYTES = 8 << 30  # that a confusion matrix may take


class Counts(NamedTuple):
    """Pixels of each label, ... x L: what is left of a confusion matrix for its scores."""

    agreed: np.ndarray  # of this label in both
    truth: np.ndarray
    predicted: np.ndarray


def require_few_labels(num_labels: int) -> None:
    """Raise UserError where a confusion matrix of so many labels takes too much memory."""
    if (needed := 8 * num_labels**2) > _MOST_BYTES:
        raise UserError(
            f"scores of {num_labels} labels take {needed >> 30} GiB; leave out the steps that score"
        )


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_labels: int) -> np.ndarray:
    """Count pixels by ground truth and prediction: num_labels x num_labels int64.

    truth, prediction: H x W integers, 0 is background; pixels whose truth is 255 (of uint16 arrays
    65535) are left out.
    Raises UserError when the sizes differ or another label is num_labels or above.
    """
    _check_sizes(truth.shape, prediction.shape)
    valid = truth != ignored_value(truth)
    truth, prediction = truth[valid].astype(np.intp), prediction[valid].astype(np.intp)
    _check_range(truth, num_labels, "ground truth")
    _check_range(prediction, num_labels, "prediction")
    counts = np.bincount(truth * num_labels + prediction, minlength=num_labels**2)
    return counts.reshape(num_labels, num_labels)


def pseudo_mask_confusion(truth: np.ndarray, mask: np.ndarray, num_labels: int) -> np.ndarray:
    """`confusion_matrix` of a pseudo mask, whose ignored pixels count as background."""
    return confusion_matrix(truth, np.where(mask == ignored_value(mask), 0, mask), num_labels)


def iou(confusion: np.ndarray | Counts) -> np.ndarray:
    """Intersection over union of each label, ... x L x L -> ... x L; nan where a label is absent.

    Absent means in neither ground truth nor prediction.
    """
    intersection, truth, prediction = counts_of(confusion)
    return _ratio(intersection, truth + prediction - intersection)


def mean_iou(confusion: np.ndarray | Counts) -> np.ndarray:
    """Mean of the defined values of `iou`, ... x L x L -> ...; nan where none is."""
    ious = iou(confusion)
    return _ratio(np.nansum(ious, axis=-1), np.isfinite(ious).sum(axis=-1))


def false_positive_negative(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wrongly predicted and missed pixels of each label over its union, two (L,) arrays."""
    intersection, truth, prediction = counts_of(confusion)
    union = truth + prediction - intersection
    return _ratio(union - truth, union), _ratio(union - prediction, union)


class ThresholdScores:
    """Scores of CAMs at many background thresholds in one pass over the images.

    A pixel belongs to the class with the strongest CAM where that is strictly above the threshold,
    compared in float32, else to the background. So a pixel's class never changes, and all that
    has to be counted is how many thresholds its score exceeds, for each pair of truth and class
    that occurs: memory grows with these pairs, and not with the classes.

    thresholds: ascending, T of them. num_labels: L, background included.
    """

    def __init__(self, thresholds: Sequence[float], num_labels: int) -> None:
        self.thresholds = np.asarray(thresholds, dtype=np.float64)
        if (np.diff(self.thresholds) < 0).any():
            raise ValueError(f"thresholds have to ascend, got {thresholds}")
        self.num_labels = num_labels
        # By ground truth and class: pixels by the number of thresholds that they exceed, T + 1.
        self._pairs: dict[tuple[int, int], np.ndarray] = defaultdict(int)

    def add(self, cams: np.ndarray, keys: np.ndarray, truth: np.ndarray) -> None:
        """Count one image.

        cams: K x H x W float32, normalised. keys: (K,) 0-based classes; without any, the whole
        image is predicted as background. truth: H x W, 0 is background; 255, of uint16 arrays
        65535, is left out.
        Raises UserError when the sizes differ or a label or key is outside the label set.
        """
        _check_range(keys, self.num_labels - 1, "CAM keys")
        labels = keys + 1
        if len(keys) == 0:
            cams, labels = np.full((1, *truth.shape), -np.inf, np.float32), np.array([0])
        _check_sizes(truth.shape, cams.shape[1:])
        truth = of_type(truth, self.num_labels)
        outside = truth >= self.num_labels
        wrong = truth[outside & (truth != ignored_value(truth))]
        _check_range(wrong, self.num_labels, "ground truth")
        index = np.minimum(truth, self.num_labels).ravel().astype(np.intp)
        strongest, score = strongest_class(cams)
        exceeded = np.searchsorted(self.thresholds.astype(np.float32), score.ravel())
        shape = (self.num_labels + 1, len(labels), len(self.thresholds) + 1)
        for size, part in zip(shape[1:], (strongest.ravel(), exceeded), strict=True):
            index *= size
            index += part
        counts = np.bincount(index, minlength=np.prod(shape)).reshape(shape)
        for true, k in np.argwhere(counts[: self.num_labels].any(axis=2)).tolist():
            self._pairs[true, int(labels[k])] += counts[true, k]

    def merge(self, other: "ThresholdScores") -> None:
        """Add what another object has counted."""
        same = np.array_equal(self.thresholds, other.thresholds)
        if not same or self.num_labels != other.num_labels:
            raise ValueError("scores with different thresholds or label sets cannot be merged")
        for pair, pixels in other._pairs.items():
            self._pairs[pair] += pixels

    @property
    def confusions(self) -> np.ndarray:
        """Confusion matrix of every threshold, T x L x L int64; of many labels take `counts`."""
        confusions = np.zeros((len(self.thresholds), *(self.num_labels,) * 2), dtype=np.int64)
        for truth, label, foreground, background in self._above_and_below():
            confusions[:, truth, label] += foreground
            confusions[:, truth, 0] += background
        return confusions

    @property
    def counts(self) -> Counts:
        """Pixels of every label at every threshold, three arrays T x L int64."""
        counts = Counts(*np.zeros((3, len(self.thresholds), self.num_labels), dtype=np.int64))
        for truth, label, foreground, background in self._above_and_below():
            counts.truth[:, truth] += foreground + background
            counts.predicted[:, label] += foreground
            counts.predicted[:, 0] += background
            if truth == label:
                counts.agreed[:, label] += foreground
            if truth == 0:
                counts.agreed[:, 0] += background
        return counts

    def _above_and_below(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Each pair of ground truth and class: its pixels above and not above thresholds, (T,)."""
        for (truth, label), pixels in self._pairs.items():
            # Foreground at threshold i is what exceeds more than i of them: sums from the end.
            foreground = pixels[:0:-1].cumsum()[::-1]
            yield truth, label, foreground, pixels.sum() - foreground

    def mean_ious(self) -> np.ndarray:
        """Mean IoU at every threshold, (T,)."""
        return mean_iou(self.counts)

    def best(self) -> int:
        """Index of the threshold with the highest mean IoU, the first one of equals."""
        return best_threshold(self.mean_ious())


def average_precision(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Average precision of each class, N x C -> (C,); nan for a class that no image shows.

    scores: N x C, the higher the surer. present: N x C multi-hot. Mean of the precision at every
    image of the class, in the order of the scores.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(np.asarray(present) > 0, order, axis=0)
    precision = hits.cumsum(axis=0) / np.arange(1, len(hits) + 1)[:, None]
    return _ratio((precision * hits).sum(axis=0), hits.sum(axis=0))


def best_threshold(mious: np.ndarray) -> int:
    """Index of the highest mean IoU, (T,), the first one of equals; 0 where none is defined."""
    return int(np.nanargmax(mious)) if np.isfinite(mious).any() else 0


def score_of(
    confusions: np.ndarray | Counts, thresholds: Sequence[float], names: Sequence[str]
) -> dict:
    """The content of scores.json for the confusion matrices of some thresholds, T x L x L.

    names: of the labels, background first. IoU, precision and recall are those of the threshold
    with the highest mean IoU, by label; all values are 0..1, nan where nothing is defined.
    """
    counts = counts_of(confusions)
    mious = mean_iou(counts)
    best = best_threshold(mious)
    at_best = Counts(*(pixels[best] for pixels in counts))
    agreed, truth, predicted = at_best
    by_label = {"iou": iou(at_best), "precision": _ratio(agreed, predicted),
                "recall": _ratio(agreed, truth)}  # fmt: skip
    return {
        "thresholds": [t if t is None else float(t) for t in thresholds],
        "miou": mious.tolist(),
        "best": best,
        **{k: dict(zip(names, v.tolist(), strict=True)) for k, v in by_label.items()},
    }


def counts_of(confusion: np.ndarray | Counts) -> Counts:
    """Pixels of each label, ... x L, of confusion matrices ... x L x L; `Counts` as they are."""
    if isinstance(confusion, Counts):
        return confusion
    agreed = np.diagonal(confusion, axis1=-2, axis2=-1)
    return Counts(agreed, confusion.sum(axis=-1), confusion.sum(axis=-2))


def false_foreground(confusion: np.ndarray | Counts) -> np.ndarray:
    """Fraction of the predicted foreground that is truly background, ...; nan without any."""
    agreed, truth, predicted = counts_of(confusion)
    return _ratio(truth[..., 0] - agreed[..., 0], predicted[..., 1:].sum(axis=-1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient in double precision, nan (without a warning) where the denominator is 0."""
    return numerator / np.where(denominator == 0, np.nan, denominator)


def _check_sizes(truth: tuple[int, ...], prediction: tuple[int, ...]) -> None:
    if truth != prediction:
        one, other = (" x ".join(map(str, shape)) for shape in (truth, prediction))
        sizes = f"the ground truth is {one} pixels but the prediction {other}"
        raise UserError(f"{sizes}; both have to be of the same image")


def _check_range(labels: np.ndarray, num_labels: int, name: str) -> None:
    outside = labels[(labels < 0) | (labels >= num_labels)]
    if outside.size:
        raise UserError(
            f"label {outside[0]} in the {name} is not in 0..{num_labels - 1}; "
            "check that the files belong to this data set"
        )
