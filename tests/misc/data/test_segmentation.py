"""misc/data/segmentation.py: augmentation of image and label map against recorded crops."""

import random

import numpy as np

from misc.data.segmentation import SegCrop
from net.deeplab_v2 import COLOURS, network_input


def colours_of(data):
    return COLOURS["caffe"]._replace(mean=tuple(data["mean_bgr"].tolist()))


def test_recorded_input_values(golden):
    data = golden("deeplab_data.npz")
    colours = colours_of(data)
    assert colours == COLOURS["caffe"]
    table = np.arange(256)[None, :, None].repeat(3, axis=2)
    np.testing.assert_array_equal(network_input(table, colours)[:, 0], data["plain0_value_table"])
    plain = network_input(data["image0_bgr"], colours)
    np.testing.assert_array_equal(plain[:, :6, :6], data["plain0_input"])


def test_recorded_crops(golden):
    data = golden("deeplab_data.npz")
    colours = colours_of(data)
    for number in range(int(data["n_cases"])):

        def of(name, number=number):
            return data[f"case{number}_{name}"]

        plain = of("flip_draw") == 1  # never drawn: recorded at scale 1 alone, without mirroring
        scales = (1.0,) if plain else (0.5, 0.75, 1.0, 1.25, 1.5)
        crop = SegCrop(int(of("crop_size")), colours.mean, scales, not plain, int(of("base_size")))
        index = int(of("image_index"))
        rng = random.Random(int(of("seed")))
        image, label = crop(data[f"image{index}_bgr"], data[f"label{index}"], rng)
        assert np.array_equal(label, of("label")), number
        np.testing.assert_allclose(network_input(image, colours), of("input"), rtol=0, atol=1e-3)
