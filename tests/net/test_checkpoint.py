"""Checkpoints: every accepted format loads the same numbers, every other file is a clear error."""

import os
import pickle
import sys

import pytest
import torch
from torchvision.models import ResNet50_Weights, resnet50

from misc.errors import UserError
from net import checkpoint
from net.backbones import ResNet
from net.checkpoint import load_backbone, load_boundary_net, load_classifier, save_checkpoint
from net.names import original_names, plain_names
from net.resnet50_cam import CAM, Net
from net.resnet50_irn import EdgeDisplacement
from tests.conftest import shared_path
from tests.tools.fuzz_inputs import torch_file
from tests.tools.hostile import Reduced
from tests.weights import fill_by_recipe

THIN = {"width": 8, "stem": 16}


@pytest.fixture(scope="module")
def classifier():
    model = CAM(5, **THIN)
    fill_by_recipe(model)
    return model.eval()


@pytest.fixture(scope="module")
def boundary_net():
    model = EdgeDisplacement(crop_size=64, **THIN)
    fill_by_recipe(model)
    model.mean_shift.running_mean.copy_(torch.tensor([0.25, -0.5]))
    return model.eval()


def plain_state(model):
    return {name.removeprefix("backbone."): t for name, t in model.state_dict().items()}


def published_state(model, prefix=""):
    """A state dict as published with IRN and RIB: all layers under several names."""
    state = original_names(plain_names(model.state_dict()))
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def assert_same(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=0)


def error_of(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_save_and_load_classifier(tmp_path, classifier):
    path = tmp_path / "new" / "cam.pth"
    save_checkpoint(path, classifier, epoch=3, note={"losses": [0.5]})
    assert_same(load_classifier(path, 5), classifier)
    assert type(load_classifier(path, 5, cls=Net)) is Net
    assert not load_classifier(path, 5).training
    content = torch.load(path, weights_only=True)
    assert content["arch"] == classifier.arch and "conv1.weight" in content["state_dict"]
    assert checkpoint.read_checkpoint(path)["extra"] == {"epoch": 3, "note": {"losses": [0.5]}}
    assert os.listdir(path.parent) == ["cam.pth"]


def test_half_precision_networks_are_stored_and_loaded_as_float32(tmp_path):
    half = CAM(5, stride_in_1x1=True, **THIN).half()
    save_checkpoint(tmp_path / "cam.pth", half)
    stored = torch.load(tmp_path / "cam.pth", weights_only=True)["state_dict"]
    assert {t.dtype for t in stored.values()} == {torch.float32}
    torch.save({"arch": half.arch, "state_dict": plain_state(half)}, tmp_path / "half.pth")
    loaded = load_classifier(tmp_path / "half.pth", 5)
    assert torch.equal(loaded.classifier.weight, half.classifier.weight.float())
    assert loaded.arch == half.arch and loaded.backbone.layer2[0].conv1.stride == (2, 2)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_boundary_net_of_an_irn_training_loads(tmp_path, boundary_net, prefix):
    """Its training network has its pixel pairs as buffers."""
    state = published_state(boundary_net, prefix)
    for i in range(9):
        state[f"{prefix}path_indices{i}"] = torch.zeros(4 + 2 * i, i + 2, 30, dtype=int)
    state[f"{prefix}disp_target"] = torch.ones(1, 2, 152, 1)
    torch.save(state, tmp_path / "res50_irn.pth")
    assert_same(load_boundary_net(tmp_path / "res50_irn.pth", crop_size=64), boundary_net)
    load_backbone(tmp_path / "res50_irn.pth")
    torch.save({**state, "pair_target": torch.ones(2)}, tmp_path / "res50_irn.pth")
    assert "unexpected: pair_target" in error_of(load_boundary_net, tmp_path / "res50_irn.pth")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("as_zip", [True, False])
def test_published_classifiers_and_files_of_the_older_format(tmp_path, classifier, prefix, as_zip):
    state = published_state(classifier, prefix)
    torch.save(state, tmp_path / "cam.pth", _use_new_zipfile_serialization=as_zip)
    assert_same(load_classifier(tmp_path / "cam.pth", 5), classifier)


def test_reference_weights():
    """The classifier was trained from this backbone, whose first half is frozen."""
    imagenet = shared_path("weights/resnet50_w32_imagenet.pth")
    classifier = load_classifier(shared_path("weights/resnet50_w32_cam_voc.pth"), 20)
    assert classifier.arch["width"] == 32 and classifier.arch["stride_in_1x1"] is True
    arch, state = load_backbone(imagenet)
    assert arch == classifier.backbone.arch
    frozen = classifier.backbone.layer2[3].conv3.weight
    assert torch.equal(state["layer2.3.conv3.weight"], frozen)
    assert "(missing: classifier.weight)" in error_of(load_classifier, imagenet, 20)


def test_imagenet_weights_of_torchvision(monkeypatch):
    state = resnet50().state_dict()
    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", lambda self, **_: state)
    arch, loaded = load_backbone(None)
    assert arch == ResNet().arch
    ResNet().load_state_dict(loaded)

    def fail(self, **_):
        raise OSError("no\nroute")

    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", fail)
    assert "--imagenet_weights FILE" in error_of(load_backbone, None)


@pytest.mark.parametrize("content", [
    torch.zeros(3), [1, 2], {}, {"a": 1}, {"state_dict": {}},
    {"state_dict": {"conv1.weight": 3}}, {"state_dict": {3: torch.zeros(1)}},
    {"conv1.weight": Reduced(sys.exit, 3)},  # code, which would end the test
    {"arch": "resnet50", "state_dict": {"conv1.weight": torch.zeros(1)}},
    torch_file({"conv1.weight": torch.zeros(1)})[:-100],
    b"", b"random \x00\xff" * 50, pickle.dumps({"a": 1}, 2), b"PK\x03\x04",
])  # fmt: skip
def test_files_without_weights_are_named(tmp_path, content):
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    for call in (checkpoint.read_checkpoint, load_backbone, load_boundary_net):
        assert str(path) in error_of(call, path)
    assert str(path) in error_of(load_classifier, path, 20)
    assert "is missing" in error_of(load_classifier, tmp_path / "none.pth", 20)
    assert "is not a file" in error_of(load_backbone, tmp_path)


def test_other_architectures_are_listed(tmp_path):
    state = {**ResNet(width=24).state_dict(), "layer1.0.conv3.weight": torch.zeros(5, 24, 1, 1)}
    torch.save(state, tmp_path / "odd.pth")
    words = "size mismatch for layer1.0.conv3.weight"
    assert words in error_of(load_backbone, tmp_path / "odd.pth")
    torch.save({"features.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg.pth")
    assert "is of another network" in error_of(load_backbone, tmp_path / "vgg.pth")


@pytest.mark.parametrize(
    "change", [{"name": "resnet101"}, {"width": 64}, {"stem": "16"}, {"stride_in_1x1": "no"}]
)
def test_arch_that_contradicts_the_tensors(tmp_path, classifier, change):
    content = {"arch": {**classifier.arch, **change}, "state_dict": plain_state(classifier)}
    torch.save(content, tmp_path / "cam.pth")
    assert next(iter(change)) in error_of(load_classifier, tmp_path / "cam.pth", 5)
