"""Sources that contradict each other, from the command line: one line, before anything is made."""

import shutil

import numpy as np
import pytest
from PIL import Image

from misc.palette import save_label_png
from misc.storage.scores import load_scores
from tests.misc.data.folder.conftest import save_photo

NAMES = tuple(f"p{n}" for n in range(8))
ROWS = tuple(f"{name}.jpg,{'dog' if n % 2 else 'cat'}" for n, name in enumerate(NAMES))


@pytest.fixture
def own(tmp_path):
    """Eight photographs of two classes (cat 1, dog 2), a table, masks that agree, predictions."""
    for number, name in enumerate(NAMES):
        save_photo(tmp_path / "photos" / f"{name}.jpg", (16 + number, 24))
    write_labels(tmp_path, ROWS)
    for folder in ("masks", "predicted"):
        write_masks(tmp_path / folder, lambda n: (0, n % 2 + 1))
    return tmp_path


def write_labels(own, rows):
    (own / "labels.csv").write_text("image,labels\n" + "\n".join(rows) + "\n")


def write_masks(folder, values):
    """Masks whose left half has one value, the right another."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(NAMES):
        mask = np.zeros((16 + number, 24), np.uint8)
        mask[:, :12], mask[:, 12:] = values(number)
        save_label_png(folder / f"{name}.png", mask)


@pytest.fixture
def call(own, tiny_run, capsys):
    """Runs on the photographs: exit code, error lines, what else was said."""

    def run(*options, masks=("--masks", own / "masks")):
        capsys.readouterr()
        given = ("--dataset", "folder", "--root", own / "photos", "--result_dir", own / "r")
        code = tiny_run(*given, "--labels", own / "labels.csv", *masks, *options)
        said = capsys.readouterr()
        return code, [x for x in said.err.splitlines() if x.startswith("error: ")], said.out

    return run


SCORE = ("--eval_sem_seg_pass", "--sem_seg_out_dir")


@pytest.mark.parametrize("check", [(), ("--check",), ("--check", "quick")])
def test_ground_truth_of_0_and_255_is_refused_before_anything_is_scored(own, call, check):
    write_masks(own / "masks", lambda n: (0, 255))
    code, (line,), _ = call(*SCORE, own / "predicted", *check)
    assert code == 2 and f"--masks {own / 'masks'}: none of 8 label maps has a pixel" in line
    assert "0 and 255 alone, and 255 is ignored here" in line and "1 = 'cat', 2 = 'dog'" in line
    assert not (own / "r" / "scores.json").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [(lambda n: (255, 255), "all labels are 255 (ignored here)"),
     (lambda n: (0, 0), "they hold 0 (background) alone"),
     (lambda n: (0, 2 - n % 2), "p0.png shows 'dog', its labels say 'cat'")],
)  # fmt: skip
def test_ground_truth_that_contradicts_all_labels_is_refused(own, call, values, words):
    write_masks(own / "masks", values)
    code, (line,), _ = call(*SCORE, own / "predicted")
    assert code == 2 and words in line


def test_masks_of_1_for_every_class_are_warned_of_with_their_names(own, call):
    write_masks(own / "masks", lambda n: (0, 1))
    code, _, said = call(*SCORE, own / "predicted", "--check")
    assert code == 0 and "4 of 8 label maps show classes that the labels of their images" in said
    assert "p1.png, p3.png, p5.png" in said


def test_label_maps_of_0_and_255_are_not_scored_and_not_trained_on(own, call, classifier_file):
    write_masks(own / "predicted", lambda n: (0, 255))
    code, (line,), _ = call(*SCORE, own / "predicted")
    assert code == 2 and f"{own / 'predicted'}: none of 8 label maps" in line
    train = ("--train_seg_pass", "--seg_init", classifier_file, "--seg_crop_size", "33")
    train += ("--seg_batch_size", "2", "--seg_iterations", "1", "--seg_label_dir")
    code, (line,), _ = call(*train, own / "predicted")
    assert code == 2 and "0 and 255 alone, and 255 is ignored here" in line
    assert not list((own / "r").glob("*.pth"))


def test_grey_and_coloured_masks_are_named(own, call):
    write_masks(own / "masks", lambda n: (0, 128))
    code, lines, _ = call(*SCORE, own / "predicted")
    assert code == 2 and "p0.png: has label 128, folder ends at 2" in lines[0]
    for name in NAMES:
        path = own / "masks" / f"{name}.png"
        Image.open(path).convert("RGB").save(path)
    code, lines, _ = call(*SCORE, own / "predicted")
    assert code == 2 and "p0.png is an image of mode RGB, not a map of label values" in lines[0]


def test_a_missing_folder_of_maps_is_one_line(own, call):
    for steps in (SCORE, ("--eval_cam_pass", "--cam_out_dir")):
        code, (line,), _ = call(*steps, own / "none")
        assert code == 2 and f"{own / 'none'}: no such folder; " in line
    shutil.rmtree(own / "masks")
    assert call(*SCORE, own / "predicted")[1] == [
        f"error: --masks {own / 'masks'}: no such folder; give the folder of the masks"
    ]


def test_masks_of_another_folder_have_a_row_of_their_own_and_no_threshold(own, call):
    code, _, said = call(*SCORE, own / "predicted")
    assert code == 0 and f"masks of {own / 'predicted'}" in said
    ((row, score),) = load_scores(own / "r").items()
    assert row == f"masks of {own / 'predicted'}" and score["thresholds"] == [None]
    (line,) = (x for x in said.splitlines() if x.startswith("masks of"))
    assert line.split()[-2:] == ["100.00", "-"] and "at threshold" not in said
