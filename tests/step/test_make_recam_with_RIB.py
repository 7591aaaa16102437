"""The steps that make maps, where memory ends: what they save, and whom they name."""

import numpy as np
import pytest
import torch

from misc.cams import load_cam
from misc.cli.options import parse
from misc.errors import UserError
from misc.runtime import memory
from net.folded import FoldedCAM
from step import make_cam, make_recam_with_AdvCAM, make_recam_with_RIB
from step.train_seg import require_known_precision
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


def maps_of(kind, args, count=2) -> list[np.ndarray]:
    """What a step saves for the first images."""
    ids = args.image_ids("infer")[:count]
    task = STEPS[kind](args)
    task.start(torch.device("cpu"), list(ids))
    for image_id in ids:
        task.one(image_id)
    return [load_cam(task.outputs(image_id)[0])["high_res"] for image_id in ids]


def limit_rows(monkeypatch, rows: int) -> None:
    """Let every pass of more rows run out of memory."""

    def limited(whole):
        def passed(self, given):
            if len(given) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return whole(self, given)

        return passed

    for owner, name in ((FoldedCAM, "maps"), (STEPS["AdvCAM"], "scores_of_rows")):
        monkeypatch.setattr(owner, name, limited(getattr(owner, name)))


@pytest.mark.parametrize("kind", STEPS)
def test_short_memory_changes_no_map(kind, args, monkeypatch):
    expected = maps_of(kind, args)
    limit_rows(monkeypatch, 1)
    for maps, same in zip(maps_of(kind, args), expected, strict=True):
        np.testing.assert_allclose(maps, same, atol=1e-5)


@pytest.mark.parametrize("kind", STEPS)
def test_an_image_that_is_too_large_is_named(kind, args, monkeypatch):
    limit_rows(monkeypatch, 0)
    with pytest.raises(UserError, match="image 2012_000001: on cpu .*--max_long"):
        maps_of(kind, args)


@pytest.mark.parametrize("step", [make_cam, make_recam_with_RIB])
def test_the_precision_is_noted_with_the_maps(step, args):
    noted = step.settings(args)
    assert noted["precision"] == "float32"
    names = set(noted) - {"step", "version", "RIB_climbed"}
    assert names >= {"cam_scales", "max_long"}
    for name in names:
        assert noted[name] == args.settings(name)[name], name


def test_a_folder_made_when_there_were_climbed_images_is_continued(args):
    """Its manifest has the option, which was off."""
    assert make_recam_with_RIB.settings(args)["RIB_climbed"] is False


def test_available_bytes_are_those_of_the_group_where_it_has_fewer(monkeypatch):
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4096 kB\n"}
    monkeypatch.setattr(memory.Path, "exists", lambda path: str(path) in files)
    monkeypatch.setattr(memory.Path, "read_text", lambda path: files[str(path)])
    assert memory.available_bytes() == 4096 << 10
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert memory.available_bytes() == 4096 << 10
    files |= {"/sys/fs/cgroup/memory.max": "5000\n", "/sys/fs/cgroup/memory.current": "2000\n"}
    assert memory.available_bytes() == 3000


@pytest.mark.parametrize("kind", STEPS)
def test_maps_in_double_precision(kind, args, words):
    """They are computed so, and saved as any others."""
    (expected,) = maps_of(kind, args, count=1)
    double = parse([*words, "--precision", "float64"])
    assert double.precision == "float64" and args.precision == "float32"
    (maps,) = maps_of(kind, double, count=1)
    task = STEPS[kind](double)
    task.start(torch.device("cpu"), [])
    model = task.model if kind == "AdvCAM" else task.engine._network._network
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert maps.dtype == np.float32 and not np.array_equal(maps, expected)
    np.testing.assert_allclose(maps, expected, atol=1e-3)


def test_float16_is_for_those_who_see_its_overflows():
    args = parse(["--precision", "fp16"])
    with pytest.raises(UserError, match="--precision fp16: is not for AdvCAM; give"):
        make_recam_with_AdvCAM.require_range(args)
    with pytest.raises(UserError, match="--precision fp16: .* leave it out for train_seg"):
        require_known_precision(args, "train_seg")
    for step in (make_recam_with_AdvCAM.require_range, lambda a: require_known_precision(a, "")):
        step(parse(["--precision", "bf16"]))
