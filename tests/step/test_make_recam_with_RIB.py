"""The settings that steps that make maps record."""

import pytest

from misc.cli.options import parse
from step import make_cam, make_recam_with_RIB
from tests.conftest import TINY
from voc12.prepare import prepare


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


@pytest.mark.parametrize("step", [make_cam, make_recam_with_RIB])
def test_the_precision_is_noted_with_the_maps(step, args):
    recorded = step.settings(args)
    assert recorded["precision"] == "float32"
    names = set(recorded) - {"step", "version", "RIB_climbed"}
    assert names >= {"cam_scales", "max_long"}
    for name in names:
        assert recorded[name] == args.settings(name)[name], name
