"""Parts of the synthetic objects: shapes, textures and the table of classes."""

import numpy as np
import pytest

from Dataset.objects import COCO_OBJECT_CLASSES, OBJECT_CLASSES

ALL_CLASSES = (*OBJECT_CLASSES, *COCO_OBJECT_CLASSES)


@pytest.mark.parametrize("kind", ALL_CLASSES, ids=lambda kind: kind.name)
def test_parts_lie_within_the_half_size_and_cover_the_discriminative_point(kind):
    assert set(kind.skins) == {part.skin for part in kind.parts}
    width, height = kind.half_size
    v, u = np.mgrid[-1.5:1.5:151j, -1.5:1.5:151j].astype(np.float32)
    covered = np.any([part.distance(u, v) < 0 for part in kind.parts], axis=0)
    assert not covered[(np.abs(u) > width + 0.05) | (np.abs(v) > height + 0.05)].any()
    x, y = kind.discriminative
    assert covered[np.hypot(u - x, v - y) < 0.1].mean() > 0.9
