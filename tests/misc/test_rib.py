"""RIB's loop against the recorded one, and its own rules on a narrow network."""

import copy
import doctest

import numpy as np
import pytest
import torch

from misc import rib as module
from misc.cams import merge_scales
from misc.rib import RIBSettings, fine_tune, gndp2d, logit_sum
from net.resnet50_cam import CAM
from tests.conftest import close, recorded_names
from tests.weights import fill_by_recipe

RUNS = recorded_names("rib_process.npz", "_config")


def recorded_settings(data, run: str) -> RIBSettings:
    config = dict(zip(data["config_names"], data[f"{run}_config"].tolist(), strict=True))
    return RIBSettings(
        iterations=int(config["RIB_iter"]),
        learning_rate=config["RIB_lr"],
        weight_decay=config["weight_decay"],
        # Plain average pooling leaves nonarrowg out: no quotient reaches infinity.
        tau=float("inf") if run == "gap" else config["score_th"],
        margin=config["stop_th"],
        explode_th=config["explode_th"],
        explode_ratio=config["explode_ratio"],
        scales=tuple(data["scales"].tolist()),
    )


@pytest.mark.parametrize("run", RUNS)
def test_recorded_run(golden, run, device):
    data = golden("rib_process.npz")
    model = CAM(20).to(device)
    fill_by_recipe(model, int(data["weight_seed"]))
    initial = {n: p.detach().clone() for n, p in model.backbone.named_parameters()}
    inputs = ("batch_images", "batch_labels", "label", *(f"input_scale{i}" for i in range(4)))
    images, labels, label, *pairs = (torch.from_numpy(data[n]).to(device) for n in inputs)
    batches = zip(images, labels, strict=True)

    states = []
    for k, state in enumerate(
        fine_tune(model, pairs, label, batches, recorded_settings(data, run))
    ):
        states.append(state)
        for i, sums in enumerate(state.map_sums):
            close(sums, data[f"{run}_cam_scale{i}"][k])
    losses = [state.loss for state in states if state.loss is not None]
    scores = [state.target_score for state in states if state.target_score is not None]
    np.testing.assert_allclose(losses, data[f"{run}_loss"], atol=1e-3, rtol=1e-4)
    np.testing.assert_allclose(scores, data[f"{run}_target_loss"], atol=1e-3, rtol=1e-4)
    assert [state.stopped for state in states] == data[f"{run}_stop_flag"].tolist()

    keys = label.nonzero()[:, 0]
    assert keys.tolist() == data[f"{run}_save_keys"].tolist()
    cam, high_res = merge_scales(states[-1].map_sums, data["image"].shape[:2], keys)
    np.testing.assert_allclose(cam.cpu(), data[f"{run}_save_cam"], atol=1e-4)
    np.testing.assert_allclose(high_res.cpu(), data[f"{run}_save_high_res"], atol=1e-4)

    close(model.classifier.weight.detach()[:, :, 0, 0].sum(1), data[f"{run}_final_classifier_sum"])
    trained = model.backbone.state_dict()
    changes = dict(zip(data["param_names"], data[f"{run}_change_norm"], strict=True))
    for name, start in initial.items():
        change = (trained[name] - start).double().norm().item()
        if name.startswith(("conv1", "bn1", "layer1", "layer2")):
            assert change == 0 == changes[name]
        elif run == "large":
            assert change == pytest.approx(changes[name], rel=0.01)
    if f"{run}_final_classifier" in data:
        compare_final_weights(model, data, run)


def compare_final_weights(model: CAM, data, run: str) -> None:
    """The recorded blocks of the weights after the last step."""
    close(model.classifier.weight.detach()[:, :, 0, 0], data[f"{run}_final_classifier"])
    state = model.backbone.state_dict()
    for name in ("layer4.2.conv3", "layer3.0.conv1", "layer3.0.downsample.0"):
        block = state[f"{name}.weight"][:64, :64, 0, 0]
        close(block, data[f"{run}_final_{name}"])
    close(state["layer4.2.conv2.weight"][:12, :12], data[f"{run}_final_layer4.2.conv2"])
    for name in ("layer4.2.bn3.weight", "layer4.2.bn3.bias"):
        close(state[name], data[f"{run}_final_{name}"])


@pytest.fixture
def narrow():
    """A narrow classifier of 3 classes, an image of class 1 and a batch without that class."""
    torch.manual_seed(0)
    model = CAM(3, width=8, stem=8)
    with torch.no_grad():
        model.classifier.weight.abs_()  # so that every class has a positive map
    pairs = [torch.randn(2, 3, s, s) for s in (64, 32, 96)]
    label = torch.tensor([0.0, 1.0, 0.0])
    batch = (torch.randn(2, 3, 64, 64), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    return model, pairs, label, batch


def settings(**changes) -> RIBSettings:
    plain = {"scales": (1.0, 0.5, 1.5), "margin": 1e9, "explode_ratio": 1.0}
    return RIBSettings(**{**plain, **changes})


def test_exploded_map_stops_before_the_other_scales(narrow):
    model, pairs, label, batch = narrow
    numbers = settings(iterations=5, explode_th=0.0, explode_ratio=-1.0)
    states = [*fine_tune(model, pairs, label, iter([batch] * 5), numbers)]
    (loss, first), (exploded_loss, second) = ((s.loss, s.map_sums) for s in states)
    assert loss is not None and exploded_loss is None
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1]) and torch.equal(first[2], second[2])


def test_bf16_moves_the_maps_a_little(narrow):
    model, pairs, label, batch = narrow
    last = []
    for bf16 in (False, True):
        tuned = copy.deepcopy(model)
        tuned.bf16 = bf16
        numbers = settings(iterations=3, learning_rate=1e-3)
        *_, state = fine_tune(tuned, pairs, label, iter([batch] * 3), numbers)
        assert all(p.dtype == torch.float32 for p in tuned.parameters())
        last.append(state.map_sums)
    for exact, rough in zip(*last, strict=True):
        assert rough.dtype == torch.float32
        assert 1e-5 < ((exact - rough).abs().max() / exact.abs().max()).item() < 0.1


def test_the_example_of_the_module_runs():
    assert doctest.testmod(module).attempted == 6 and doctest.testmod(module).failed == 0


def test_small_scale_takes_no_part_in_the_loss_and_frozen_layers_get_no_gradient(narrow):
    model, pairs, label, batch = narrow
    with torch.no_grad():
        scores = [(gndp2d(model(pair), label, 2.0) * label).sum().item() for pair in pairs]
    numbers = settings(iterations=1, tau=2.0)  # scales 1.0, 0.5 and 1.5
    (state,) = fine_tune(model, pairs, label, iter([batch]), numbers)
    assert scores[1] != 0
    assert state.target_score == pytest.approx(scores[0] + scores[2], rel=1e-5)
    assert all(p.grad is None for p in model.backbone.layer2.parameters())


def test_no_pooled_class_is_global_average_pooling(narrow):
    model, pairs, label, _ = narrow
    raw = model(pairs[0])
    torch.testing.assert_close(gndp2d(raw, label, 0.4, 0), raw.mean(dim=(2, 3)))
    assert not torch.allclose(gndp2d(raw, label, 0.4), raw.mean(dim=(2, 3)))


def test_the_gradient_fades_with_the_logit_where_the_final_activation_is_kept():
    """Without it, ten times the logit has the same gradient."""
    label, gradients = torch.tensor([[1.0, 0.0]]), {}
    for activation in ("none", "sigmoid"):
        for scale in (1.0, 10.0):
            raw = torch.tensor([[1.0, 0.5], [2.0, 1.0]]).repeat(1, 2, 1, 1).mul(scale)
            raw.requires_grad_(True)
            (-logit_sum(raw, label, settings(tau=2.0, final_activation=activation))).backward()
            assert raw.grad[:, 1].abs().max() == 0  # not the image's class
            gradients[activation, scale] = raw.grad[0, 0, 0, 0].item()
    assert gradients["none", 1.0] == gradients["none", 10.0] == -0.25
    fading = 1 / (1 + np.exp(1.125))
    assert gradients["sigmoid", 1.0] == pytest.approx(-0.25 * fading, rel=1e-5)
    assert abs(gradients["sigmoid", 10.0]) < 1e-4 * 0.25
