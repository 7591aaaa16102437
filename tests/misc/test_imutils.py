"""misc/imutils.py against recorded arrays and small hand-made cases."""

import random
import sys

import numpy as np
import pytest

from misc import crf, imutils
from misc.errors import UserError
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
    checked = 0
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
        checked += 1
    assert checked == 11


def test_unchanged_size_returns_the_input():
    image = photo()
    assert imutils.pil_resize(image, (20, 30), 3) is image
    assert imutils.pil_rescale(image, 1.0, 3) is image


def test_rescale_rounds_half_to_even(golden):
    data = golden("image_ops.npz")
    for dim, expected in zip(data["round_dims"], data["round_result"], strict=True):
        labels = np.zeros((dim, 8), dtype=np.uint8)
        heights = [len(imutils.pil_rescale(labels, scale, 0)) for scale in data["round_scales"]]
        assert heights == expected.tolist()


@pytest.mark.parametrize("long_side", [50, 101, 128])
def test_long_side_is_the_recorded_one(golden, long_side):
    data = golden("image_ops.npz")
    for name, image in (("", data["img"]), ("_transposed", data["img"].transpose(1, 0, 2))):
        result = imutils.random_resize_long(np.ascontiguousarray(image), long_side, long_side)
        np.testing.assert_array_equal(result, data[f"long{long_side}{name}"])


def test_long_side_covers_both_bounds():
    rng = random.Random(0)
    shapes = [imutils.random_resize_long(photo(6, 10), 10, 12, rng).shape for _ in range(60)]
    assert {shape[1] for shape in shapes} == {10, 11, 12}


@pytest.mark.parametrize("case", range(5))
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


@pytest.mark.parametrize("size", [48, 70, 96])
def test_top_left_crop_is_the_recorded_one(golden, size):
    data = golden("image_ops.npz")
    for kind, value in (("img", 0), ("lab", 255)):
        crop = imutils.top_left_crop(data[kind], size, value)
        np.testing.assert_array_equal(crop, data[f"topleft{size}_{kind}"])


def test_normalize_is_the_recorded_one(golden):
    data = golden("image_ops.npz")
    normalized = imutils.normalize(data["img"])
    assert normalized.dtype == np.float32
    np.testing.assert_array_equal(normalized, data["normalized"])
    crop = imutils.random_crop(normalized, 96, 0, random.Random(5))
    np.testing.assert_array_equal(crop, data["normalized_crop96"])


def test_normalize_every_byte():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    expected = ((image / 255 - mean) / std).astype(np.float32)
    np.testing.assert_array_equal(imutils.normalize(image), expected)
    assert imutils.HWC_to_CHW(imutils.normalize(image)).flags.c_contiguous


def test_flip_is_the_recorded_one(golden):
    data = golden("image_ops.npz")
    for seed, bit in enumerate(data["flip_bits_seed0to3"]):
        expected = data["flipped"] if bit else data["img"]
        flipped = imutils.random_lr_flip(data["img"], random.Random(seed))
        np.testing.assert_array_equal(flipped, expected)


def test_flip_treats_a_list_together_in_half_of_the_cases():
    image, labels = photo(), blocks(20, 30, 4)
    rng = random.Random(0)
    mirrored_times = 0
    for _ in range(400):
        flipped, flipped_labels = imutils.random_lr_flip([image, labels], rng)
        mirrored = not np.array_equal(flipped, image)
        np.testing.assert_array_equal(flipped, image[:, ::-1] if mirrored else image)
        np.testing.assert_array_equal(flipped_labels, labels[:, ::-1] if mirrored else labels)
        mirrored_times += mirrored
    assert 160 < mirrored_times < 240


def test_random_scale_is_the_recorded_one(golden):
    data = golden("image_ops.npz")
    arguments = ((data["img"], data["lab"]), (0.5, 1.5), (3, 0))
    image, labels = imutils.random_scale(*arguments, random.Random(9))
    np.testing.assert_array_equal(image, data["random_scale_img"])
    np.testing.assert_array_equal(labels, data["random_scale_lab"])
    alone = imutils.random_scale(data["img"], (0.5, 1.5), 3, random.Random(9))
    np.testing.assert_array_equal(alone, data["random_scale_img"])


def test_random_scale_maps_the_range():
    class Highest(random.Random):
        def random(self):
            return 1.0

    assert imutils.random_scale(photo(20, 30), (0.5, 3.0), 3, Highest()).shape == (60, 90, 3)


def test_default_generator_is_the_random_module():
    random.seed(3)
    first = imutils.get_random_crop_box((50, 60), 20)
    random.seed(3)
    assert imutils.get_random_crop_box((50, 60), 20, random) == first
    assert imutils.get_random_crop_box((50, 60), 20, random.Random(3)) == first


def test_crop_refuses_unequal_lists():
    with pytest.raises(ValueError):
        imutils.random_crop([photo(), photo()], 8, [0])


def test_strided_sizes(golden):
    data = golden("image_ops.npz")
    for index, size in enumerate(data["strided_sizes"]):
        assert list(imutils.get_strided_size(size, 4)) == data["strided4"][index].tolist()
        assert list(imutils.get_strided_size(size, 16)) == data["strided16"][index].tolist()
        assert list(imutils.get_strided_up_size(size, 16)) == data["strided_up16"][index].tolist()


@pytest.fixture
def crf_installed():
    pytest.importorskip("pydensecrf", reason="the dense CRF needs pydensecrf2")


@pytest.mark.usefixtures("crf_installed")
@pytest.mark.parametrize("num_labels", [2, 3])
def test_crf_is_the_recorded_one(golden, num_labels):
    data = golden("crf.npz")
    labels = data[f"labels_n{num_labels}"]
    for t, suffix in ((10, ""), (1, "_t1"), (3, "_t3")):
        refined = imutils.crf_inference_label(data["img"], labels, t, num_labels)
        np.testing.assert_array_equal(refined, data[f"result_n{num_labels}{suffix}"])


@pytest.mark.usefixtures("crf_installed")
def test_crf_of_confident_labels_is_the_recorded_one(golden):
    data = golden("crf.npz")
    given, recorded = (
        np.stack([data[f"conf_{kind}_crf_{end}"] for kind in ("fg", "bg")]) for end in ("in", "out")
    )
    refined = crf.refine_label_maps(data["img"], given, len(data["cams_keys"]) + 1)
    np.testing.assert_array_equal(refined, recorded)


@pytest.mark.usefixtures("crf_installed")
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


@pytest.mark.usefixtures("crf_installed")
def test_crf_removes_a_speck_but_not_the_background():
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[:, 20:] = 200
    labels = np.zeros((40, 40), dtype=int)
    labels[:, 20:] = 1
    expected = labels.copy()
    labels[10, 5] = labels[30, 30] = 2  # a third label, each time alone
    refined = imutils.crf_inference_label(image, labels, n_labels=3)
    np.testing.assert_array_equal(refined, expected)


@pytest.mark.usefixtures("crf_installed")
def test_crf_without_iterations_leaves_the_maps_as_they_are():
    image = photo()
    maps = np.stack([blocks(20, 30, 3, seed) for seed in range(2)])
    np.testing.assert_array_equal(crf.refine_label_maps(image, maps, 3, t=0), maps)


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
