"""All steps on eight drawn images with a thin network, once; then what was written is looked at."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from misc.cams import load_cam
from misc.cli import lists
from misc.cli.options import SEQUENCE, parse
from misc.imutils import get_strided_size
from misc.labels import read_label_png, voc_palette
from misc.storage.cam_files import load_label_dict
from misc.storage.manifest import CONTENTS, read_manifest
from misc.storage.scores import load_scores
from net.checkpoint import load_boundary_net, load_classifier, read_checkpoint
from step import all_steps
from tests.conftest import PROJECT, TINY

IDS = tuple(f"2012_00000{n}" for n in range(1, 9))


class Run:
    """A folder of results and the command that made it."""

    def __init__(self, folder, sample, weights, tiny_run):
        self.folder, self.sample, self._tiny_run = folder, sample, tiny_run
        self.words = ["--voc12_root", sample.root, "--result_dir", folder]
        self.words += ["--imagenet_weights", weights, "--visualize", 1]

    def __call__(self, *more) -> int:
        return self._tiny_run(*self.words, *more)

    def options(self):
        return parse([*TINY, *map(str, self.words)])

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


# --- what one run writes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cam_plain", "cam"])
def test_maps_of_every_image(run, name):
    labels = load_label_dict(run.folder / "lists" / "cls_labels.npy")
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


def test_rib_maps_are_not_the_plain_ones(run):
    names = [f"{image_id}.npy" for image_id in IDS]
    pairs = [[load_cam(run.folder / d / n)["cam"] for d in ("cam_plain", "cam")] for n in names]
    assert any(np.abs(plain - rib).max() > 1e-4 for plain, rib in pairs)
    assert all(np.abs(plain - rib).max() < 0.5 for plain, rib in pairs)  # two small steps


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


def test_pseudo_masks_in_colour(run):
    for image_id in IDS:
        mask = read_label_png(run.folder / "sem_seg" / f"{image_id}.png")
        image = Image.open(run.folder / "sem_seg" / "palette" / f"{image_id}.png")
        assert image.mode == "P" and np.array_equal(np.array(image), mask)
        assert np.array_equal(np.array(image.convert("RGB")), voc_palette()[mask])


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
    noted = read_checkpoint(run.folder / "res50_irn.pth")["extra"]["settings"]
    assert noted["irn_radius"] == 4 and set(noted["inputs"]) >= {"IR labels", "imagenet weights"}


def test_manifests_say_what_made_the_files(run):
    for folder in ("cam_plain", "cam", "ir_label", "sem_seg", "lists"):
        assert read_manifest(run.folder / folder)
    noted = read_manifest(run.folder / "cam")
    assert noted["RIB_iter"] == 2 and noted["max_long"] == 96 and "classifier" in noted["inputs"]


def test_the_log_has_the_options_the_steps_and_the_table(run):
    assert '"RIB_iter": 2' in run.first_log
    for number, name in enumerate(SEQUENCE, start=1):
        assert f"[{number}/8] {name}: " in run.first_log
    table = run.first_log[run.first_log.index("mIoU (%)") :].splitlines()
    assert [line[:23].strip() for line in table[1:4]] == ["CAM seed", "RIB seed", "pseudo masks"]
    assert all(0 < float(line.split()[-2]) < 100 for line in table[1:4])
    assert table[3].split()[-1] == "0.27" and "paper" not in table[0]
    assert table[4].startswith("on 8 images of ")


def test_pictures(run):
    folder = run.folder / "visualize"
    names = {path.name for path in folder.glob("*.png")}
    assert names == {f"{IDS[0]}.png", "miou_over_threshold.png"}
    assert all(min(Image.open(folder / name).size) > 100 for name in names)
    width = Image.open(folder / f"{IDS[0]}.png").size[0]
    assert width == 6 * 200  # image, CAM, RIB after one iteration, IR label, mask, truth
    shown = folder / "iterations" / "make_recam_with_RIB"
    assert [path.name for path in shown.iterdir()] == [f"{IDS[0]}_1.npy"]


# --- versions of the steps ----------------------------------------------------------------------

RECORDED = PROJECT / "tests" / "step_outputs.json"
FILES = {
    "train_cam": ["res50_cam.pth"],
    "make_cam": ["cam_plain/*.npy"],
    "make_recam_with_RIB": ["cam/*.npy"],
    "cam_to_ir_label": ["ir_label/*.png"],
    "train_irn": ["res50_irn.pth"],
    "make_sem_seg_labels": ["sem_seg/*.png"],
    "lists": ["lists/[tv]*.txt", "lists/*.npy"],  # not contents.txt: it has times of change
}


def numbers_of(path) -> np.ndarray:
    """All numbers of a file that a step has written."""
    if path.suffix == ".npy":
        content = load_label_dict(path) if path.parent.name == "lists" else load_cam(path)
        return np.concatenate([np.ravel(array) for _, array in sorted(content.items())])
    if path.suffix == ".png":
        return np.bincount(read_label_png(path).ravel(), minlength=256)
    if path.suffix == ".txt":
        lines = path.read_text().splitlines()
        return np.array([int(line.replace("_", "")) for line in lines if not line.startswith("#")])
    state = read_checkpoint(path)["state_dict"]
    return np.concatenate([state[name].numpy().ravel() for name in sorted(state)])


def summary(folder, patterns) -> list[float]:
    """Some weighted sums of everything that a step has written."""
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    numbers = np.concatenate([numbers_of(path).astype(np.float64) for path in paths])
    waves = (1.0, np.sin(np.arange(len(numbers))), np.cos(0.01 * np.arange(len(numbers))))
    return [len(paths), len(numbers), *(float((np.abs(numbers) * wave).sum()) for wave in waves)]


def version_of(step: str, args) -> int:
    return lists.VERSION if step == "lists" else all_steps()[step].settings(args)["version"]


def test_every_output_is_that_of_the_version_of_its_step(run):
    """RIB_RECORD=1 writes the file anew, after a version was raised."""
    args = run.options()
    found = {
        step: {"version": version_of(step, args), "output": summary(run.folder, patterns)}
        for step, patterns in FILES.items()
    }
    if "RIB_RECORD" in os.environ:
        RECORDED.write_text(json.dumps(found, indent=1) + "\n")
    recorded = json.loads(RECORDED.read_text())
    for step, entry in found.items():
        same = np.allclose(entry["output"], recorded[step]["output"], rtol=2e-3, atol=1e-2)
        if entry["version"] == recorded[step]["version"]:
            assert same, f"raise the version of step {step}: the same options give other files"
        else:
            assert same, f"version of {step} was raised: run this test with RIB_RECORD=1"


# --- the same command again ---------------------------------------------------------------------


def test_a_second_run_redoes_nothing(run):
    before = run.outputs()
    assert len(before) > 40 and run() == 0
    assert run.outputs() == before
    tables = run.log().split("mIoU (%)")
    assert len(tables) >= 3 and tables[1].splitlines()[1:5] == tables[-1].splitlines()[1:5]


@pytest.mark.parametrize("step", SEQUENCE)
def test_every_step_alone(copied, run, step):
    """It makes again all that it writes, and nothing else, to the same bytes."""
    own = {p for pattern in FILES.get(step, []) for p in copied.folder.glob(pattern)}
    expected = {path: path.read_bytes() for path in own if path.suffix != ".pth"}
    before = {name: t for name, t in copied.outputs().items() if copied.folder / name not in own}
    for path in own:
        path.unlink()
    scores = copied.folder / "scores.json"
    rows = {"eval_cam": {"CAM seed", "RIB seed"}, "eval_sem_seg": {"pseudo masks"}}
    if step in rows:
        scores.unlink()
    assert copied(f"--{step}_pass", "--visualize", 0) == 0
    assert all(path.is_file() for path in own)
    assert {path: path.read_bytes() for path in expected} == expected
    again = copied.outputs()
    assert {name: again[name] for name in before} == before or step == "make_sem_seg_labels"
    assert set(load_scores(copied.folder)) == rows.get(step, {*rows["eval_cam"], "pseudo masks"})
    log = copied.log()
    assert f"[1/1] {step}: " in log[log.rindex("options: ") :]


WRITTEN = {
    "make_cam": "cam_plain/{}.npy",
    "make_recam_with_RIB": "cam/{}.npy",
    "cam_to_ir_label": "ir_label/{}.png",
    "make_sem_seg_labels": "sem_seg/{}.png",
}


@pytest.mark.parametrize("step", WRITTEN)
def test_a_lost_and_a_damaged_file_are_made_again(copied, step):
    """The others stay, and what is made again has the same bytes."""
    # One that was cut has lost its checksum, so it may be anybody's.
    lost, damaged, kept = (copied.folder / WRITTEN[step].format(i) for i in IDS[2:5])
    before, kept_time = [lost.read_bytes(), damaged.read_bytes()], kept.stat().st_mtime_ns
    lost.unlink()
    damaged.write_bytes(before[1][: len(before[1]) // 2])
    assert copied(f"--{step}_pass") == 2
    middle = len(before[1]) // 2
    damaged.write_bytes(
        before[1][:middle] + bytes([before[1][middle] ^ 1]) + before[1][middle + 1 :]
    )
    assert copied(f"--{step}_pass") == 0
    assert [lost.read_bytes(), damaged.read_bytes()] == before
    assert kept.stat().st_mtime_ns == kept_time


def test_plain_maps_are_made_by_their_own_step_where_rib_follows(copied):
    """Both are made where they are missing, to the same bytes; the table has the row of both."""
    plain, rib = ([copied.folder / d / f"{i}.npy" for i in IDS[:2]] for d in ("cam_plain", "cam"))
    expected = [path.read_bytes() for path in (*plain, *rib)]
    for path in (*plain, rib[1]):
        path.unlink()
    steps = ("--make_cam_pass", "--make_recam_pass", "--eval_cam_pass")
    assert copied(*steps, "--visualize", 0) == 0
    assert [path.read_bytes() for path in (*plain, *rib)] == expected
    log = copied.log()
    log = log[log.rindex("options: ") :]
    assert "make_cam: 2 images, 1 process" in log and "make_recam_with_RIB: 1 image, 1 pr" in log
    assert "CAM seed" in log and "RIB seed" in log


@pytest.mark.parametrize("step, name", [("train_cam", "res50_cam"), ("train_irn", "res50_irn")])
def test_training_is_repeatable(copied, step, name):
    path = copied.folder / f"{name}.pth"
    first = read_checkpoint(path)
    path.unlink()
    assert copied(f"--{step}_pass", "--visualize", 0) == 0
    again = read_checkpoint(path)
    assert again["arch"] == first["arch"] and again["extra"] == first["extra"]
    assert all(tensor.equal(first["state_dict"][n]) for n, tensor in again["state_dict"].items())


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


# --- fresh folders ------------------------------------------------------------------------------


def test_limit(sample, classifier_file, tiny_run, tmp_path):
    run = Run(tmp_path / "r", sample, classifier_file, tiny_run)
    steps = ("--make_cam_pass", "--make_recam_pass", "--eval_cam_pass", "--cam_to_ir_label_pass")
    given = ("--cam_weights_name", classifier_file, "--limit", 2, "--visualize", 5)
    assert run(*steps, *given) == 0
    for name, suffix in (("cam_plain", "npy"), ("cam", "npy"), ("ir_label", "png")):
        assert {path.stem for path in (run.folder / name).glob(f"*.{suffix}")} == set(IDS[:2])
    assert "on 2 images of" in run.log()
    # A larger limit goes on with the same folder.
    before = run.outputs()
    assert run("--make_cam_pass", *given, "--limit", 3) == 0
    after = run.outputs()
    assert set(after) - set(before) == {f"cam_plain/{IDS[2]}.npy"}
    assert before.items() <= after.items()


def test_the_number_of_processes_does_not_change_a_bit(sample, classifier_file, tiny_run, tmp_path):
    files = []
    for processes in (1, 2):
        run = Run(tmp_path / str(processes), sample, classifier_file, tiny_run)
        given = ("--cam_weights_name", classifier_file, "--visualize", 0)
        assert run("--make_cam_pass", *given, "--num_processes", processes) == 0
        paths = sorted((run.folder / "cam_plain").glob("*.npy"))
        files.append([path.read_bytes() for path in paths])
    assert len(files[0]) == 8 and files[0] == files[1]
    assert "make_cam: 8 images, 2 processes on cpu" in run.log()
