"""net/backbones.py: every backbone against torchvision's, and through the networks built on it."""

import pytest
import torch
import torchvision

from net import backbones
from net.backbones import KINDS, ResNet, fold_norms, folded_once, inferred_arch
from net.resnet50_cam import CAM
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


@torch.no_grad()
def test_networks_that_are_folded_once_compute_the_same_bits(monkeypatch):
    network, folds, fold = CAM(3, width=8, stem=8), [], backbones.folded
    fill_by_recipe(network)
    monkeypatch.setattr(backbones, "folded", lambda *pair: folds.append(pair) or fold(*pair))
    images = torch.randn(2, 3, 48, 64)
    expected = network(images)
    with folded_once(network):
        assert torch.equal(network(images), expected) and len(folds) == 2 * 53
        network(images)
        assert len(folds) == 2 * 53
    network.backbone.bn1.bias += 1  # is seen after the block
    changed = network(images)
    assert not torch.equal(changed, expected) and len(folds) == 3 * 53
    fold_norms(network)
    assert torch.equal(network(images), changed) and len(folds) == 4 * 53
