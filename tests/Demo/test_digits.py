"""tests/Demo/digits.py: what is drawn are twos and eights."""

import numpy as np
from scipy import ndimage

from tests.Demo.digits import draw_digits


def test_an_eight_has_two_holes_and_a_two_has_none():
    images, values = draw_digits(np.random.default_rng(3), 60)
    assert images.shape == (60, 28, 28) and images.dtype == np.uint8
    assert set(values) == {2, 8} and len(np.unique(images, axis=0)) == 60
    backgrounds = np.array([ndimage.label(image < 100)[1] for image in images])
    whole = np.array([ndimage.label(image >= 100, np.ones((3, 3)))[1] == 1 for image in images])
    assert (backgrounds == np.where(values == 8, 3, 1)).mean() > 0.9 and whole.mean() > 0.9


def test_digits_keep_clear_of_the_border_and_are_as_high_as_those_of_mnist():
    images, _ = draw_digits(np.random.default_rng(4), 60)
    heights = [int(np.ptp(np.nonzero(image.any(1))[0])) + 1 for image in images]
    assert 18 <= np.mean(heights) <= 23 and not images[:, [0, -1]].any()
