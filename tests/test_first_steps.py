"""First steps of new users: files as they come from elsewhere are read, or the line says how."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from coco14.dataset import describe as describe_coco
from misc.cli.options import parse
from misc.data.dataset_info import read_image_list
from misc.data.label_file import load_label_file
from misc.errors import UserError
from net.checkpoint import load_backbone, load_boundary_net, load_classifier, read_checkpoint
from net.resnet50_cam import Net
from net.resnet50_irn import EdgeDisplacement
from tests.conftest import THIN
from tests.weights import fill_by_recipe
from voc12.dataset import describe
from voc12.prepare import label_from_xml

FIRST, SECOND, THIRD = "2012_000001", "2012_000002", "2012_000003"
VOC = describe("voc")


@pytest.fixture
def info(sample, tmp_path):
    """A copy of the drawn sample that may be spoilt."""
    shutil.copytree(sample.root, tmp_path / "voc")
    return describe(tmp_path / "voc")


@pytest.fixture
def call(info, tmp_path, classifier_file, tiny_run, capsys):
    """Runs on the copied sample: exit code, lines of stderr that name a problem, and the log."""

    def run(*options):
        capsys.readouterr()
        given = ("--voc12_root", info.root, "--result_dir", tmp_path / "result")
        given += ("--cam_weights_name", classifier_file)
        code = tiny_run(*given, *options)
        said = capsys.readouterr()
        return code, [x for x in said.err.splitlines() if x.startswith("error: ")], said.out

    return run


# --- lists --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        f"\ufeff{FIRST}\n{SECOND}\n",
        f"# my images\n{FIRST}  # a cat\n\n  # and\n{SECOND}\n",
        f"{FIRST}.jpg\r\n{SECOND}.JPG\r\n",
        f"/data/VOC2012/JPEGImages/{FIRST}.jpeg\n../JPEGImages/{SECOND}\n",
        f"C:\\data\\JPEGImages\\{FIRST}.jpg\nJPEGImages\\{SECOND}.JPEG\n",
        f"{FIRST} 1\n{SECOND} 0\n",
    ],
)
def test_lists_as_they_come_from_elsewhere(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_bytes(content.encode())
    assert read_image_list(path, VOC) == (FIRST, SECOND)


def test_coco_names_with_folder_and_split(tmp_path):
    (tmp_path / "list.txt").write_text("train2014/COCO_train2014_000000000009.jpg\n000000000025\n")
    ids = read_image_list(tmp_path / "list.txt", describe_coco("coco"))
    assert ids == ("000000000009", "000000000025")


def test_repeated_ids_are_named_with_their_lines(tmp_path):
    ids = [FIRST, SECOND, THIRD, "2012_000004"]
    (tmp_path / "list.txt").write_text("\n".join(["# all", *ids, *ids]))
    with pytest.raises(UserError, match=rf"repeats {FIRST} \(lines 2, 6\), .*\.\.\.; remove"):
        read_image_list(tmp_path / "list.txt", VOC)


def test_a_list_of_one_class_is_no_list_of_images(tmp_path):
    (tmp_path / "cat_train.txt").write_text(f"{FIRST}  1\n{SECOND} -1\n{THIRD}  0\n")
    with pytest.raises(UserError, match="cat_train.txt: its second column says which images show"):
        read_image_list(tmp_path / "cat_train.txt", VOC)


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg"])
def test_a_photograph_of_another_suffix_is_named(call, info, suffix):
    path = info.image_path(SECOND)
    path.rename(path.with_suffix(suffix))
    code, (line,), _ = call("--make_cam_pass")
    assert code == 2 and f"{path}: no such image" in line
    assert f"{SECOND}{suffix} is there: rename it" in line


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


# --- options ------------------------------------------------------------------------------------


def test_nothing_to_run_is_said(call):
    steps = ("train_cam", "make_cam", "make_recam_with_RIB", "eval_cam", "cam_to_ir_label")
    steps += ("train_irn", "make_sem_seg_labels", "eval_sem_seg")
    words = [word for step in steps for word in (f"--{step}_pass", "False")]
    code, (line,), _ = call(*words)
    assert code == 2 and "all steps are disabled" in line


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--conf_fg_thres", "0.1", "--conf_bg_thres", "0.2"], "--conf_fg_thres: 0.1 is below"),
        (["--cam_scales", "1.0", "0.5"], "commas between them"),
        (["--cam_eval_thres", "0.1", "0.5"], "must be 2 numbers with a comma"),
    ],
)
def test_options_that_make_no_sense_together(capsys, words, expected):
    with pytest.raises(SystemExit):
        parse(words)
    assert expected in capsys.readouterr().err


# --- labels -------------------------------------------------------------------------------------

CAT, DOG, NONE = np.eye(20)[7], np.eye(20)[11], np.zeros(20)
EXPECTED = {2012000001: CAT, 2012000002: CAT + DOG, 2012000003: NONE}


def npy(content):
    return lambda path: np.save(path, content, allow_pickle=True)


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


def text(content):
    return lambda path: path.write_text(content)


def by_name(rows=EXPECTED):
    return dict(zip((FIRST, SECOND, THIRD), rows.values(), strict=True))


def with_background(value):
    return {name: np.concatenate([[value], row]) for name, row in by_name().items()}


@pytest.mark.parametrize(
    "name, write",
    [
        ("own.npy", npy(EXPECTED)),
        ("names.npy", npy(by_name())),
        ("files.npy", npy({f"{name}.jpg": row for name, row in by_name().items()})),
        ("integers.npy", npy({name: row.astype(np.uint8) for name, row in by_name().items()})),
        ("background.npy", npy(with_background(1))),
        ("rows.npz", npz(ids=np.array(list(by_name())), labels=np.stack(list(EXPECTED.values())))),
        ("numbers.npz", npz(ids=np.array(list(EXPECTED)), labels=np.stack([*EXPECTED.values()]))),
        ("vectors.npz", npz(**by_name())),
        ("words.csv", text(f"image,labels\n{FIRST},cat\n{SECOND}.jpg,cat;dog\n{THIRD},\n")),
        ("tabs.csv", text(f"file\tlabel\n{FIRST}\tcat\n{SECOND}\tDog|cat\n{THIRD}\t\n")),
        ("columns.csv", text(f"\ufeffimage;dog;cat\n{FIRST};0;1\n{SECOND};1;1\n{THIRD};0;0\n")),
    ],
)
def test_labels_in_the_forms_that_others_write(tmp_path, name, write):
    write(tmp_path / name)
    labels = load_label_file(tmp_path / name, VOC)
    assert labels.keys() == EXPECTED.keys()
    assert all((labels[key] == EXPECTED[key]).all() for key in EXPECTED)
    assert {row.dtype for row in labels.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "name, write, words",
    [
        ("a.npy", npy(np.eye(20)), "not a dict"),
        ("a.npy", npy({FIRST: np.eye(20)}), "is .20, 20. and not a vector"),
        ("a.npy", npy({"cat.jpg": CAT}), "'cat.jpg' is not an image id of voc12"),
        ("a.npy", npy({name: np.zeros(80) for name in by_name()}), "vectors of 80 classes"),
        ("a.npy", npy({FIRST: np.eye(21)[3], SECOND: np.eye(21)[3]}), "vectors of 21 classes"),
        ("a.npz", npz(ids=np.arange(3), labels=np.zeros((2, 20))), "3.* ids of .* labels"),
        ("a.npz", text("nothing"), "not a zip file"),
    ],
)
def test_labels_that_cannot_be_read_in_one_way_say_what_was_found(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(UserError, match=f"(?s){words}.*expected is a .npy dict") as refusal:
        load_label_file(tmp_path / name, VOC)
    assert str(tmp_path / name) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "content, words",
    [
        (f"{FIRST},cat\n", "line 1: no column is called image"),
        (f"image,labels\n{FIRST},unicorn\n", "line 2: .*: 'unicorn' is not a class of voc12"),
        (f"image,cat,dog\n{FIRST},1\n", "line 2: .*has 2 of the 3 cells of the head"),
        (f"image,cat,dog\n{FIRST},1,nan\n", "line 2: .*'nan' in the column 'dog' is neither 0"),
        (f"image,labels\n{FIRST},cat\n{FIRST},dog\n", "line 3: .*'2012_000001' is there already"),
        ("", "line 1: no column is called image"),
        ("image,labels\nx.jpg,cat\n", "'x.jpg' is not an image id of voc12"),
    ],
)
def test_a_table_that_is_not_of_the_declared_form_is_refused(tmp_path, content, words):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match=rf"a\.csv.*{words}") as refusal:
        load_label_file(tmp_path / "a.csv", VOC)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [0, 1])
def test_a_background_column_must_be_certain(tmp_path, value):
    rows = {FIRST: np.eye(21)[8], SECOND: np.eye(21)[20]}
    for row in rows.values():
        row[0] = value
    np.save(tmp_path / "a.npy", rows, allow_pickle=True)
    assert (load_label_file(tmp_path / "a.npy", VOC)[2012000001] == CAT).all()
    for row in rows.values():
        row[20] = value
    np.save(tmp_path / "a.npy", rows, allow_pickle=True)
    with pytest.raises(UserError, match="vectors of 21 classes"):
        load_label_file(tmp_path / "a.npy", VOC)


def test_a_run_reads_labels_from_a_table(call, tmp_path, info):
    ids = (info.root / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    names = ("cat", "dog", "horse", "cow")
    rows = [f"{image_id},{names[n % 4]}" for n, image_id in enumerate(ids)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]))
    assert call("--make_cam_pass", "--cls_labels", tmp_path / "labels.csv")[0] == 0


def test_names_in_annotations_with_spaces_and_capitals(tmp_path):
    objects = "".join(f"<object><name>{n}</name></object>" for n in (" Cat", "TVMonitor\n"))
    (tmp_path / "a.xml").write_text(f"<annotation>{objects}</annotation>")
    assert np.flatnonzero(label_from_xml(tmp_path / "a.xml", VOC)).tolist() == [7, 19]
    (tmp_path / "a.xml").write_text("<a><object><name>moterbike</name></object></a>")
    with pytest.raises(UserError, match="'moterbike' is not a class of voc12 .aeroplane, .*tvmon"):
        label_from_xml(tmp_path / "a.xml", VOC)


# --- checkpoints --------------------------------------------------------------------------------


@pytest.fixture
def classifier():
    model = Net(20, **THIN)
    with torch.no_grad():
        fill_by_recipe(model)
    return model


@pytest.fixture
def boundary_net():
    model = EdgeDisplacement(**THIN)
    with torch.no_grad():
        fill_by_recipe(model)
    return model


def same(state, expected):
    return state.keys() == expected.keys() and all(
        map(torch.equal, state.values(), expected.values())
    )


def weights(model):
    return {n: t for n, t in model.state_dict().items() if "num_batches_tracked" not in n}


@pytest.mark.parametrize("wrapper", ["model", "model_state_dict", "net", "state_dict"])
def test_weights_under_a_key(classifier, tmp_path, wrapper):
    torch.save({wrapper: classifier.state_dict(), "epoch": 3}, tmp_path / "cam.pth")
    loaded = load_classifier(tmp_path / "cam.pth", 20, Net)
    assert same(weights(loaded), weights(classifier))
    assert read_checkpoint(tmp_path / "cam.pth")["extra"] == {"epoch": 3}


def in_stages(state, stages, prefix="stage{}."):
    """The names of IRN's groups of layers, whose lists of layers are given."""
    renamed = {}
    for name, tensor in state.items():
        layer, _, rest = name.removeprefix("backbone.").partition(".")
        for number, layers in enumerate(stages, start=1):
            if name.startswith("backbone.") and layer in layers:
                renamed[f"{prefix.format(number)}{layers.index(layer)}.{rest}"] = tensor
        if not name.startswith("backbone."):
            renamed[name] = tensor
    return renamed


STEM = ["conv1", "bn1", "relu", "maxpool"]
OF_CLASSIFIER = [[*STEM, "layer1"], ["layer2"], ["layer3"], ["layer4"]]
OF_BOUNDARY_NET = [STEM, ["layer1"], ["layer2"], ["layer3"], ["layer4"]]


def test_weights_under_the_names_of_stages_alone(classifier, boundary_net, tmp_path):
    path = tmp_path / "net.pth"
    torch.save(in_stages(weights(classifier), OF_CLASSIFIER), path)
    assert same(weights(load_classifier(path, 20, Net)), weights(classifier))
    torch.save(in_stages(weights(boundary_net), OF_BOUNDARY_NET), path)
    assert same(weights(load_boundary_net(path)), weights(boundary_net))
    stages = in_stages(weights(classifier), OF_CLASSIFIER)
    torch.save({f"module.{name}": tensor for name, tensor in stages.items()}, path)
    assert same(load_backbone(path)[1], load_backbone_of(classifier, tmp_path))


def load_backbone_of(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    return load_backbone(tmp_path / "plain.pth")[1]


def test_what_a_training_stores_beside_its_weights_is_left_out(boundary_net, tmp_path):
    state = weights(boundary_net)
    state |= {"path_indices_0": torch.arange(9), "resnet50.fc.weight": torch.zeros(1000, 64)}
    torch.save(state, tmp_path / "irn.pth")
    assert same(weights(load_boundary_net(tmp_path / "irn.pth")), weights(boundary_net))


def test_a_name_without_its_suffix_is_mended_in_the_message(classifier, tmp_path):
    torch.save(classifier.state_dict(), tmp_path / "res50_cam.pth")
    with pytest.raises(UserError, match="res50_cam is missing; res50_cam.pth is there: give that"):
        read_checkpoint(tmp_path / "res50_cam")


def test_a_png_in_place_of_a_jpeg_is_to_be_converted(call, info):
    path = info.image_path(SECOND)
    Image.open(path).save(path, format="PNG")
    code, (line,), _ = call("--make_cam_pass")
    assert code == 2 and f"{path}: is not a JPEG file; convert it" in line
