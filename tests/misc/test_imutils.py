"""misc/imutils.py against golden outputs and small hand-made cases."""

import random
import sys

import numpy as np
import pytest
import torch

from misc import crf, imutils
from misc.data import datasets
from misc.errors import UserError
from tests.conftest import recorded_numbers
from tests.references import crf_labels


def photo(height=20, width=30, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def blocks(height, width, num_labels, seed=0):
    """A label map of 8 x 8 blocks."""
    coarse = np.random.RandomState(seed).randint(0, num_labels, (height // 8 + 1, width // 8 + 1))
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width]


def test_resizing_is_the_recorded_one(golden):
    data = golden("image_ops.npz")
    image, labels = data["img"], data["lab"]
    for name in data.files:
        if name.startswith(("rescale3_", "rescale0_")):
            order, scale = int(name[7]), int(name[9:]) / 100
            result = imutils.pil_rescale(image if order == 3 else labels, scale, order)
        elif name.startswith(("resize3_", "resize0_")):
            order, size = int(name[6]), tuple(int(side) for side in name[8:].split("x"))
            result = imutils.pil_resize(image if order == 3 else labels, size, order)
        else:
            continue
        np.testing.assert_array_equal(result, data[name], err_msg=name)


def test_rescale_rounds_half_to_even(golden):
    data = golden("image_ops.npz")
    for dim, expected in zip(data["round_dims"], data["round_result"], strict=True):
        labels = np.zeros((dim, 8), dtype=np.uint8)
        heights = [len(imutils.pil_rescale(labels, scale, 0)) for scale in data["round_scales"]]
        assert heights == expected.tolist()


@pytest.mark.parametrize("long_side", recorded_numbers("image_ops.npz", r"long(\d+)"))
def test_long_side_is_the_recorded_one(golden, long_side):
    data = golden("image_ops.npz")
    for name, image in (("", data["img"]), ("_transposed", data["img"].transpose(1, 0, 2))):
        result = imutils.random_resize_long(np.ascontiguousarray(image), long_side, long_side)
        np.testing.assert_array_equal(result, data[f"long{long_side}{name}"])


@pytest.mark.parametrize("case", recorded_numbers("image_ops.npz", r"crop(\d+)_box"))
def test_crop_is_the_recorded_one(golden, case):
    data = golden("image_ops.npz")
    image, labels = data["img"], data["lab"]
    size, seed = int(data[f"crop{case}_size"]), int(data[f"crop{case}_seed"])
    random.seed(seed)
    box = imutils.get_random_crop_box(image.shape[:2], size)
    assert list(box) == data[f"crop{case}_box"].tolist()
    crop, crop_labels = imutils.random_crop((image, labels), size, (0, 255), random.Random(seed))
    np.testing.assert_array_equal(crop, data[f"crop{case}_img"])
    np.testing.assert_array_equal(crop_labels, data[f"crop{case}_lab"])
    assert crop.dtype == crop_labels.dtype == np.uint8


@pytest.mark.parametrize("size", recorded_numbers("image_ops.npz", r"topleft(\d+)_img"))
def test_top_left_crop_is_the_recorded_one(golden, size):
    data = golden("image_ops.npz")
    for kind, value in (("img", 0), ("lab", 255)):
        crop = imutils.top_left_crop(data[kind], size, value)
        np.testing.assert_array_equal(crop, data[f"topleft{size}_{kind}"])


def test_normalize_is_the_recorded_one(golden):
    data = golden("image_ops.npz")
    (planes,) = datasets.normalized(torch.from_numpy(data["img"])[None], "cpu")
    normalized = planes.movedim(0, -1).numpy()
    assert normalized.dtype == np.float32
    np.testing.assert_array_equal(normalized, data["normalized"])
    crop = imutils.random_crop(normalized, 96, 0, random.Random(5))
    np.testing.assert_array_equal(crop, data["normalized_crop96"])


def test_flip_is_the_recorded_one(golden):
    data = golden("image_ops.npz")
    for seed, bit in enumerate(data["flip_bits_seed0to3"]):
        expected = data["flipped"] if bit else data["img"]
        flipped = imutils.random_lr_flip(data["img"], random.Random(seed))
        np.testing.assert_array_equal(flipped, expected)


def test_random_scale_is_the_recorded_one(golden):
    data = golden("image_ops.npz")
    arguments = ((data["img"], data["lab"]), (0.5, 1.5), (3, 0))
    image, labels = imutils.random_scale(*arguments, random.Random(9))
    np.testing.assert_array_equal(image, data["random_scale_img"])
    np.testing.assert_array_equal(labels, data["random_scale_lab"])
    alone = imutils.random_scale(data["img"], (0.5, 1.5), 3, random.Random(9))
    np.testing.assert_array_equal(alone, data["random_scale_img"])


def test_strided_sizes(golden):
    data = golden("image_ops.npz")
    for index, size in enumerate(data["strided_sizes"]):
        assert list(imutils.get_strided_size(size, 4)) == data["strided4"][index].tolist()
        assert list(imutils.get_strided_size(size, 16)) == data["strided16"][index].tolist()
        assert list(imutils.get_strided_up_size(size, 16)) == data["strided_up16"][index].tolist()


@pytest.mark.parametrize("num_labels", [2, 3])
def test_crf_is_the_recorded_one(golden, num_labels):
    data = golden("crf.npz")
    labels = data[f"labels_n{num_labels}"]
    for t, suffix in ((10, ""), (1, "_t1"), (3, "_t3")):
        refined = imutils.crf_inference_label(data["img"], labels, t, num_labels)
        np.testing.assert_array_equal(refined, data[f"result_n{num_labels}{suffix}"])


def test_crf_of_confident_labels_is_the_recorded_one(golden):
    data = golden("crf.npz")
    given = np.stack([data["conf_fg_crf_in"], data["conf_bg_crf_in"]])
    recorded = np.stack([data["conf_fg_crf_out"], data["conf_bg_crf_out"]])
    refined = crf.refine_label_maps(data["img"], given, len(data["cams_keys"]) + 1)
    np.testing.assert_array_equal(refined, recorded)


@pytest.mark.parametrize("num_labels", [2, 3, 6])
def test_crf_equals_the_librarys_own_inference_for_each_map(num_labels):
    image = photo(40, 56)
    image[:, 28:] //= 2
    maps = np.stack([blocks(40, 56, num_labels, seed) for seed in range(3)])
    refined = crf.refine_label_maps(image, maps, num_labels)
    assert refined.dtype == np.uint8 and refined.shape == (3, 40, 56)
    assert (refined != maps).mean() > 0.001
    assert not np.array_equal(refined[0], refined[1])
    for one, labels in zip(refined, maps, strict=True):
        np.testing.assert_array_equal(one, crf_labels(image, labels, num_labels))


def test_crf_refuses_a_label_too_many():
    with pytest.raises(ValueError, match="label 2"):
        imutils.crf_inference_label(photo(), np.full((20, 30), 2), n_labels=2)


def test_crf_without_a_choice_needs_no_inference(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    labels = imutils.crf_inference_label(photo(), np.zeros((20, 30), dtype=int), n_labels=1)
    assert labels.shape == (20, 30) and not labels.any()


def test_missing_crf_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(UserError, match="pip install pydensecrf2"):
        imutils.crf_inference_label(photo(), np.zeros((20, 30), dtype=int), n_labels=2)
