"""Lists and labels: what is not given is made from the dataset, and only what the steps read."""

import shutil

import pytest

from misc.data.dataset_info import read_image_list
from misc.labels import read_label_png, save_palette_png
from tests.conftest import PROJECT
from voc12.dataset import describe
from voc12.prepare import prepare


@pytest.fixture
def given(sample, tmp_path):
    """A dataset without ImageSets/, and options with lists and labels from elsewhere, by name."""
    shutil.copytree(sample.root, tmp_path / "voc")
    lists = tmp_path / "lists"
    prepare(describe(tmp_path / "voc"), lists)
    shutil.rmtree(tmp_path / "voc" / "ImageSets")
    options = {f"--{role}_list": lists / "train.txt" for role in ("train", "infer", "eval")}
    options["--cls_labels"] = lists / "cls_labels.npy"
    options["--voc12_root"] = tmp_path / "voc"
    options["--result_dir"] = tmp_path / "result"
    options["--imagenet_weights"] = PROJECT / "Dataset" / "sample_classifier.pth"
    return options


def words(options, *left_out):
    return [word for pair in options.items() if pair[0] not in left_out for word in pair]


def test_with_all_lists_and_labels_given_the_dataset_is_asked_for_none(tiny_run, given):
    assert tiny_run(*words(given), "--check") == 0
    assert tiny_run(*words(given), "--train_cam_pass", "--visualize", 0) == 0
    made = {path.name for path in (given["--result_dir"] / "lists").iterdir()}
    assert made == {"manifest.json", "contents.json"}  # what was read, and of which dataset


@pytest.mark.parametrize(
    "left_out", ["--train_list", "--infer_list", "--eval_list", "--cls_labels"]
)
def test_what_is_not_given_is_asked_for(tiny_run, given, left_out, capfd):
    assert tiny_run(*words(given, left_out), "--check") == 2
    assert "ImageSets/Segmentation/train.txt" in capfd.readouterr().err


def test_to_score_masks_their_list_is_enough(tiny_run, given, tmp_path, sample):
    for image_id in read_image_list(given["--eval_list"], sample):
        mask = read_label_png(sample.mask_path(image_id))
        (tmp_path / "masks").mkdir(exist_ok=True)
        save_palette_png(tmp_path / "masks" / f"{image_id}.png", mask)
    others = ("--train_list", "--infer_list", "--cls_labels")
    score = ("--eval_sem_seg_pass", "--sem_seg_out_dir", tmp_path / "masks")
    assert tiny_run(*words(given, *others), *score, "--check") == 0
    assert tiny_run(*words(given, *others), *score) == 0
