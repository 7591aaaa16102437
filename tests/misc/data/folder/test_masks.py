"""Sets of label maps that contradict the image-level labels, or say nothing at all."""

from pathlib import Path

import numpy as np
import pytest

from misc.data.folder.masks import content_of, contradictions
from misc.data.folder.prepare import prepare
from misc.errors import UserError
from misc.labels import save_label_png
from voc12.dataset import describe

INFO = describe("voc")  # aeroplane is 1, bicycle 2
ONE, TWO = frozenset([0]), frozenset([1])


def compared(masks, classes, follows_labels=True, dtype=np.uint8):
    """masks: the values of each label map; classes: those of the labels, None where unknown."""
    values = {f"p{n}": np.array([of], dtype) for n, of in enumerate(masks)}
    found = {name: content_of(Path(f"{name}.png"), of) for name, of in values.items()}
    known = {f"p{n}": of for n, of in enumerate(classes) if of is not None}
    return contradictions(INFO.class_names, "--masks DIR", found, known, follows_labels)


NONE = frozenset()


@pytest.mark.parametrize("follows_labels", [True, False])
@pytest.mark.parametrize("masks, known, words", [
    ([[0, 255]] * 4, [ONE] * 4, "no label map (4 read) has a pixel of a class: they hold 0 and 255 "
     "alone, and 255 is ignored here; write 0 for the background and the classes' numbers (1 = "
     "'aeroplane', 2 = 'bicycle'"),
    ([[0, 255], [0, 0], [255, 255]], [None] * 3, "no label map (3 read) has a pixel of a class"),
    ([[0, 0]] * 3, [ONE, ONE, NONE], "they hold 0 (background) alone"),
    ([[0, 0]] * 3, [NONE] * 3, ""),  # images without any class
    ([[255, 255]] * 2, [NONE] * 2, "all labels are 255 (ignored here)"),
    ([[255, 255]] * 2, [None] * 2, "all labels are 255 (ignored here)"),
])  # fmt: skip
def test_masks_that_say_nothing_are_named_as_what_they_are(masks, known, words, follows_labels):
    lines = compared(masks, known, follows_labels)[0]
    assert len(lines) == bool(words)
    assert all(line.startswith("--masks DIR: ") and words in line for line in lines)


def test_masks_of_16_bits_are_ignored_at_their_own_value():
    (line,) = compared([[0, 65535]] * 2, [ONE] * 2, dtype=np.uint16)[0]
    assert "0 and 65535 alone, and 65535 is ignored here" in line
    assert "== 65535).astype('uint8') * NUMBER" in line


def test_masks_of_another_numbering_than_the_classes():
    (line,) = compared([[0, 1]] * 3 + [[0, 0]], [TWO] * 4)[0]
    assert "p0.png shows 'aeroplane', its labels say 'bicycle'" in line
    for known, follows_labels in (([TWO] * 3, False), ([TWO, TWO, ONE], True), ([None], True)):
        assert not compared([[0, 1]] * len(known), known, follows_labels)[0]


def test_some_masks_that_contradict_their_labels_are_warned_of():
    whole = [[0, 1]] * 5
    problems, (line,) = compared(whole + [[0, 255]] * 4, [ONE] * 9)
    assert not problems
    assert "4 of 9 label maps have no class but 0 and 255" in line and "p5.png, p6.png" in line
    (line,) = compared(whole + [[1, 2]] * 4, [ONE] * 5 + [TWO] * 4)[1]
    assert "4 of 9 label maps show classes that the labels of their images exclude " in line
    assert "(p5.png shows 'aeroplane', its labels say 'bicycle'): p5.png" in line
    assert not compared(whole + [[1, 2]] * 3, [ONE] * 5 + [TWO] * 3)[1]  # a few
    assert not compared([[0, 1, 255]] * 9, [ONE] * 9)[1]
    assert not compared([[0, 2]] * 9, [ONE] * 9, follows_labels=False)[1]


TABLE = "image,labels\na.jpg,cat;dog\nb.png,\nc.webp,cat\n"


@pytest.mark.parametrize("names, words", [
    (["a_mask.png", "b_mask.png", "Thumbs.db"], "masks: has no mask of .*a.jpg.*looked for were "
     "a.png, a.jpg.png;.*2 files, such as a_mask.png"),
    ([], "it has no files: give the masks"),
    (["a.png", "b_mask.png"], None),
])  # fmt: skip
def test_masks_with_other_names_are_said(described, tmp_path, caplog, names, words):
    (tmp_path / "masks").mkdir()
    for name in names:
        save_label_png(tmp_path / "masks" / name, np.zeros((16, 24), np.uint8))
    info = described(TABLE, masks=tmp_path / "masks")
    if words is None:
        prepare(info, tmp_path / "lists")
        assert "1 PNG file of no photograph with a label, such as b_mask.png" in caplog.text
        return
    with pytest.raises(UserError, match=words):
        prepare(info, tmp_path / "lists")
    assert not (tmp_path / "lists").exists()
