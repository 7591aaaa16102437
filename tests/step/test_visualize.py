"""step/visualize.py: figures with the words of users."""

import pytest

from misc.instance_metrics import RECALLS
from step.visualize import recall_curves, save_figure, score_curves

NAMES = [r"US$\foo$", "$", "$a$", "$$", "_name", "a_b^c", r"\$x$y$"]


@pytest.mark.parametrize("name", NAMES)
def test_curves_show_the_names_of_classes_and_rows_as_they_are(tmp_path, name):
    score = {"thresholds": [0.1, 0.2], "miou": [0.3, 0.4], "best": 1}
    score["precision_at_recall"] = {name: [1.0] * len(RECALLS), "cat": [0.5] * len(RECALLS)}
    for number, figure in enumerate((recall_curves({name: score}), score_curves({name: score}))):
        save_figure(figure, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 1000
    (axis,) = recall_curves({name: score}).axes
    assert axis.get_title() == name
    assert [text.get_text().strip() for text in axis.get_legend().get_texts()] == [name, "cat"]
