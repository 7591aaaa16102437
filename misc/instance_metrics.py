"""Average precision of instance masks by the protocol of PASCAL VOC, as ChainerCV computes it."""

from collections.abc import Sequence

import numpy as np

from misc.labels import ignored_value

RECALLS = np.linspace(0.0, 1.0, 101)


def objects_of(objects: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ground truth of an image: masks R x H x W bool and 0-based classes (R,) int64.

    objects: H x W, a value for every object, 0 and ignored are none. labels: H x W, class + 1;
    an object of several has the smallest, where ignored reads as -1. Raises ValueError for an
    object that shows background.
    """
    values = [value for value in np.unique(objects) if value not in (0, ignored_value(objects))]
    masks = [objects == value for value in values]
    classes = np.where(labels == ignored_value(labels), -1, labels.astype(np.int64))
    kinds = np.array([classes[mask].min() - 1 for mask in masks], dtype=np.int64)
    if (kinds == -1).any():
        raise ValueError("an object of the ground truth has pixels of the background class")
    return np.array(masks, dtype=bool).reshape(-1, *objects.shape), kinds


def mask_ious(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of every mask N x H x W with every other R x H x W: N x R float32."""
    size = int(np.prod(masks.shape[1:]))
    pixels = (masks.reshape(-1, size), others.reshape(-1, size))
    one, other = (part.astype(np.float64) for part in pixels)
    both = one @ other.T
    union = one.sum(axis=1)[:, None] + other.sum(axis=1) - both
    return (both / np.maximum(union, 1)).astype(np.float32)


class InstanceScores:
    """Detections of all images: of each its class, its score, and at which thresholds it is true.

    thresholds: of the IoU from which on a detection is true. Void pixels count as background.
    """

    def __init__(self, thresholds: Sequence[float] = (0.5, 0.75)):
        self.thresholds = tuple(thresholds)
        self.counts: dict[int, int] = {}  # objects of each class
        self.found: dict[int, list[tuple[float, tuple[bool, ...]]]] = {}

    def add(
        self,
        score: np.ndarray,
        masks: np.ndarray,
        classes: np.ndarray,
        true_masks: np.ndarray,
        true_classes: np.ndarray,
    ) -> None:
        """Count one image: detections (N,), N x H x W, (N,) and objects R x H x W, (R,)."""
        for kind in sorted({*classes.tolist(), *true_classes.tolist()}):
            own, truth = classes == kind, true_classes == kind
            self.counts[kind] = self.counts.get(kind, 0) + int(truth.sum())
            # Of equal scores the later comes first, as in a stable ascending sort that is reversed.
            order = np.argsort(score[own], kind="stable")[::-1]
            met = mask_ious(masks[own][order], true_masks[truth])
            taken = [set() for _ in self.thresholds]
            for value, ious in zip(score[own][order].tolist(), met, strict=True):
                best = int(ious.argmax()) if len(ious) else -1
                hits = []
                for used, threshold in zip(taken, self.thresholds, strict=True):
                    near = best >= 0 and ious[best] >= threshold
                    hits.append(bool(near and best not in used))
                    if near:
                        used.add(best)
                self.found.setdefault(kind, []).append((value, tuple(hits)))

    def merge(self, other: "InstanceScores") -> None:
        """Add the counts of another object, of images that follow."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
        for kind, found in other.found.items():
            self.found.setdefault(kind, []).extend(found)

    def curve(self, kind: int, which: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Precision and recall of a class at a threshold, by falling score; no recall: None."""
        found, objects = self.found.get(kind, []), self.counts.get(kind, 0)
        order = np.argsort([value for value, _ in found], kind="stable")[::-1]
        true = np.array([found[i][1][which] for i in order], dtype=bool).cumsum()
        precision = true / np.arange(1, len(true) + 1)
        return precision, true / objects if objects else None

    def curves(self, which: int = 0) -> dict[int, np.ndarray]:
        """By class with objects: the precision that is reached at each of RECALLS."""
        kinds = sorted(kind for kind in {*self.counts, *self.found} if self.counts.get(kind))
        return {kind: precision_at(*self.curve(kind, which), RECALLS) for kind in kinds}

    def average_precisions(self, which: int = 0) -> np.ndarray:
        """Average precision of the classes 0 .. the largest seen; nan where there is no object."""
        kinds = {*self.counts, *self.found}
        result = np.full(max(kinds, default=-1) + 1, np.nan)
        for kind in (kind for kind in kinds if kind >= 0):
            precision, recall = self.curve(kind, which)
            if recall is not None:
                result[kind] = average_precision(precision, recall)
        return result


def precision_at(precision: np.ndarray, recall: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The largest precision at each level of recall or higher; 0 where it is not reached."""
    raised = np.maximum.accumulate(np.concatenate([precision, [0.0]])[::-1])[::-1]
    return raised[np.searchsorted(recall, levels)]


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Area under the curve, each precision raised to the largest at that recall or higher."""
    raised = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    steps = np.concatenate([[0.0], recall, [1.0]])
    changes = np.flatnonzero(steps[1:] != steps[:-1])
    return float(((steps[changes + 1] - steps[changes]) * raised[changes + 1]).sum())
