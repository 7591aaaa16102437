"""The segmentation network on eight synthetic images: trained, predicted, scored, refused."""

import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from misc.cli.flags import SEG_PRESETS
from misc.cli.options import parse
from misc.errors import UserError
from misc.labels import read_label_png, save_label_png
from misc.storage.scores import load_scores
from net.backbones import ResNet
from net.checkpoint import load_segmentation, read_checkpoint, segmentation_on
from net.deeplab_v2 import probabilities

TINY_SEG = (
    *("--seg_preset", "clims", "--seg_crop_size", 65, "--seg_batch_size", 4),
    *("--seg_iterations", 3, "--seg_learning_rate", 1e-3),
)
PASSES = ("--train_seg_pass", "--make_seg_pass", "--eval_seg_pass")


class Seg:
    """A folder of results and the commands that fill it."""

    def __init__(self, folder, sample, init, tiny_run):
        self.folder, self.sample, self._run = folder, sample, tiny_run
        self.words = ["--voc12_root", sample.root, "--result_dir", folder, "--seg_init", init]
        self.words += ["--seg_label_dir", sample.root / "SegmentationClassAug", *TINY_SEG]

    def __call__(self, *more):
        return self._run(*self.words, *more)


@pytest.fixture(scope="module")
def run(sample, tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seg")
    torch.manual_seed(0)
    torch.save(ResNet(width=8, stem=8).state_dict(), folder / "init.pth")
    seg = Seg(folder / "r", sample, folder / "init.pth", tiny_run)
    assert seg(*PASSES, "--seg_submission", folder / "to" / "server.tar.gz") == 0
    return seg


@pytest.fixture
def fresh(run, tmp_path, tiny_run):
    """The same commands with an empty result folder."""
    return Seg(tmp_path / "r", run.sample, run.words[5], tiny_run)


def test_predictions_and_scores(run):
    ids = [line for line in (run.folder / "lists" / "val.txt").read_text().split() if "_" in line]
    rows = load_scores(run.folder)
    assert set(rows) == {"fully supervised", "fully supervised + CRF"}  # trained on ground truth
    assert rows["fully supervised"]["images"] == len(ids) and rows["fully supervised + CRF"]["crf"]
    network = load_segmentation(run.folder / "deeplab_v2.pth", 21)
    for image_id in ids:
        image = np.asarray(Image.open(run.sample.image_path(image_id)))
        scores = probabilities(network, image).numpy()
        labels = read_label_png(run.folder / "seg" / f"{image_id}.png")
        assert labels.shape == image.shape[:2] and (labels == scores.argmax(axis=0)).mean() > 0.999
        palette = Image.open(run.folder / "seg_crf" / "palette" / f"{image_id}.png")
        assert palette.mode == "P"
        crf = read_label_png(run.folder / "seg_crf" / f"{image_id}.png")
        assert np.array_equal(np.array(palette), crf)
    with tarfile.open(run.folder.parent / "to" / "server.tar.gz") as archive:
        names = archive.getnames()
    assert names == [f"results/VOC2012/Segmentation/comp6_test_cls/{i}.png" for i in ids]
    log = (run.folder / "run.log").read_text()
    assert "preset clims, apart from: {" in log and "batch size 4, gradient accumulation " in log
    assert "the test server of VOC 2012 asks for 1456 images" in log


def test_the_checkpoint_knows_its_network(run):
    checkpoint = read_checkpoint(run.folder / "deeplab_v2.pth")
    assert checkpoint["arch"]["num_labels"] == 21 and checkpoint["arch"]["width"] == 8
    assert checkpoint["arch"]["colours"] == "torchvision"
    start = segmentation_on(run.words[5], 21).state_dict()
    trained = checkpoint["state_dict"]
    assert not trained["conv1.weight"].equal(start["backbone.conv1.weight"])
    frozen = "layer1.0.bn1.weight"
    assert trained[frozen].equal(start[f"backbone.{frozen}"])
    assert checkpoint["extra"]["settings"]["step"] == "train_seg"


def refused(capsys, code):
    assert code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("kind, words", [
    ("size", "has another size"), ("label", "has label 30"), ("missing", "labels of all images"),
    ("ignore", "all labels are 255"),
])  # fmt: skip
def test_labels_that_do_not_fit(run, fresh, tmp_path, capsys, kind, words):
    folder = tmp_path / "labels"
    shutil.copytree(run.sample.root / "SegmentationClassAug", folder)
    path = folder / "2012_000003.png"
    label = read_label_png(path)
    if kind == "missing":
        path.unlink()
    elif kind == "ignore":
        for each in folder.glob("*.png"):
            save_label_png(each, np.full_like(read_label_png(each), 255))
    else:
        save_label_png(path, label[:-1] if kind == "size" else np.full_like(label, 30))
    line = refused(capsys, fresh("--train_seg_pass", "--seg_label_dir", folder))
    assert words in line and (str(path) in line or kind == "ignore")
    assert not (fresh.folder / "deeplab_v2.pth").exists()


def test_networks_that_do_not_fit(run, fresh, capsys, tmp_path):
    words = ("--make_seg_pass", "--seg_weights_name", run.words[5])
    assert "of another network (missing: aspp.0.weight" in refused(capsys, fresh(*words))
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    line = refused(capsys, fresh("--train_seg_pass", "--seg_init", tmp_path / "bad.pth"))
    assert "bad.pth cannot be read" in line
    assert "at least 16" in refused(capsys, fresh("--train_seg_pass", "--seg_crop_size", 8))
    assert fresh("--make_seg_pass") == 2
    line = refused(capsys, fresh("--eval_seg_pass"))
    assert "run --make_seg_pass first" in line


def test_presets_are_those_that_were_published():
    def of(*words):
        preset = parse(list(words)).seg_settings
        names = ("batch_size", "accumulate", "iterations", "learning_rate", "crop_size", "loss")
        return tuple(getattr(preset, name) for name in names), preset.scales[-1]

    assert of() == ((10, 1, 30_000, 2.5e-4, 321, "balanced"), 2.0)
    assert of("--dataset", "coco14") == ((10, 1, 100_000, 2.5e-4, 481, "balanced"), 2.0)
    for name in ("recam", "deeplab-pytorch"):
        assert of("--seg_preset", name) == ((10, 2, 20_000, 2.5e-4, 321, "ce"), 1.5)
    assert of("--seg_preset", "clims") == ((20, 2, 30_000, 2.5e-4, 321, "balanced"), 2.0)
    assert of("--seg_preset", "lpcam") == ((20, 2, 100_000, 2e-4, 321, "ce"), 1.5)
    args = parse(["--seg_batch_size", "4", "--seg_crop_size", "321"])
    assert args.seg_differences() == {"batch_size": 4} and args.seg_settings.batch_size == 4
    assert set(SEG_PRESETS) == {"rib", "recam", "clims", "deeplab-pytorch", "lpcam"}


def test_files_of_deeplab_pytorch_are_read(golden, tmp_path):
    data = golden("deeplab_forward.npz")
    names = [n for n in data["ref_names"].tolist() if not n.startswith("aspp")]
    theirs = dict(zip(data["ref_names"].tolist(), data["torchvision_names"].tolist(), strict=True))
    sizes = {n: s[s > 0].tolist() for n, s in zip(theirs, data["weight_shapes"], strict=True)}
    state = {n: torch.zeros(sizes[n]).half() for n in names}
    marked = "layer4.block23.increase.conv.weight"
    state[marked] += 1
    torch.save({**state, "fc.c0.other": torch.zeros(91, 2048)}, tmp_path / "start.pth")
    model = segmentation_on(tmp_path / "start.pth", 21)
    assert model.colours == "caffe" and model.arch["stride_in_1x1"] is True
    assert model.arch["name"] == "resnet101"
    assert model.state_dict()[f"backbone.{theirs[marked]}"].unique().tolist() == [1.0]
    heads = {n: torch.full(sizes[n], 2.0).half() for n in theirs if n.startswith("aspp")}
    torch.save({f"base.{n}": t for n, t in {**state, **heads}.items()}, tmp_path / "done.pth")
    trained = load_segmentation(tmp_path / "done.pth", 21)
    assert trained.aspp[3].weight.unique().tolist() == [2.0]
    with pytest.raises(UserError, match="tells 21 .* has 81"):
        load_segmentation(tmp_path / "done.pth", 81)
