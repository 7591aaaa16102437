"""Sets of label maps that contradict the image-level labels, or say nothing at all."""

from pathlib import Path

import numpy as np
import pytest

from misc.data.mask_content import Compared, content_of
from voc12.dataset import describe

INFO = describe("voc")  # aeroplane is 1, bicycle 2
ONE, TWO = frozenset([0]), frozenset([1])


def compared(masks, classes, follows_labels=True, dtype=np.uint8):
    """masks: the values of each label map; classes: those of the labels, None where unknown."""
    values = {f"p{n}": np.array([of], dtype) for n, of in enumerate(masks)}
    found = {name: content_of(Path(f"{name}.png"), of) for name, of in values.items()}
    known = {f"p{n}": of for n, of in enumerate(classes) if of is not None}
    return Compared(INFO, "--masks DIR", found, known, follows_labels)


@pytest.mark.parametrize("masks", [[[0, 255]] * 4, [[0, 255], [0, 0], [255, 255]]])
@pytest.mark.parametrize("known", [ONE, None])
@pytest.mark.parametrize("follows_labels", [True, False])
def test_masks_of_0_and_255_are_named_as_what_they_are(masks, known, follows_labels):
    (line,) = compared(masks, [known] * len(masks), follows_labels).problems()
    assert line.startswith(f"--masks DIR: no label map ({len(masks)} read) has a pixel of a class")
    assert "they hold 0 and 255 alone, and 255 is ignored here" in line
    assert "1 = 'aeroplane', 2 = 'bicycle'" in line and "== 255).astype('uint8') * NUMBER" in line


def test_masks_of_16_bits_are_ignored_at_their_own_value():
    (line,) = compared([[0, 65535]] * 2, [ONE] * 2, dtype=np.uint16).problems()
    assert "0 and 65535 alone, and 65535 is ignored here" in line


def test_masks_of_background_alone():
    (line,) = compared([[0, 0]] * 3, [ONE, ONE, frozenset()]).problems()
    assert "they hold 0 (background) alone" in line
    assert not compared([[0, 0]] * 3, [frozenset()] * 3).problems()  # images without any class


def test_masks_that_are_ignored_everywhere():
    for known in (ONE, frozenset(), None):
        (line,) = compared([[255, 255]] * 2, [known] * 2).problems()
        assert line.startswith("--masks DIR: all labels are 255 (ignored here)")


def test_masks_of_another_numbering_than_the_classes():
    (line,) = compared([[0, 1]] * 3 + [[0, 0]], [TWO] * 4).problems()
    assert "p0.png shows 'aeroplane', its labels say 'bicycle'" in line
    assert not compared([[0, 1]] * 3, [TWO] * 3, follows_labels=False).problems()
    assert not compared([[0, 1]] * 3, [TWO, TWO, ONE]).problems()
    assert not compared([[0, 1]] * 3, [TWO, TWO, None]).problems()


def test_some_masks_that_contradict_their_labels_are_warned_of():
    whole = [[0, 1]] * 5
    checks = compared(whole + [[0, 255]] * 4, [ONE] * 9)
    assert not checks.problems()
    (line,) = checks.warnings()
    assert "4 of 9 label maps have no class but 0 and 255" in line and "p5.png, p6.png" in line
    (line,) = compared(whole + [[1, 2]] * 4, [ONE] * 5 + [TWO] * 4).warnings()
    assert "4 of 9 label maps show classes that the labels of their images exclude: p5.png" in line
    assert "(p5.png shows 'aeroplane', its labels say 'bicycle')" in line
    assert not compared(whole + [[1, 2]] * 3, [ONE] * 5 + [TWO] * 3).warnings()  # a few
    assert not compared([[0, 1, 255]] * 9, [ONE] * 9).warnings()
    assert not compared([[0, 2]] * 9, [ONE] * 9, follows_labels=False).warnings()
