"""net/backbones.py: every backbone against torchvision's, and through the networks built on it."""

import pytest
import torch
import torchvision

from misc.errors import UserError
from net import checkpoint
from net.backbones import KINDS, FixedBatchNorm, ResNet, fold_norms, inferred_arch
from net.resnet50_cam import CAM
from net.resnet50_irn import EdgeDisplacement, Net
from tests.weights import fill_by_recipe


@pytest.fixture(params=list(KINDS))
def published(request):
    """Name of a backbone and torchvision's network of that name, with statistics of its own."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, request.param)().eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    return request.param, model


def test_torchvisions_weights_give_torchvisions_features(published):
    name, theirs = published
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    assert inferred_arch(state) == {"name": name, "width": 64, "stem": 64}
    ours = ResNet(name, strides=(2, 2, 2, 2)).eval()
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96)
    theirs.avgpool = theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        outputs = ours(images)
        expected = theirs(images)  # up to 85,000 of random weights
        atol = 1e-5 * expected.max().item()
        torch.testing.assert_close(outputs[-1].flatten(1), expected, rtol=1e-4, atol=atol)
        torch.testing.assert_close(ours.trained_features(outputs[2]), outputs[-1])
    assert [o.shape[1] for o in outputs] == list(ours.out_channels)
    caffe = ResNet(name, stride_in_1x1=True).layer2[0]
    assert caffe.conv1.stride == (2, 2) and caffe.conv2.stride == (1, 1) or caffe.count == 2
    assert [96 // o.shape[-1] for o in outputs] == ours.out_strides == [4, 4, 8, 16, 32]


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_classifier_and_boundary_net_take_any_backbone(name, tmp_path):
    torch.save(ResNet(name, width=8, stem=8).state_dict(), tmp_path / "backbone.pth")
    classifier = checkpoint.on_backbone(CAM, tmp_path / "backbone.pth", 5)
    checkpoint.save_checkpoint(tmp_path / "cam.pth", classifier)
    loaded = checkpoint.load_classifier(tmp_path / "cam.pth", 5)
    assert loaded.arch == classifier.arch and loaded.arch["name"] == name
    assert loaded(torch.randn(1, 3, 64, 64)).shape == (1, 5, 4, 4)
    boundary = checkpoint.on_backbone(Net, tmp_path / "cam.pth")
    checkpoint.save_checkpoint(tmp_path / "irn.pth", boundary)
    edge, field = checkpoint.load_boundary_net(
        tmp_path / "irn.pth", EdgeDisplacement, crop_size=None
    )(torch.randn(2, 3, 64, 64))
    assert edge.shape == (1, 16, 16) and field.shape == (2, 16, 16)


@torch.no_grad()
def test_folded_networks_compute_the_same_bits():
    network = CAM(3, width=8, stem=8)
    fill_by_recipe(network)
    images = torch.randn(2, 3, 48, 64)
    expected = network(images)
    fold_norms(network)
    assert torch.equal(network(images), expected)
    assert not any(isinstance(module, FixedBatchNorm) for module in network.modules())


@pytest.mark.parametrize("inner", [1, 2, 6, 14])
def test_files_with_odd_widths_are_no_networks_and_no_crashes(inner, tmp_path):
    state = ResNet("resnext50_32x4d", width=8, stem=8).state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(inner, 8, 1, 1)
    state["layer1.0.conv3.weight"] = torch.zeros(2 * inner, inner, 1, 1)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="is of another network"):
        checkpoint.load_backbone(tmp_path / "odd.pth")
