"""misc/torchutils.py against golden outputs and the definitions written out as loops."""

import random

import numpy as np
import pytest
import torch

from misc.torchutils import PolyOptimizer, gap2d, gndp2d, worker_rng
from tests.conftest import recorded_names, recorded_numbers


def multi_hot(classes, num_classes):
    present = torch.zeros(num_classes, dtype=torch.bool)
    present[list(classes)] = True
    return present


def pool_with_gradient(data, **options):
    x = torch.from_numpy(data["x"]).requires_grad_()
    pooled = gndp2d(x, **options)
    (pooled * torch.from_numpy(data["grad_out"])).sum().backward()
    return pooled.detach().numpy(), x.grad.numpy()


@pytest.mark.parametrize("percent", recorded_numbers("gndp2d.npz", r"target_th(\d+)"))
def test_gndp2d_and_gradient_are_the_recorded_ones(golden, percent):
    data = golden("gndp2d.npz")
    target, batch = multi_hot(data["target_classes"], 20), torch.from_numpy(data["labels"])
    for name, present in (("target", target), ("batch", batch)):
        pooled, gradient = pool_with_gradient(data, present=present, score_th=percent / 100)
        name = f"{name}_th{percent}"
        np.testing.assert_allclose(pooled, data[name], rtol=0, atol=1e-6)
        np.testing.assert_allclose(gradient, data[f"{name}_grad"], rtol=0, atol=1e-7)


def test_gap2d_is_the_recorded_one(golden):
    data = golden("gndp2d.npz")
    x = torch.from_numpy(data["x"]).requires_grad_()
    pooled = gap2d(x)
    (pooled * torch.from_numpy(data["grad_out"])).sum().backward()
    np.testing.assert_allclose(pooled.detach(), data["gap"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(x.grad, data["gap_grad"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("percent", recorded_numbers("gndp2d.npz", r"target_th(\d+)"))
def test_80_classes_with_and_without_the_limit_are_the_recorded_ones(golden, percent):
    data = golden("gndp2d.npz")
    x = torch.from_numpy(data["x80"])
    target, batch = multi_hot(data["target_classes80"], 80), torch.from_numpy(data["labels80"])
    for name, present in (("target", target), ("batch", batch)):
        suffix = f"{name}_th{percent}"
        for prefix, limit in (("upstream80", 20), ("corrected80", None)):
            pooled = gndp2d(x, present, percent / 100, num_pooled_classes=limit)
            np.testing.assert_allclose(pooled, data[f"{prefix}_{suffix}"], rtol=0, atol=1e-6)


def test_special_maps_and_strict_threshold():
    maps = torch.tensor(
        [
            [-1.0, -2.0, -4.0, -8.0],  # negative everywhere: quotients 1 to 8, nothing kept
            [0.0, -1.0, 0.0, -2.0],  # maximum 0: -inf is kept, 0 / 0 is not; the sum is the same
            [4.0, 2.0, 1.0, -1.0],  # 0.5 is not strictly below 0.5
        ]
    ).view(1, 3, 2, 2)
    maps.requires_grad_()
    pooled = gndp2d(maps, torch.ones(3), score_th=0.5)
    assert pooled.tolist() == [[0.0, -0.75, 0.0]]
    pooled.sum().backward()
    kept = [[0.0, 0.0, 0.0, 0.0], [0.0, 0.25, 0.0, 0.25], [0.0, 0.0, 0.25, 0.25]]
    assert maps.grad.view(3, 4).tolist() == kept


def parameters(data):
    a, b, c = (torch.nn.Parameter(torch.from_numpy(data[f"init_{name}"])) for name in "abc")
    return a, b, c


def optimizer_for(a, b, c, config):
    lr, weight_decay, power, max_step = config
    groups = [{"params": [a, c], "lr": lr}, {"params": [b], "lr": 10 * lr}]
    return PolyOptimizer(groups, lr, weight_decay, int(max_step), power=power)


@pytest.mark.parametrize("setting", recorded_names("poly_optimizer.npz", "_config"))
@pytest.mark.parametrize("resume_at", [None, 3])
def test_optimizer_is_the_recorded_one(golden, setting, resume_at):
    data = golden("poly_optimizer.npz")
    config = data[f"{setting}_config"]
    a, b, c = parameters(data)
    optimizer = optimizer_for(a, b, c, config)
    for step in range(len(data["grads_a"])):
        if step == resume_at:
            state = optimizer.state_dict()
            optimizer = optimizer_for(a, b, c, config)
            optimizer.load_state_dict(state)
        a.grad = torch.from_numpy(data["grads_a"][step])
        b.grad = torch.from_numpy(data["grads_b"][step])
        optimizer.step()
        assert optimizer.global_step == step + 1
        rates = [group["lr"] for group in optimizer.param_groups]
        np.testing.assert_allclose(rates, data[f"{setting}_lr_used"][step], rtol=1e-12)
        for name, value in zip("abc", (a, b, c), strict=True):
            expected = data[f"{setting}_after_{name}"][step]
            np.testing.assert_allclose(value.detach(), expected, rtol=1e-6, atol=1e-7)


def test_worker_rng_depends_on_seed_and_parts_alone():
    first = [worker_rng(1, "2007_000032", epoch).random() for epoch in range(3)]
    random.seed(0)
    again = [worker_rng(1, "2007_000032", epoch).random() for epoch in range(3)]
    assert first == again
    others = [worker_rng(*parts).random() for parts in ((1, 1, 11), (1, 11, 1), (11, 1), (2, 1))]
    assert len(set(first + others)) == 7
    assert worker_rng(0, "a").getrandbits(32) == 444451423  # on every machine
