"""Sources that contradict each other, from the command line: one line, before anything is made."""

import os
import shutil

import numpy as np
import pytest

from misc.labels import save_label_png
from misc.storage.scores import load_scores
from net.resnet50_cam import Net
from tests.conftest import THIN, saved
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


@pytest.mark.parametrize(("values", "words"), [
    (lambda n: (0, 255), "no label map (8 read) has a pixel of a class: they hold 0 and 255 alone"),
    (lambda n: (0, 2 - n % 2), "p0.png shows 'dog', its labels say 'cat'"),
])  # fmt: skip
def test_ground_truth_that_contradicts_all_labels_is_refused(own, call, values, words):
    write_masks(own / "masks", values)
    for check in ((), ("--check",), ("--check", "quick")):
        code, (line,), _ = call(*SCORE, own / "predicted", *check)
        assert code == 2 and f"--masks {own / 'masks'}: " in line and words in line
    assert not (own / "r" / "scores.json").exists()


def test_label_maps_of_0_and_255_are_not_scored_and_not_trained_on(own, call, classifier_file):
    write_masks(own / "predicted", lambda n: (0, 255))
    code, (line,), _ = call(*SCORE, own / "predicted")
    assert code == 2 and f"{own / 'predicted'}: no label map (8 read)" in line
    train = ("--train_seg_pass", "--seg_init", classifier_file, "--seg_crop_size", "33")
    train += ("--seg_batch_size", "2", "--seg_iterations", "1", "--seg_label_dir")
    code, (line,), _ = call(*train, own / "predicted")
    assert code == 2 and "0 and 255 alone, and 255 is ignored here" in line
    assert not list((own / "r").glob("*.pth"))


def test_masks_of_another_folder_have_a_row_of_their_own_and_no_threshold(own, call):
    (own / "r" / "ir_label").mkdir(parents=True)  # of another run: the last lines do not name it
    code, _, said = call(*SCORE, own / "predicted")
    assert code == 0 and str(own / "r" / "run.log") in said and "ir_label" not in said
    ((row, score),) = load_scores(own / "r").items()
    assert row == f"masks of {own / 'predicted'}" and score["thresholds"] == [None]
    (line,) = (x for x in said.splitlines() if x.startswith("masks of"))
    assert line.split()[-2:] == ["100.00", "-"] and "at threshold" not in said


def test_one_mask_of_two_photographs_is_refused_with_both(own, call):
    for folder in ("x", "y"):
        save_photo(own / "photos" / folder / "0.jpg", (16, 24))
    write_labels(own, [*ROWS, "x/0.jpg,cat", "y/0.jpg,dog"])
    shutil.copy(own / "masks" / "p0.png", own / "masks" / "0.png")
    for check in ((), ("--check",)):
        code, (line,), _ = call(*SCORE, own / "predicted", *check)
        assert code == 2 and f"--masks {own / 'masks'}: 0.png is found for" in line
        assert all(str(own / "photos" / folder / "0.jpg") in line for folder in "xy")


def test_a_photograph_that_is_there_twice_with_other_labels_is_said(own, call):
    shutil.copy(own / "photos" / "p0.jpg", own / "photos" / "copy.jpg")
    shutil.copy(own / "photos" / "p2.jpg", own / "photos" / "same.jpg")
    write_labels(own, [*ROWS, "copy.jpg,dog", "same.jpg,cat"])
    code, _, said = call(*SCORE, own / "predicted", "--check")
    (line,) = (x for x in said.splitlines() if "are the same photograph with other labels: " in x)
    assert code == 0 and "p0.jpg and " in line and "copy.jpg" in line and ": cat and dog" in line


def times(own, names="[ci]*/*.*"):
    """Times at which maps and labels, or other results, were written."""
    return {path: path.stat().st_mtime_ns for path in (own / "r").rglob(names)}


@pytest.fixture
def scored(own, call):
    """The photographs after a run that scored masks, with their page."""
    assert call(*SCORE, own / "predicted", "--report_html")[0] == 0
    return own


def test_a_page_is_of_the_dataset_that_its_result_folder_records(scored, tiny_run, capsys):
    page, before = scored / "r" / "report.html", (scored / "r" / "report.html").read_bytes()
    given = ("--report", "--report_html", "--result_dir", scored / "r")
    for other in (("--dataset", "voc12"), ("--root", "elsewhere"), ("--photo_long", "32")):
        capsys.readouterr()
        assert tiny_run(*given, *other) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"error: {' '.join(other)}: --result_dir {scored / 'r'} was made with" in line
        assert page.read_bytes() == before
    assert tiny_run(*given) == tiny_run(*given, "--dataset", "folder") == 0
    after = page.read_bytes()
    assert b"Dataset folder, 2 classes" in after and len(after) > 0.9 * len(before)


def test_results_of_a_changed_photograph_or_label_are_made_again_alone(own, call):
    given = ("--make_cam_pass", "--cam_to_ir_label_pass", "--recam", "none", "--cam_weights_name")
    classifier = saved(Net(2, **THIN), own / "two.pth")

    def run():
        before = times(own)
        code, _, said = call(*given, classifier, masks=())
        after = times(own)
        assert code == 0
        changed = {path for path in after if after[path] != before.get(path)}
        return {path.stem for path in changed if path.suffix != ".json"}, said

    save_photo(own / "photos" / "p3.jpg", (19, 24), comment=b"one")
    run()
    assert run()[0] == set()
    save_photo(own / "photos" / "p3.jpg", (19, 24), comment=b"two")  # of the same size
    os.utime(own / "photos" / "p4.jpg")  # another time, the same content
    changed, said = run()
    assert changed == {"p3"}
    assert said.count("1 image made again, whose photograph, labels or maps changed: p3") == 2
    rows = [row.replace("p2.jpg,cat", "p2.jpg,dog") for row in ROWS]
    write_labels(own, rows)
    changed, said = run()
    assert changed == {"p2"} and "labels of 1 images are others now: p2" in said
    save_photo(own / "photos" / "new.jpg", (16, 24))
    write_labels(own, [*rows, "new.jpg,cat"])
    changed, said = run()
    assert changed == {"new"} and "all.txt: made again; 1 new: new" in said


def test_a_training_on_other_photographs_is_refused_with_their_names(own, call, classifier_file):
    train = ("--train_cam_pass", "--imagenet_weights", classifier_file, "--cam_batch_size", "2")
    train += ("--cam_num_epoches", "1", "--cam_crop_size", "32", "--cam_long", "32,40")
    for _ in range(2):
        assert call(*train, masks=())[0] == 0
    save_photo(own / "photos" / "new.jpg", (16, 24))
    save_photo(own / "photos" / "p3.jpg", (20, 24))
    rows = [row.replace("p2.jpg,cat", "p2.jpg,dog") for row in ROWS]
    write_labels(own, [*rows, "new.jpg,cat"])
    code, (line,), _ = call(*train, masks=())
    assert code == 2 and "--train_cam_pass False to use it as it is" in line
    assert "1 image only now (new)" in line and "1 image with other labels (p2)" in line
    assert "1 image with another photograph (p3)" in line
    assert call(*train, "--overwrite", masks=())[0] == 0


def test_lists_follow_the_list_of_photographs_held_out_and_the_masks(own, call):
    (own / "val.txt").write_text("p0.jpg\np1.jpg\n")
    (own / "masks" / "p5.png").rename(own / "p5.png")
    given = (*SCORE, own / "predicted", "--val_list", own / "val.txt")
    assert call(*given)[0] == 0
    (own / "val.txt").write_text("p0.jpg\np5.jpg\n")
    code, _, said = call(*given)
    assert code == 0 and "val.txt: made again; 1 new: p5; 1 no longer there: p1" in said
    (own / "p5.png").rename(own / "masks" / "p5.png")
    code, _, said = call(*given)
    assert code == 0 and "eval.txt: made again; 1 new: p5" in said
    assert load_scores(own / "r")[f"masks of {own / 'predicted'}"]["images"] == 2


def test_maps_that_are_zero_for_the_classes_of_their_images_are_said(own, call):
    def save(others):
        """Maps of the class of each photograph, or of the other one for the last ones."""
        for number, name in enumerate(NAMES):
            maps = np.zeros((2, 16 + number, 24), np.float32)
            maps[(number + (number >= 8 - others)) % 2] = 0.5
            np.save(own / "maps" / f"{name}.npy", maps)

    given = ("--import_maps_pass", "--check", "--import_maps", own / "maps")
    given += ("--import_keys", "class")
    (own / "maps").mkdir()
    save(8)
    code, (line,), _ = call(*given, masks=())
    assert code == 2 and "the maps of all 8 images are zero, or not there, for the classes" in line
    save(2)
    code, _, said = call(*given, masks=())
    assert code == 0 and "2 images have no map above zero for any of their classes" in said
    assert "the first: p6, p7" in said
