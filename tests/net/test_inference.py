"""net/inference.py: maps and masks from arrays."""

import numpy as np
import pytest
import torch
from PIL import Image

from misc.errors import UserError
from misc.rib import RIBSettings
from net.inference import rib_maps
from net.resnet50_cam import CAM
from tests.conftest import THIN
from tests.weights import fill_by_recipe


def test_rib_maps_say_that_there_are_fewer_batches_than_iterations():
    model = CAM(3, **THIN)
    with torch.no_grad():
        fill_by_recipe(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    batch = (torch.randn(2, 3, 32, 32), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    settings = RIBSettings(iterations=3, scales=(1.0,), explode_ratio=1.0, margin=1e9)
    with pytest.raises(ValueError, match="batches: fewer than the 3 iterations; give one for each"):
        rib_maps(model, image, np.array([1, 0, 0]), [batch] * 2, settings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    maps = rib_maps(model, image, np.array([1, 0, 0]), [batch] * 3, settings)
    assert maps["keys"].tolist() == [0] and maps["high_res"].shape == (1, 48, 48)


def test_rib_maps_draw_from_photographs_of_other_classes_alone(tmp_path):
    model = CAM(3, **THIN)
    with torch.no_grad():
        fill_by_recipe(model)
        model.classifier.weight.abs_()  # every class is found in every photograph
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    label, small = np.array([1, 0, 0]), {"batch_size": 2, "crop_size": 32}
    with pytest.raises(UserError, match="no other photograph shows other classes alone"):
        rib_maps(model, image, label, tmp_path, RIBSettings(2, scales=(1.0,)), **small)
    with torch.no_grad():
        model.classifier.weight[0] *= -1
    maps = rib_maps(
        model, image, label, [tmp_path / "a.png"], RIBSettings(2, scales=(1.0,)), **small
    )
    assert maps["keys"].tolist() == [0]
