"""The steps that make maps: what they record, and what they say where memory ends."""

import pytest
import torch

from misc.cli.options import parse
from misc.cli.run import said_plainly
from misc.runtime.image_task import run_over_images
from net.backbones import ResNet
from step import make_cam, make_recam_with_AdvCAM, make_recam_with_RIB
from tests.conftest import TINY
from voc12.prepare import prepare

STEPS = {
    "plain": make_cam.MakeCAM,
    "RIB": make_recam_with_RIB.MakeRIBCAM,
    "AdvCAM": make_recam_with_AdvCAM.MakeAdvCAM,
}


@pytest.fixture
def words(sample, classifier_file, tmp_path):
    words = ["--voc12_root", sample.root, "--result_dir", tmp_path]
    words += ["--cam_weights_name", classifier_file]
    return [*TINY, "--adv_iter", "3", *map(str, words)]


@pytest.fixture
def args(words):
    args = parse(words)
    prepare(args.info, args.list_dir)
    for folder in (args.cam_out_dir, args.plain_cam_out_dir, args.adv_cam_out_dir):
        folder.mkdir()
    return args


@pytest.mark.parametrize("kind", STEPS)
def test_memory_that_ends_is_one_line_with_the_options_to_lower(kind, args, monkeypatch, capsys):
    """The maps of the images before stay, and the same command resumes."""
    passes = []

    def limited(model, images, whole=ResNet.stem):
        passes.append(len(images))
        if len(passes) > {"plain": 8, "RIB": 12, "AdvCAM": 30}[kind]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore lines")
        return whole(model, images)

    monkeypatch.setattr(ResNet, "stem", limited)
    task = STEPS[kind](args)
    code = said_plainly(lambda: run_over_images(task, args.image_ids("infer"), args.resources))
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("stopped: ")]
    assert code == 1 and line.endswith("; the same command resumes where it stopped")
    assert f"{task.name}: image 2012_00000" in line and "CUDA out of memory. Tried" in line
    options = ["--max_long", "--num_processes"]
    options += ["--RIB_batch_size", "--cam_crop_size"] if kind == "RIB" else []
    assert all(option in line.split("lower ")[1] for option in options)
    assert task.outputs(args.image_ids("infer")[0])[0].is_file()


@pytest.mark.parametrize("step", [make_cam, make_recam_with_RIB])
def test_the_precision_is_noted_with_the_maps(step, args):
    recorded = step.settings(args)
    assert recorded["precision"] == "float32"
    names = set(recorded) - {"step", "version", "RIB_climbed"}
    assert names >= {"cam_scales", "max_long"}
    for name in names:
        assert recorded[name] == args.settings(name)[name], name
