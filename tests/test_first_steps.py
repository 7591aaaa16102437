"""First steps of new users: files as they come from elsewhere are read, or the line says how."""

import numpy as np
import pytest
import torch

from misc.data.dataset_info import read_image_list
from misc.data.label_file import load_label_file
from misc.errors import UserError
from net.checkpoint import load_classifier, read_checkpoint
from net.resnet50_cam import Net
from voc12.dataset import describe

FIRST, SECOND, THIRD = "2012_000001", "2012_000002", "2012_000003"
VOC = describe("voc")


@pytest.fixture
def call(on_copy, classifier_file):
    """Runs on the copied sample."""
    return lambda *options: on_copy("--cam_weights_name", classifier_file, *options)


@pytest.mark.parametrize("content", [
    f"\ufeff{FIRST}\n{SECOND}\n",
    f"# my images\n{FIRST}  # a cat\n\n  # and\n{SECOND}\n",
    f"{FIRST}.jpg\r\n{SECOND}.JPG\r\n",
    f"/data/VOC2012/JPEGImages/{FIRST}.jpeg\n../JPEGImages/{SECOND}\n",
    f"C:\\data\\JPEGImages\\{FIRST}.jpg\nJPEGImages\\{SECOND}.JPEG\n",
    f"{FIRST} 1\n{SECOND} 0\n",
])  # fmt: skip
def test_lists_as_they_come_from_elsewhere(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_bytes(content.encode())
    assert read_image_list(path, VOC) == (FIRST, SECOND)


def test_a_list_of_a_single_class_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text(f"{FIRST}  1\n{SECOND} -1\n{THIRD}  0\n")
    with pytest.raises(UserError, match="list.txt: its second column says which images show"):
        read_image_list(tmp_path / "list.txt", VOC)


def test_an_image_outside_of_the_lists_has_its_label_from_its_annotation(call, info, tmp_path):
    split = info.root / "ImageSets" / "Segmentation" / "train.txt"
    split.write_text(split.read_text().replace(f"{THIRD}\n", ""))
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        (info.root / folder / f"{THIRD}.png").unlink()
    (tmp_path / "mine.txt").write_text(f"{THIRD}\n")
    assert call("--make_cam_pass", "--infer_list", tmp_path / "mine.txt")[0] == 0
    assert (tmp_path / "result" / "cam_plain" / f"{THIRD}.npy").is_file()


def test_a_list_that_no_step_reads_is_said(call, tmp_path):
    (tmp_path / "mine.txt").write_text(f"{FIRST}\n")
    given = ("--eval_list", tmp_path / "mine.txt", "--infer_list", tmp_path / "mine.txt")
    code, _, said = call("--make_cam_pass", "--check", *given)
    assert code == 0 and "--eval_list: no step of this run reads it" in said
    assert "--infer_list: no step" not in said


# --- labels -------------------------------------------------------------------------------------

CAT, DOG = np.eye(20)[7], np.eye(20)[11]
ROWS = (CAT, CAT + DOG, 0 * CAT)
EXPECTED = dict(zip((2012000001, 2012000002, 2012000003), ROWS, strict=True))
BY_NAME = dict(zip((FIRST, SECOND, THIRD), ROWS, strict=True))


def write(path, content):
    """A file of labels: a table, or whatever NumPy saves."""
    if path.suffix == ".npz" and isinstance(content, dict):
        np.savez(path, **content)
    elif path.suffix == ".npy":
        np.save(path, content, allow_pickle=True)
    else:
        path.write_text(content)
    return path


@pytest.mark.parametrize("name, content", [
    ("own.npy", EXPECTED),
    ("files.npy", {f"{name}.jpg": row for name, row in BY_NAME.items()}),
    ("integers.npy", {name: row.astype(np.uint8) for name, row in BY_NAME.items()}),
    ("background.npy", {name: np.concatenate([[1], row]) for name, row in BY_NAME.items()}),
    ("rows.npz", {"ids": np.array(list(BY_NAME)), "labels": np.stack(ROWS)}),
    ("numbers.npz", {"ids": np.array(list(EXPECTED)), "labels": np.stack(ROWS)}),
    ("vectors.npz", BY_NAME),
    ("words.csv", f"image,labels\n{FIRST},cat\n{SECOND}.jpg,cat;dog\n{THIRD},\n"),
    ("tabs.csv", f"file\tlabel\n{FIRST}\tcat\n{SECOND}\tDog|cat\n{THIRD}\t\n"),
    ("columns.csv", f"\ufeffimage;dog;cat\n{FIRST};0;1\n{SECOND};1;1\n{THIRD};0;0\n"),
])  # fmt: skip
def test_labels_in_the_forms_that_others_write(tmp_path, name, content):
    labels = load_label_file(write(tmp_path / name, content), VOC)
    assert labels.keys() == EXPECTED.keys()
    assert all((labels[key] == EXPECTED[key]).all() for key in EXPECTED)
    assert {row.dtype for row in labels.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name, content, words", [
    ("a.npy", np.eye(20), "not a dict.*give one with --cls_labels: a .npy dict"),
    ("a.npy", {FIRST: np.eye(20)}, "is .20, 20. and not a vector.*--cls_labels"),
    ("a.npy", {"cat.jpg": CAT}, "'cat.jpg' is not an image id of voc12"),
    ("a.npy", {FIRST: np.eye(21)[3], SECOND: np.eye(21)[3]}, "vectors of 21 classes"),
    ("a.npy", {FIRST: np.eye(21)[0], SECOND: np.eye(21)[20]}, "vectors of 21 classes"),
    ("a.npz", {"ids": np.arange(3), "labels": np.zeros((2, 20))}, "3.* ids of .* labels"),
    ("a.npz", "nothing", "not a zip file.*--cls_labels"),
    ("a.csv", "image,labels\nx.jpg,cat\n", "'x.jpg' is not an image id of voc12"),
    ("a.csv", f"{FIRST},cat\n", "line 1: no column is called image"),
    ("a.csv", f"image,labels\n{FIRST},unicorn\n", "line 2: .*'unicorn' is not a class of voc12"),
    ("a.csv", f"image,labels\n{FIRST},cat\n{FIRST},dog\n", "line 3: .*_000001' is there already"),
])  # fmt: skip
def test_labels_that_cannot_be_read_in_one_way_say_what_was_found(tmp_path, name, content, words):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=words) as refusal:
        load_label_file(path, VOC)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("wrapper", ["model", "model_state_dict", "net", ""])
def test_weights_under_a_key_or_the_names_of_stages(classifier_file, tmp_path, wrapper):
    expected = load_classifier(classifier_file, 20, Net).state_dict()
    state = {name.removeprefix("backbone."): tensor for name, tensor in expected.items()}
    if not wrapper:
        places = {"conv1": "stage1.0", "bn1": "stage1.1", "layer1": "stage1.4"}
        places |= {f"layer{n}": f"stage{n}.0" for n in (2, 3, 4)}
        parts = {name: name.partition(".") for name in state}
        state = {f"{places.get(layer, layer)}.{rest}": state[name]
                 for name, (layer, _, rest) in parts.items()}  # fmt: skip
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "cam.pth")
    loaded = load_classifier(tmp_path / "cam.pth", 20, Net).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    with pytest.raises(UserError, match="cam is missing; give the path of a checkpoint, with .pth"):
        read_checkpoint(tmp_path / "cam")
