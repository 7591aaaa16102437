"""The network of Demo/toy_experiment.py against reference implementations."""

import pytest
import torch

from Demo import toy_experiment


@pytest.fixture
def network():
    torch.manual_seed(0)
    return toy_experiment.ToyNet(side=9, channels=3, strides=(1, 1, 2, 1, 1))


@pytest.fixture
def images():
    return torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(1))


def test_maps_are_the_slopes_of_a_layers_sum(network, images):
    labels = torch.tensor([1, 0])
    maps = toy_experiment.gradient_maps(network, images, labels)
    assert maps.shape == (2, toy_experiment.NUM_LAYERS, 9, 9)
    network, step = network.double(), 1e-6
    moved = images[:1].double() + step * torch.eye(82, 81).view(82, 1, 9, 9)  # the last as it is
    for layer, outputs in enumerate(network.layers(moved)):
        last = layer == toy_experiment.NUM_LAYERS - 1
        sums = outputs[:, labels[0]] if last else outputs.flatten(1).sum(1)
        slopes = (sums[:-1] - sums[-1]).abs().view(9, 9) / step
        expected = slopes / slopes.max()
        torch.testing.assert_close(maps[0, layer].double(), expected, atol=1e-3, rtol=0)


def test_hgr_is_the_mean_share_of_a_regions_pixels():
    maps = torch.rand(3, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    region = torch.zeros(3, 4, 5, dtype=torch.bool)
    region[0, 0], region[1, 1:3, 2], region[2, 3, 4] = True, True, True
    expected = [
        sum((maps[n, k][region[n]] > 0.4).double().mean().item() for n in range(3)) / 3
        for k in range(6)
    ]
    found = toy_experiment.high_gradient_ratio(maps, region, 0.4).tolist()
    assert found == pytest.approx(expected)


def test_fine_tuning_leaves_the_network_and_raises_its_own_logit(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    others = [(images[1:], torch.tensor([0]))] * 3
    steps = list(toy_experiment.fine_tuned_gradients(network, images[0], 1, others, rate=1e-3))
    assert len(steps) == 3
    own = toy_experiment.gradient_maps(network, images[:1], torch.tensor([1]))[0, -1]
    torch.testing.assert_close(steps[0] / steps[0].max(), own)
    assert steps[-1].sum() > steps[0].sum()  # a logit that grows without an end has steeper slopes
    (only,) = toy_experiment.fine_tuned_gradients(
        network, images[0], 1, others, rate=1e-3, stop=0.0
    )
    assert torch.equal(only, steps[0])
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
