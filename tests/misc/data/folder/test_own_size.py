import numpy as np
import pytest

from misc.data.folder.own_size import enlarged


def test_a_mask_grows_with_its_shapes():
    mask = np.zeros((8, 12), np.uint8)
    mask[2:6, 3:9] = 5
    mask[:, 11] = 255
    large = enlarged(mask, (80, 120))
    assert set(np.unique(large)) == {0, 5, 255}
    near = np.kron(mask, np.ones((10, 10), np.uint8))
    assert (large == near).mean() > 0.97 and large[40, 60] == 5


@pytest.mark.parametrize("labels", [[3], [0, 200], list(range(256))])
def test_a_mask_has_no_label_that_it_had_not(labels):
    mask = np.random.default_rng(0).choice(labels, (9, 7)).astype(np.uint8)
    assert set(np.unique(enlarged(mask, (23, 31)))) <= set(labels)


def test_a_mask_of_the_same_size_stays_itself():
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert enlarged(mask, (2, 3)) is mask
