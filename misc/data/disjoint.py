"""Which images share no class with a target (RIB, Sec. 3: batches that keep logits in check)."""

from collections.abc import Callable

import numpy as np


class DisjointIndex:
    """Images grouped by their set of classes, once; queries then look at the groups only.

    labels: N x C multi-hot. Results are positions in it, ascending (list order).
    """

    def __init__(self, labels: np.ndarray):
        self._groups, member = np.unique(labels > 0, axis=0, return_inverse=True)
        member = member.reshape(-1)
        ends = np.cumsum(np.bincount(member, minlength=len(self._groups)))
        self._members = np.split(np.argsort(member, kind="stable"), ends[:-1])
        self._answers: dict[tuple[str, bytes], np.ndarray] = {}

    def disjoint(self, label: np.ndarray) -> np.ndarray:
        """Images without any class of a multi-hot label (C,). Without classes, all images are."""
        return self._query("disjoint", label, lambda shared, wanted: shared == 0)

    def joint(self, label: np.ndarray) -> np.ndarray:
        """Images with all classes of a multi-hot label (C,)."""
        return self._query("joint", label, lambda shared, wanted: shared == wanted)

    def _query(self, kind: str, label: np.ndarray, chosen: Callable) -> np.ndarray:
        classes = np.asarray(label) > 0
        key = (kind, classes.tobytes())
        if key not in self._answers:
            shared = (self._groups & classes).sum(axis=1)
            groups = np.flatnonzero(chosen(shared, classes.sum()))
            members = [self._members[group] for group in groups]
            self._answers[key] = np.sort(np.concatenate([np.empty(0, int), *members]))
        return self._answers[key]
