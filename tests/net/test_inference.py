"""net/inference.py: maps and masks from arrays."""

import numpy as np
import pytest
import torch
from PIL import Image

from Demo import try_rib
from misc.errors import UserError
from misc.rib import RIBSettings
from net.checkpoint import save_checkpoint
from net.inference import rib_maps
from net.resnet50_cam import CAM
from net.resnet50_irn import EdgeDisplacement
from tests.conftest import THIN
from tests.weights import fill_by_recipe

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
LABEL = np.array([1, 0, 0])


@pytest.fixture
def model():
    model = CAM(3, **THIN).requires_grad_(False)
    fill_by_recipe(model)
    return model.requires_grad_()


def test_rib_maps_say_that_there_are_fewer_batches_than_iterations(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = (torch.randn(2, 3, 32, 32), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    settings = RIBSettings(iterations=3, scales=(1.0,), explode_ratio=1.0, margin=1e9)
    with pytest.raises(ValueError, match="batches: fewer than the 3 iterations"):
        rib_maps(model, IMAGE, LABEL, [batch] * 2, settings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    maps = rib_maps(model, IMAGE, LABEL, [batch] * 3, settings)
    assert maps["keys"].tolist() == [0] and maps["high_res"].shape == (1, 48, 48)


def test_rib_maps_draw_from_photographs_of_other_classes_alone(model, tmp_path, capsys):
    with torch.no_grad():
        model.classifier.weight.abs_()  # every class is found in every photograph
    photo, figure, small = (
        tmp_path / "a.png",
        tmp_path / "f.png",
        {"batch_size": 2, "crop_size": 32},
    )
    Image.fromarray(IMAGE).save(photo)
    with pytest.raises(UserError, match="no other photograph shows other classes alone"):
        rib_maps(model, IMAGE, LABEL, tmp_path, RIBSettings(2, scales=(1.0,)), **small)
    with torch.no_grad():
        model.classifier.weight[0] *= -1
    maps = rib_maps(model, IMAGE, LABEL, [photo], RIBSettings(2, scales=(1.0,)), **small)
    assert maps["keys"].tolist() == [0]
    save_checkpoint(tmp_path / "cam.pth", model)
    save_checkpoint(tmp_path / "irn.pth", EdgeDisplacement(**THIN))
    words = f"0={photo} --classifier {tmp_path}/cam.pth --irn {tmp_path}/irn.pth --out {figure}"
    words += f" --batch_size 2 --crop_size 32 --others {tmp_path}"
    assert try_rib.main(words.split()) == 0 and Image.open(figure).width > Image.open(figure).height
    assert try_rib.main([*words.split(), "--others", str(tmp_path / "no")]) == 2
    assert "no: is no folder" in capsys.readouterr().err
