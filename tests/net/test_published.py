"""net/published.py: backbones by name, of torchvision and, where it is installed, of timm."""

import sys

import pytest
import torch

from misc.errors import UserError
from misc.storage.manifest import weights_hash, weights_name
from net.backbones import ResNet
from net.checkpoint import load_backbone, segmentation_on


@pytest.fixture
def timm(monkeypatch):
    """timm without its downloads: weights are random ones, statistics too."""
    library = pytest.importorskip("timm", reason="timm is not installed")

    def create_model(name, pretrained, make=library.create_model):
        torch.manual_seed(0)
        model = make(name, pretrained=False)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 1)
        return model

    monkeypatch.setattr(library, "create_model", create_model)
    return library


def error_of(call, *arguments) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments)
    return str(error.value)


def test_names_are_told_from_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("resnet18", "timm:resnet18.a1_in1k", "resnet19"):
        assert weights_name(name) == name
    for path in (None, "a.pth", "folder/resnet18", tmp_path / "resnet18"):
        assert weights_name(path) == ""
    (tmp_path / "resnet18").touch()
    assert weights_name("resnet18") == ""
    assert weights_hash("timm:x") == "timm:x"
    assert weights_hash("resnet34") != weights_hash(None) == "torchvision IMAGENET1K_V1"


def test_torchvisions_weights_are_had_by_name(monkeypatch):
    from torchvision.models import ResNet18_Weights, resnet18

    state = resnet18().state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, **_: state)
    arch, loaded = load_backbone("resnet18")
    assert arch == ResNet("resnet18").arch
    assert load_backbone("resnet18", download=False) == (arch, {})
    ResNet(**arch).load_state_dict(loaded)
    network = segmentation_on("resnet18", 21)
    assert network.arch["name"] == "resnet18" and network.arch["colours"] == "torchvision"


def test_unknown_names_are_refused():
    message = error_of(load_backbone, "resnet19", "--seg_init")
    assert message.startswith("--seg_init resnet19: is neither a file nor a name")
    assert "wide_resnet50_2, or timm:NAME" in message


def test_without_timm_its_names_are_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "timm is not installed; pip install timm" in error_of(load_backbone, "timm:resnet18")


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "resnext50_32x4d.tv_in1k"])
def test_timms_resnets_are_those_of_torchvision(timm, name):
    arch, state = load_backbone(f"timm:{name}")
    assert arch["name"] == name.split(".")[0]
    theirs = timm.create_model(name, pretrained=False)
    torch.testing.assert_close(state["layer4.1.conv2.weight"], theirs.layer4[1].conv2.weight)


@pytest.mark.parametrize(("name", "complaint"), [
    ("resnetblur18", "computes other features than a resnet18"),  # pooling without weights
    ("resnet26d.bt_in1k", "is of another network (missing: conv1.weight"),
    ("seresnet50.a1_in1k", "unexpected: layer1.0.se.fc1.weight"),
    ("resnet5", "or cannot download them (Unknown model"),
    ("vit_tiny_patch16_224.augreg_in21k", "a mean of (0.5, 0.5, 0.5)"),
])  # fmt: skip
def test_other_networks_of_timm_are_refused(timm, name, complaint):
    message = error_of(load_backbone, f"timm:{name}")
    assert f"timm:{name}" in message and complaint in message and len(message) < 600
