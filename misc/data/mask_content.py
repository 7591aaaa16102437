"""The labels that occur in a set of label maps, compared with the image-level labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misc.data.dataset_info import DatasetInfo
from misc.errors import some
from misc.labels import ignored_value

FEW = 3  # label maps that contradict their labels and are not worth a warning
_ONE_LINE = (
    "in Python: Image.fromarray((np.array(Image.open(OLD)) == {value}).astype('uint8') * NUMBER)"
    ".save(NEW)"
)


class Content(NamedTuple):
    """What occurs in a label map.

    classes: indices of its classes, from 0. background: whether it has pixels of the label 0.
    ignored: the value of its ignored pixels, 0 where it has none.
    """

    path: Path
    classes: frozenset[int]
    background: bool
    ignored: int


def content_of(path: Path, labels: np.ndarray) -> Content:
    """What occurs in a label map H x W, uint8 or uint16."""
    values = np.flatnonzero(np.bincount(labels.ravel())).tolist()
    ignored = ignored_value(labels)
    classes = frozenset(value - 1 for value in values if value not in (0, ignored))
    return Content(path, classes, 0 in values, ignored if ignored in values else 0)


class Compared:
    """Label maps of one folder beside the classes of their images.

    found: what occurs in the label map of each image. classes: the classes of the images whose
    image-level labels are known. where: the folder, for messages. follows_labels: whether the maps
    are to show the classes of the labels; predictions may show others.
    """

    def __init__(
        self,
        info: DatasetInfo,
        where: str,
        found: Mapping[str, Content],
        classes: Mapping[str, frozenset[int]],
        follows_labels: bool = True,
    ):
        self.info, self.where, self.found = info, where, found
        self.classes, self.follows_labels = classes, follows_labels

    def problems(self) -> list[str]:
        """What is wrong with the set as a whole; at most one line."""
        contents = list(self.found.values())
        if contents and not any(one.background or one.classes for one in contents):
            value = contents[0].ignored
            return [f"{self.where}: all labels are {value} (ignored here); {self._numbers()}"]
        if not any(one.classes for one in contents) and self._named():
            return [self._without_classes()]
        if self.follows_labels and self._named() and not any(map(self._agrees, self.found)):
            first = self._named()[0]
            return [
                f"{self.where}: no label map shows a class of its image's labels: "
                f"{self.found[first].path.name} shows {self._names(self.found[first].classes)}, "
                f"its labels say {self._names(self.classes[first])}; {self._numbers()}"
            ]
        return []

    def warnings(self) -> list[str]:
        """Lines for the label maps that contradict the labels of their images."""
        empty = [i for i in self._named() if not self.found[i].classes]
        others = [i for i in self.found if self.follows_labels and self._excluded(i)]
        lines = []
        if len(empty) > FEW:
            value = max(self.found[i].ignored for i in empty)
            why = f" but 0 and {value} (ignored here)" if value else ""
            lines.append(
                f"{self.where}: {len(empty)} of {len(self.found)} label maps have no class{why}, "
                f"though the labels of their images name some: {self._files(empty)}"
            )
        if len(others) > FEW:
            first = others[0]
            lines.append(
                f"{self.where}: {len(others)} of {len(self.found)} label maps show classes that "
                f"the labels of their images exclude: {self._files(others)} "
                f"({self.found[first].path.name} shows {self._names(self._excluded(first))}, its "
                f"labels say {self._names(self.classes[first])})"
            )
        return lines

    def _named(self) -> list[str]:
        """The images of which a class is expected: those without known labels, too."""
        return [i for i in self.found if self.classes.get(i, True)]

    def _agrees(self, image_id: str) -> bool:
        """Whether a map shows a class of its labels, as far as they are known."""
        known = self.classes.get(image_id)
        shown = self.found[image_id].classes
        return bool(shown & known) if known else known is None

    def _excluded(self, image_id: str) -> frozenset[int]:
        known = self.classes.get(image_id)
        return frozenset() if known is None else self.found[image_id].classes - known

    def _without_classes(self) -> str:
        ignored = {one.ignored for one in self.found.values()} - {0}
        if ignored:
            value = max(ignored)
            return (
                f"{self.where}: no label map ({len(self.found)} read) has a pixel of a class: they "
                f"hold 0 and {value} alone, and {value} is ignored here; {self._numbers()}, "
                f"{_ONE_LINE.format(value=value)}"
            )
        return (
            f"{self.where}: no label map ({len(self.found)} read) has a pixel of a class: they "
            f"hold 0 (background) alone; {self._numbers()}"
        )

    def _numbers(self) -> str:
        shown = some([f"{n} = {name!r}" for n, name in enumerate(self.info.class_names, start=1)])
        return f"write 0 for the background and the classes' numbers ({shown})"

    def _names(self, classes: frozenset[int]) -> str:
        return some([repr(self.info.class_names[index]) for index in sorted(classes)]) or "none"

    def _files(self, image_ids: Sequence[str]) -> str:
        return some([self.found[i].path.name for i in image_ids])
