"""misc/data/segmentation.py: augmentation of image and label map against recorded crops."""

import random

import numpy as np

from misc.data.segmentation import SegCrop, SegmentationDataset
from net.deeplab_v2 import COLOURS, network_input
from tests.misc.data.conftest import IDS


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
        image, label = crop(
            data[f"image{index}_bgr"], data[f"label{index}"], random.Random(int(of("seed")))
        )
        assert np.array_equal(label, of("label")), number
        np.testing.assert_allclose(network_input(image, colours), of("input"), rtol=0, atol=1e-3)


def test_items_depend_on_seed_epoch_and_image_alone(sample):
    labels = {image_id: sample.mask_path(image_id) for image_id in IDS}
    crop = SegCrop(64, (1.0, 2.0, 3.0))

    def items(order, epoch=0, seed=0):
        dataset = SegmentationDataset(sample, labels, crop, np.copy, bgr=False, seed=seed)
        dataset.set_epoch(epoch)
        return {i: dataset[i] for i in order}

    first, again = items(range(8)), items(range(7, -1, -1))
    assert all((first[i][0] == again[i][0]).all() for i in range(8))
    assert all((first[i][1] == again[i][1]).all() for i in range(8))
    for other in (items(range(8), epoch=1), items(range(8), seed=1)):
        assert any((first[i][0] != other[i][0]).any() for i in range(8))
    assert first[0][0].shape == (64, 64, 3) and first[0][1].shape == (64, 64)
