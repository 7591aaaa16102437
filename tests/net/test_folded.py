"""The folded classifier against the modules that it is made of: maps, gradients, layouts."""

import copy

import pytest
import torch
from torch import nn

from net.backbones import FixedBatchNorm
from net.folded import FoldedCAM, FoldedConv, Folding, laid_out_as
from net.resnet50_cam import CAM
from tests.weights import fill_by_recipe


@pytest.fixture
def model():
    model = CAM(5, width=8, stem=16)
    fill_by_recipe(model)
    return model


@pytest.fixture
def images():
    return torch.randn(3, 3, 61, 75, generator=torch.Generator().manual_seed(0))


def close(actual, expected, share=1e-5):
    assert (actual - expected).abs().max() <= share * expected.abs().max()


def filled_norm(channels: int) -> FixedBatchNorm:
    norm = FixedBatchNorm(channels)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.copy_(torch.randn(channels))
    norm.running_var.copy_(torch.rand(channels) + 0.1)
    return norm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_convolution_instead_of_two_modules(layout):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), filled_norm(6)
    folded = FoldedConv(conv, norm).to(memory_format=layout)
    features = torch.randn(2, 4, 11, 9)
    weights = torch.randn(2, 6, 6, 5)
    expected = norm(conv(features))
    close(folded(features), expected)
    (expected * weights).sum().backward()
    parameters = (conv.weight, norm.weight, norm.bias)
    gradients = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    for row in range(2):  # gradients of several passes are added
        (folded(features[row : row + 1]) * weights[row : row + 1]).sum().backward()
    Folding([folded]).return_gradients()
    for p, gradient in zip(parameters, gradients, strict=True):
        close(p.grad, gradient, 1e-4)
    assert folded.weight.grad is None and folded.bias.grad is None


def test_refresh_follows_the_weights():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 6, 1, bias=False), filled_norm(6)
    folded, features = FoldedConv(conv, norm), torch.randn(1, 4, 3, 3)
    with torch.no_grad():
        conv.weight.mul_(1.5)
        norm.weight.add_(0.3)
        norm.bias.sub_(1)
    expected = norm(conv(features))
    assert not torch.allclose(folded(features), expected)
    Folding([folded]).refresh()
    close(folded(features), expected)


def gradients_by(model, network, images):
    """Gradients of a loss of the maps for all trained parameters, and the maps."""
    maps = network(images)
    (maps * torch.linspace(-1, 1, maps.numel()).view_as(maps)).sum().backward()
    return maps.detach()


def test_maps_and_gradients_are_the_models(model, images):
    plain = copy.deepcopy(model)
    expected = gradients_by(plain, plain, images)
    network = FoldedCAM(model)
    close(gradients_by(model, network, images), expected)
    network.set_gradients([p.grad for p in network.trained])
    for (name, p), same in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (p.grad is None) == (same.grad is None), name
        if p.grad is not None:
            close(p.grad, same.grad, 1e-4)


def test_what_is_frozen_takes_no_part_in_the_gradient(model, images):
    network = FoldedCAM(model)
    frozen = network.frozen_features(images)
    assert not frozen.requires_grad  # so layer3 does not compute the gradient of its input
    maps = network.maps(frozen)
    assert maps.requires_grad and torch.equal(maps, network(images))


def test_the_model_itself_is_left_as_it_was(model, images):
    before, expected = copy.deepcopy(model.state_dict()), model(images)
    FoldedCAM(model)(images)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(model(images), expected)


def test_bf16_computes_roughly_and_returns_float32(model, images):
    exact, rough = FoldedCAM(model)(images), FoldedCAM(model, "bf16")
    maps = gradients_by(model, rough, images)
    assert maps.dtype == torch.float32 and not torch.equal(maps, exact)
    close(maps, exact, 0.05)
    assert not torch.equal(maps, maps.bfloat16().float())  # scores are not rounded
    rough.set_gradients([p.grad for p in rough.trained])
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad.dtype == torch.float32 for p in trained)


@pytest.mark.parametrize("name, dtype", [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_weights_rounded_once_give_what_autocast_gives(model, images, name, dtype):
    """Which rounds them at every call: maps and gradients have the same bits."""
    ours, theirs = FoldedCAM(model, name), FoldedCAM(model)
    found = gradients_by(model, ours, images)
    with torch.autocast("cpu", dtype):
        inputs = images.contiguous(memory_format=torch.channels_last)
        frozen = theirs._network.frozen_features(inputs.to(dtype)).contiguous()
        features = theirs._network.trained_features(frozen)
    expected = theirs._network.classifier(features.float())
    assert torch.equal(found, expected)
    gradients = torch.autograd.grad(expected.square().sum(), theirs.trained)
    again = torch.autograd.grad(ours(images).square().sum(), ours.trained)
    assert all(torch.equal(a.float(), b) for a, b in zip(again, gradients, strict=True))


def test_as_on_a_gpu_all_lies_channels_last(model, images):
    expected = FoldedCAM(copy.deepcopy(model))(images)
    network = FoldedCAM(model, for_gpu=True)
    maps = gradients_by(model, network, images)
    close(maps, expected)
    network.set_gradients([p.grad for p in network.trained])
    trained = [p for p in model.parameters() if p.requires_grad and p.dim() == 4]
    assert all(p.grad.stride() == p.stride() for p in trained)  # an optimizer takes all at once
    assert any(not p.is_contiguous() for p in trained)


@pytest.mark.parametrize("side", [1, 3])
def test_a_gradient_is_laid_out_as_its_weight(side):
    weight = torch.zeros(4, 6, side, side).contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(4, 6, side, side)
    laid = laid_out_as(weight, gradient)
    assert torch.equal(laid, gradient) and laid.stride() == weight.stride()
    assert (laid.data_ptr() == gradient.data_ptr()) == (side == 1)
