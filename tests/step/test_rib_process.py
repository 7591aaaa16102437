"""The growth of RIB's maps, of the images that gain most and least."""

import numpy as np
import pytest
from PIL import Image

from misc.cams import load_cam
from misc.cli.options import parse
from step import rib_process
from tests.conftest import TINY


@pytest.fixture(scope="module")
def made(sample, classifier_file, tiny_run, tmp_path_factory):
    """Command of a run with three images."""
    folder = tmp_path_factory.mktemp("process") / "r"
    words = ["--voc12_root", sample.root, "--cam_weights_name", classifier_file, "--limit", 3]
    words += ["--result_dir", folder, "--RIB_iter", 3, "--RIB_lr", 1e-3]
    steps = ["--make_cam_pass", "--make_recam_pass", "--eval_cam_pass"]
    assert tiny_run(*words, *steps) == 0
    return [*TINY, *map(str, words)]


def test_images_are_sorted_by_their_gain(made, capsys):
    assert rib_process.main([*made, "--best", "2", "--worst", "1", "--shown", "0,2,9"]) == 0
    args = parse(made)
    found = rib_process.gains(args)
    assert len(found) == 3 and found == sorted(found, key=lambda gain: gain.cam - gain.rib)
    assert found[0].gain > found[2].gain
    lines = capsys.readouterr().out.splitlines()
    named = [line.split()[1].rstrip(":") for line in lines if line.startswith(("best", "worst"))]
    assert named == [found[0].image_id, found[1].image_id, found[2].image_id]
    folder = args.result_dir / "visualize"
    best, worst = (Image.open(folder / f"rib_process_{name}.png") for name in ("best", "worst"))
    assert best.height > 1.5 * worst.height


def test_maps_that_are_made_again_are_those_of_the_run(made):
    args = parse(made)
    ids = args.image_ids("infer")[:2]
    for image_id, after in zip(ids, rib_process.maps_after(args, ids, (0, 2, 10)), strict=True):
        name = f"{image_id}.npy"
        cam, last = load_cam(args.plain_cam_out_dir / name), load_cam(args.cam_out_dir / name)
        assert len(after) == 3
        assert np.array_equal(after[0]["high_res"], cam["high_res"])
        assert np.array_equal(after[2]["high_res"], last["high_res"])
        assert not np.array_equal(after[1]["high_res"], after[0]["high_res"])


def test_a_folder_without_scores_is_said(sample, tmp_path, capsys):
    words = [*TINY, "--voc12_root", str(sample.root), "--result_dir", str(tmp_path / "r")]
    assert rib_process.main(words) == 2
    assert "has no scores of the CAM seed" in capsys.readouterr().err
