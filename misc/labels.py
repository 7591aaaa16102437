"""Label maps: 0 is background, class + 1 the classes, the largest value of their type undecided.

A map is of 8 bits where the classes of its dataset fit (255 is undecided then), else of 16 bits
(65535).
"""

import numpy as np

from misc.storage.cam_files import MAX_CLASSES

MOST_CLASSES = MAX_CLASSES  # of a dataset
MOST_OF_8_BITS = 254
UNDECIDED = 255  # of arrays of 8 bits, and of those in which a caller counts in other types
UNDECIDED_OF_16_BITS = 65_535


def label_type(num_labels: int) -> type[np.unsignedinteger]:
    """The type of label maps of so many labels, background included."""
    return np.uint8 if num_labels <= MOST_OF_8_BITS + 1 else np.uint16


def undecided(labels: np.ndarray) -> int:
    """The value of an undecided pixel in a label map, "ignore" in ground truth."""
    return UNDECIDED_OF_16_BITS if labels.dtype == np.uint16 else UNDECIDED


def of_type(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """An unsigned label map H x W in the type of its dataset, itself where it has that."""
    if labels.dtype != np.uint8 or label_type(num_labels) is np.uint8:
        return labels
    wide = labels.astype(np.uint16)
    wide[labels == UNDECIDED] = undecided(wide)
    return wide


def classes_in(labels: np.ndarray) -> list[int]:
    """The labels of a map but background and undecided, ascending."""
    return np.setdiff1d(labels, (0, undecided(labels))).tolist()
