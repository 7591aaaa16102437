"""misc/cams.py: merging and deciding against golden outputs; the files between the steps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from misc import cams
from misc.errors import UserError
from misc.storage.cam_files import save_dict
from tests.conftest import recorded_names, recorded_numbers


@pytest.mark.parametrize("run", recorded_names("rib_process.npz", "_config"))
def test_merged_scales_are_the_recorded_ones(golden, run):
    data = golden("rib_process.npz")
    maps = [torch.from_numpy(data[f"{run}_cam_scale{scale}"][-1]) for scale in range(4)]
    keys = torch.from_numpy(data[f"{run}_save_keys"])
    cam, high_res = cams.merge_scales(maps, data["image"].shape[:2], keys)
    np.testing.assert_allclose(cam, data[f"{run}_save_cam"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(high_res, data[f"{run}_save_high_res"], rtol=0, atol=1e-5)


def test_pair_map_mirrors_back_and_cuts_each_at_zero():
    raw = torch.tensor([[[[1.0, -2.0, 3.0]]], [[[5.0, 7.0, -1.0]]]])
    assert cams.pair_map(raw).tolist() == [[[1.0, 7.0, 8.0]]]


@pytest.mark.parametrize("image", recorded_numbers("eval.npz", r"cam_gt_(\d+)"))
@pytest.mark.parametrize("percent", recorded_numbers("eval.npz", r"cam_pred_th(\d+)_\d+"))
def test_label_maps_are_the_recorded_ones(golden, image, percent):
    data = golden("eval.npz")
    labels = cams.label_map(data[f"cam_high_res_{image}"], data[f"cam_keys_{image}"], percent / 100)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, data[f"cam_pred_th{percent}_{image}"])


def test_confident_label_maps_are_the_recorded_ones(golden):
    data = golden("crf.npz")
    positions = np.arange(len(data["cams_keys"]))  # the CRF sees 0, 1, 2 in place of the classes
    for name, threshold in zip(("fg", "bg"), data["conf_thresholds"], strict=True):
        labels = cams.label_map(data["cams_high_res"], positions, threshold)
        np.testing.assert_array_equal(labels, data[f"conf_{name}_crf_in"])


@pytest.mark.parametrize("percent", recorded_numbers("random_walk.npz", r"seg_label_bg0(\d+)"))
def test_labels_after_the_random_walk_are_the_recorded_ones(golden, percent):
    data = golden("random_walk.npz")
    height, width = data["seg_size"]
    walked = torch.from_numpy(data["seg_walk"])
    enlarged = F.interpolate(walked, scale_factor=4, mode="bilinear", align_corners=False)
    enlarged = enlarged[:, 0, :height, :width]
    shares = (enlarged / enlarged.max()).numpy()
    labels = cams.label_map(shares, data["seg_keys"], percent / 100)
    clear = ~data[f"seg_close_bg0{percent}"]
    np.testing.assert_array_equal(labels[clear], data[f"seg_label_bg0{percent}"][clear])
    nothing = cams.label_map(shares[:0], data["seg_keys"][:0], percent / 100)
    np.testing.assert_array_equal(nothing, data["seg_label_nokeys"])


def test_label_map_breaks_ties_towards_the_first():
    maps = np.array([[[0.3, 0.5, 0.4, 0.6]], [[0.2, 0.5, 0.7, 0.6]]], dtype=np.float32)
    assert cams.label_map(maps, np.array([14, 4]), 0.3).tolist() == [[0, 15, 5, 15]]
    unchanged = maps.copy()
    cams.label_map(maps, np.array([14, 4]), 0.3)
    np.testing.assert_array_equal(maps, unchanged)


def example_cam(num_keys=2):
    rng = np.random.RandomState(0)
    return {
        "keys": np.array([3, 79])[:num_keys],
        "cam": rng.rand(num_keys, 4, 5).astype(np.float32),
        "high_res": rng.rand(num_keys, 15, 18).astype(np.float32),
    }


def assert_same(loaded, expected):
    assert list(loaded) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == (np.int64 if name == "keys" else np.float32)
        assert loaded[name].flags.writeable and loaded[name].flags.c_contiguous


@pytest.mark.parametrize("num_keys", [0, 1, 2])
def test_saved_cams_come_back(tmp_path, num_keys):
    content = example_cam(num_keys)
    path = tmp_path / "2007_000032.npy"
    cams.save_cam(path, **content)
    assert_same(cams.load_cam(path), content)
    # Other tools of the field read the file so.
    assert_same(np.load(path, allow_pickle=True).item(), content)


def test_saving_takes_tensors_and_cuts_of_arrays(tmp_path):
    content = example_cam()
    path = tmp_path / "a.npy"
    high_res = torch.from_numpy(content["high_res"])[:, :7, :9]
    cams.save_cam(path, torch.tensor([3, 79]), content["cam"][..., ::-1], high_res)
    expected = content | {"cam": content["cam"][..., ::-1], "high_res": high_res.numpy()}
    assert_same(cams.load_cam(path), expected)


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_older_file_with_keys_alone_is_an_image_without_classes(tmp_path, dtype):
    path = tmp_path / "a.npy"
    save_dict(path, {"keys": np.zeros(0, dtype=dtype)})
    loaded = cams.load_cam(path)
    assert loaded["keys"].shape == (0,) and loaded["keys"].dtype == np.int64
    assert loaded["cam"].shape == loaded["high_res"].shape == (0, 0, 0)


@pytest.mark.parametrize("change", [
    *({"keys": np.array(k)} for k in ([3], [3.0, 79], [3, 3], [3, -1], [3, 65_534], [[3, 79]])),
    *({"cam": np.zeros(shape, np.float32)} for shape in ((3, 4, 5), (2, 4))),
    {"high_res": np.zeros((2, 15, 18), np.int64)}, {"high_res": np.zeros(0, np.float32)},
    {"extra": np.zeros(3)}, {"keys": None}, {"high_res": None}, {"cam": None, "high_res": None},
])  # fmt: skip
def test_cams_that_do_not_fit_are_refused(tmp_path, change):
    path = tmp_path / "a.npy"
    content = {name: of for name, of in (example_cam() | change).items() if of is not None}
    save_dict(path, content)
    with pytest.raises(UserError, match=f"{path}.*run make_cam or make_recam_with_RIB first"):
        cams.load_cam(path)
