"""Labels of the synthetic sample's training images."""

import numpy as np
import pytest

from misc.data.label_file import labels_from
from voc12.prepare import label_from_xml

IDS = tuple(f"2012_00000{n}" for n in range(1, 9))


@pytest.fixture(scope="package")
def labels(sample):
    """Multi-hot labels of IDS, 8 x 20."""
    paths = {image_id: sample.root / "Annotations" / f"{image_id}.xml" for image_id in IDS}
    classes = {i: np.flatnonzero(label_from_xml(path, sample)) for i, path in paths.items()}
    return labels_from(classes, 20)
