"""All steps on eight synthetic images with a network of width 8, once, and their results."""

import shutil

import numpy as np
import pytest
from PIL import Image

from misc.cams import load_cam
from misc.cli.options import SEQUENCE
from misc.imutils import get_strided_size
from misc.labels import read_label_png
from misc.storage.cam_files import load_dict
from misc.storage.manifest import CONTENTS
from misc.storage.scores import load_scores
from net.checkpoint import load_boundary_net, load_classifier, read_checkpoint
from tests.tools.doc_figures import scores_of

IDS = tuple(f"2012_00000{n}" for n in range(1, 9))


class Run:
    """A folder of results and the command that made it."""

    def __init__(self, folder, sample, weights, tiny_run):
        self.folder, self.sample, self._tiny_run = folder, sample, tiny_run
        self.words = ["--voc12_root", sample.root, "--result_dir", folder]
        self.words += ["--imagenet_weights", weights, "--visualize", 1]

    def __call__(self, *more) -> int:
        return self._tiny_run(*self.words, *more)

    def log(self) -> str:
        return (self.folder / "run.log").read_text()

    def outputs(self) -> dict:
        """Everything but the log and the pictures, with the time of its last change."""
        return {
            str(path.relative_to(self.folder)): path.stat().st_mtime_ns
            for path in sorted(self.folder.rglob("*"))
            if path.suffix in (".npy", ".png", ".pth", ".txt")
            and path.parent.name != "visualize"
            and path.name != CONTENTS
        }


@pytest.fixture(scope="module")
def run(sample, classifier_file, tiny_run, tmp_path_factory):
    """The whole sequence, run once; tests may repeat it, but leave its files as they are."""
    run = Run(tmp_path_factory.mktemp("pipeline") / "r", sample, classifier_file, tiny_run)
    assert run() == 0
    run.first_log = run.log()
    return run


@pytest.fixture
def copied(run, tmp_path, tiny_run):
    """A copy of the results of all steps, which may be changed."""
    shutil.copytree(run.folder, tmp_path / "r")
    return Run(tmp_path / "r", run.sample, run.words[5], tiny_run)


@pytest.mark.parametrize("name", ["cam_plain", "cam"])
def test_maps_of_every_image(run, name):
    labels = load_dict(run.folder / "lists" / "cls_labels.npy", "")
    assert {path.stem for path in (run.folder / name).glob("*.npy")} == set(IDS)
    peaks = []
    for image_id in IDS:
        maps = load_cam(run.folder / name / f"{image_id}.npy")
        size = run.sample.image_size(image_id)
        label = labels[run.sample.label_key(image_id)]
        assert maps["keys"].tolist() == label.nonzero()[0].tolist()
        assert maps["high_res"].shape == (len(maps["keys"]), *size)
        assert maps["cam"].shape == (len(maps["keys"]), *get_strided_size(size, 4))
        peaks += maps["high_res"].max(axis=(1, 2)).tolist()
        assert maps["high_res"].min() >= 0
    # The classifier knows nothing, so that some classes have no positive score anywhere.
    assert all(0.99 < peak <= 1 or peak == 0 for peak in peaks) and np.mean(peaks) > 0.2


@pytest.mark.parametrize("name", ["ir_label", "sem_seg"])
def test_label_maps_of_every_image(run, name):
    seen = set()
    for image_id in IDS:
        labels = read_label_png(run.folder / name / f"{image_id}.png")
        keys = load_cam(run.folder / "cam" / f"{image_id}.npy")["keys"]
        assert labels.shape == run.sample.image_size(image_id)
        assert set(np.unique(labels)) <= {0, 255, *(keys + 1)}
        seen |= set(np.unique(labels))
    assert len(seen - {0, 255}) > 0 and (255 in seen) == (name == "ir_label")


def test_checkpoints(run):
    classifier = load_classifier(run.folder / "res50_cam.pth", 20)
    assert classifier.arch["width"] == 8
    started = load_classifier(run.words[5], 20)
    first, last = "backbone.layer2.3.conv3.weight", "backbone.layer4.2.conv3.weight"
    old, new = started.state_dict(), classifier.state_dict()
    assert old[first].equal(new[first]) and not old[last].equal(new[last])
    network = load_boundary_net(run.folder / "res50_irn.pth")
    assert network.mean_shift.running_mean.any()
    assert old[last].equal(network.state_dict()[last])
    made = read_checkpoint(run.folder / "res50_irn.pth")["extra"]["settings"]
    assert made["irn_radius"] == 4 and set(made["inputs"]) >= {"IR labels", "imagenet weights"}


def test_the_log_has_the_options_the_steps_and_the_table(run):
    assert '"RIB_iter": 2' in run.first_log
    for number, name in enumerate(SEQUENCE, start=1):
        assert f"[{number}/8] {name}: " in run.first_log
    table = run.first_log[run.first_log.index("mIoU (%)") :].splitlines()
    assert [line[:23].strip() for line in table[1:4]] == ["CAM seed", "RIB seed", "pseudo masks"]
    assert all(0 < float(line.split()[-2]) < 100 for line in table[1:4])
    assert {line.split()[-2] for line in table[1:4]} == set(scores_of(run.folder))
    assert table[3].split()[-1] == "0.27" and "paper" not in table[0]
    assert table[4].startswith("on 8 images of ")


def test_pictures(run):
    folder = run.folder / "visualize"
    names = {path.name for path in folder.glob("*.png")}
    assert names == {f"{IDS[0]}.png", "miou_over_threshold.png"}
    assert all(min(Image.open(folder / name).size) > 100 for name in names)
    width = Image.open(folder / f"{IDS[0]}.png").size[0]
    assert width == 6 * 200  # image, CAM, RIB after one iteration, IR label, mask, ground truth
    shown = folder / "iterations" / "make_recam_with_RIB"
    assert [path.name for path in shown.iterdir()] == [f"{IDS[0]}_1.npy"]


# The files of each step.
FILES = {
    "train_cam": "res50_cam.pth",
    "make_cam": "cam_plain/*.npy",
    "make_recam_with_RIB": "cam/*.npy",
    "cam_to_ir_label": "ir_label/*.png",
    "train_irn": "res50_irn.pth",
    "make_sem_seg_labels": "sem_seg/*.png",
}


def test_a_second_run_redoes_nothing(run):
    before = run.outputs()
    assert len(before) > 40 and run() == 0
    assert run.outputs() == before
    tables = run.log().split("mIoU (%)")
    assert len(tables) >= 3 and tables[1].splitlines()[1:5] == tables[-1].splitlines()[1:5]


@pytest.mark.parametrize("step", SEQUENCE)
def test_every_step_alone(copied, step):
    """It makes again all that it writes, and nothing else, to the same bytes."""
    own = set(copied.folder.glob(FILES.get(step, "none")))
    expected = {path: path.read_bytes() for path in own}
    before = {name: t for name, t in copied.outputs().items() if copied.folder / name not in own}
    for path in own:
        path.unlink()
    rows = {"eval_cam": {"CAM seed", "RIB seed"}, "eval_sem_seg": {"pseudo masks"}}
    if step in rows:
        (copied.folder / "scores.json").unlink()
    assert copied(f"--{step}_pass", "--visualize", 0) == 0
    assert {path: path.read_bytes() for path in own} == expected
    again = copied.outputs()
    assert {name: again[name] for name in before} == before or step == "make_sem_seg_labels"
    assert set(load_scores(copied.folder)) == rows.get(step, {*rows["eval_cam"], "pseudo masks"})
    log = copied.log()
    assert f"[1/1] {step}: " in log[log.rindex("options: ") :]


def test_other_maps_make_later_steps_stale(copied, capsys):
    """A step notices that what it starts from was made anew with other settings."""
    again = ("--RIB_iter", 1, "--limit", 2, "--visualize", 0)
    assert copied("--make_recam_pass", "--overwrite", *again) == 0
    capsys.readouterr()
    assert copied("--cam_to_ir_label_pass", *again) == 2
    assert "--ir_label_out_dir" in (error := capsys.readouterr().err) and "maps is" in error
    assert copied("--cam_to_ir_label_pass", "--overwrite", *again) == 0
    labels = {path.stem for path in (copied.folder / "ir_label").glob("*.png")}
    assert labels == set(IDS[:2])
