"""RIB's loop against the recorded one, and its own rules on a thin network."""

import numpy as np
import pytest
import torch

from misc.cams import merge_scales, pair_map
from misc.rib import RIBSettings, fine_tune, gndp2d, rib_loss
from misc.runtime.memory import RowTooLargeError
from net.engine import Engine
from net.resnet50_cam import CAM
from tests.weights import fill_by_recipe


class RIB:
    """A model and settings; every image starts from the model's first weights."""

    def __init__(self, model, settings, for_gpu=False, precision="float32"):
        self.engine, self.settings = Engine(model, precision, for_gpu=for_gpu), settings

    def iterate(self, pairs, label, batches):
        return fine_tune(self.engine, pairs, label, batches, self.settings)


RUNS = ("normal", "gap", "stop", "explode", "large")


def recorded_settings(data, run: str) -> RIBSettings:
    config = dict(zip(data["config_names"], data[f"{run}_config"].tolist(), strict=True))
    return RIBSettings(
        iterations=int(config["RIB_iter"]),
        learning_rate=config["RIB_lr"],
        weight_decay=config["weight_decay"],
        # Plain average pooling leaves nothing out: no quotient reaches infinity.
        tau=float("inf") if run == "gap" else config["score_th"],
        margin=config["stop_th"],
        explode_th=config["explode_th"],
        explode_ratio=config["explode_ratio"],
        scales=tuple(data["scales"].tolist()),
    )


def close(actual, expected, share: float = 1e-4) -> None:
    """Equal up to a share of the largest value."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=share * np.abs(expected).max())


@pytest.mark.parametrize("run", RUNS)
def test_recorded_run(golden, run):
    data = golden("rib_process.npz")
    model = CAM(20)
    fill_by_recipe(model, int(data["weight_seed"]))
    initial = {n: p.detach().clone() for n, p in model.backbone.named_parameters()}
    rib = RIB(model, recorded_settings(data, run))
    pairs = [torch.from_numpy(data[f"input_scale{i}"]) for i in range(4)]
    batches = zip(
        torch.from_numpy(data["batch_images"]), torch.from_numpy(data["batch_labels"]), strict=True
    )
    label = torch.from_numpy(data["label"])

    states = []
    for k, state in enumerate(rib.iterate(pairs, label, batches)):
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
    np.testing.assert_allclose(cam, data[f"{run}_save_cam"], atol=1e-4)
    np.testing.assert_allclose(high_res, data[f"{run}_save_high_res"], atol=1e-4)

    close(model.classifier.weight.detach()[:, :, 0, 0].sum(1), data[f"{run}_final_classifier_sum"])
    trained = model.backbone.state_dict()
    changes = dict(zip(data["param_names"], data[f"{run}_change_norm"], strict=True))
    for name, start in initial.items():
        change = (trained[name] - start).double().norm().item()
        if name.startswith(("conv1", "bn1", "layer1", "layer2")):
            assert change == 0 == changes[name]
        elif run == "large":
            assert change == pytest.approx(changes[name], rel=0.01)
    if run in ("normal", "large"):
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
def thin():
    """A thin classifier of 3 classes, an image of class 1 and a batch without that class."""
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


def test_first_iteration_is_the_plain_map(thin):
    model, pairs, label, batch = thin
    with torch.no_grad():
        expected = [pair_map(model(pair)) for pair in pairs]
    (state,) = RIB(model, settings(iterations=1)).iterate(pairs, label, iter([batch]))
    for sums, plain in zip(state.map_sums, expected, strict=True):
        torch.testing.assert_close(sums, plain, rtol=1e-5, atol=1e-6)


def test_every_image_starts_from_the_first_weights(thin):
    model, pairs, label, batch = thin
    rib = RIB(model, settings(iterations=3, learning_rate=1e-3))
    runs = [list(rib.iterate(pairs, label, iter([batch] * 3)))[-1] for _ in range(2)]
    assert runs[0].loss == runs[1].loss
    for first, second in zip(runs[0].map_sums, runs[1].map_sums, strict=True):
        assert torch.equal(first, second)


def test_every_iteration_sees_the_weights_of_the_last_step(thin):
    model, pairs, label, batch = thin
    rib = RIB(model, settings(iterations=3, learning_rate=1e-2))
    sums, expected = [], []
    for state in rib.iterate(pairs, label, iter([batch] * 3)):
        sums.append(state.map_sums[0])
        with torch.no_grad():
            expected.append(pair_map(model(pairs[0])))  # by the model itself, after the step
    for i in (1, 2):
        torch.testing.assert_close(sums[i] - sums[i - 1], expected[i - 1], rtol=1e-4, atol=1e-6)


def test_margin_stops_after_the_step(thin):
    model, pairs, label, batch = thin
    before = model.classifier.weight.detach().clone()
    rib = RIB(model, settings(iterations=5, margin=1e-9))
    states = list(rib.iterate(pairs, label, iter([batch] * 5)))
    assert [state.stopped for state in states] == [True]
    assert not torch.equal(model.classifier.weight, before)


def test_exploded_map_stops_before_the_other_scales(thin):
    model, pairs, label, batch = thin
    rib = RIB(model, settings(iterations=5, explode_th=0.0, explode_ratio=-1.0))
    states = []
    for state in rib.iterate(pairs, label, iter([batch] * 5)):
        states.append((state.loss, [sums.clone() for sums in state.map_sums]))
    (loss, first), (exploded_loss, second) = states
    assert loss is not None and exploded_loss is None
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1]) and torch.equal(first[2], second[2])


@pytest.mark.parametrize("explode_ratio", [1.0, 0.2, -1.0])
def test_working_ahead_as_on_a_gpu_gives_the_same(thin, explode_ratio):
    """Also where what was done ahead has to be dropped: map sums, losses and weights."""
    model, pairs, label, batch = thin
    runs = []
    for for_gpu in (False, True):
        same = CAM(3, width=8, stem=8)
        same.load_state_dict(model.state_dict())
        chosen = settings(iterations=4, learning_rate=1e-3, explode_ratio=explode_ratio)
        rib = RIB(same, chosen, for_gpu)
        states = list(rib.iterate(pairs, label, iter([batch] * 4)))
        runs.append(([states], [p.detach() for p in same.parameters()], None))
        assert states[-1].stopped == (explode_ratio < 0.5)
    assert_same_run(*runs, rtol=1e-5)


# --- 16 bits ------------------------------------------------------------------------------------


def run_in(precision, thin, for_gpu, iterations=3, factor=1.0):
    """Map sums, losses and final weights; factor: of the features, to leave a range."""
    model, pairs, label, batch = thin
    same = CAM(3, width=8, stem=8)
    same.load_state_dict(model.state_dict())
    with torch.no_grad():
        same.backbone.layer4[-1].bn3.weight.mul_(factor)
        same.backbone.layer4[-1].bn3.bias.mul_(factor)
    chosen = settings(iterations=iterations, learning_rate=1e-3 / factor**2)
    rib = RIB(same, chosen, for_gpu, precision)
    states = list(rib.iterate(pairs, label, iter([batch] * iterations)))
    sums = [state.map_sums for state in states]
    losses = [(state.loss, state.target_score) for state in states]
    return sums, losses, [p.detach() for p in same.parameters()], rib.engine


def differ(one, other) -> float:
    """Largest difference of the last map sums, as a share of their peaks."""
    pairs = zip(one[0][-1], other[0][-1], strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


@pytest.mark.parametrize("for_gpu", [False, True])
def test_16_bits_move_the_maps_a_little(thin, for_gpu):
    exact = run_in("float32", thin, for_gpu)
    apart = {name: differ(run_in(name, thin, for_gpu), exact) for name in ("fp16", "bf16")}
    assert 1e-5 < apart["fp16"] < 0.02 and apart["fp16"] < apart["bf16"] < 0.1


def test_small_gradients_survive_in_float16(thin, monkeypatch):
    """The scale of the loss leaves again, and without it small gradients would be lost."""
    exact, errors = run_in("float32", thin, False, 1), {}
    before = [p.detach() for p in thin[0].parameters()]
    for scale in (1024.0, 2.0**-14):
        monkeypatch.setattr("net.engine.LOSS_SCALE", scale)
        monkeypatch.setattr("net.overflow.LOSS_SCALE", scale)
        found = run_in("fp16", thin, False, 1)
        moved = [torch.cat([(a - b).flatten() for a, b in zip(weights, before, strict=True)])
                 for weights in (found[2], exact[2])]  # fmt: skip
        errors[scale] = ((moved[0] - moved[1]).norm() / moved[1].norm()).item()
    assert errors[1024.0] < 0.1 < errors[2.0**-14]


@pytest.mark.parametrize("for_gpu", [False, True])
@pytest.mark.parametrize("where", ["maps", "gradients"])
def test_an_iteration_that_overflows_is_that_of_float32(thin, for_gpu, where, monkeypatch):
    if where == "gradients":
        monkeypatch.setattr("net.engine.LOSS_SCALE", 2.0**60)
    factor = 1e6 if where == "maps" else 1.0
    found = run_in("fp16", thin, for_gpu, factor=factor)
    exact = run_in("float32", thin, for_gpu, factor=factor)
    assert found[1] == exact[1] and all(np.isfinite(found[1]).flat)
    for ours, theirs in zip((*found[0], found[2]), (*exact[0], exact[2]), strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_one_iteration_may_overflow_and_the_next_go_on_in_16_bits(thin, monkeypatch):
    before, calls = Engine.other_pass, []

    def other_pass(self, images, labels, loss):
        calls.append(self._network is self._usual)
        if len(calls) == 2:  # the second iteration, in 16 bits
            images = images * 1e9
        return before(self, images, labels, loss)

    monkeypatch.setattr(Engine, "other_pass", other_pass)
    found = run_in("fp16", thin, True)
    assert calls == [True, True, False, True]
    monkeypatch.undo()
    assert differ(found, run_in("float32", thin, True)) < 0.02


def test_plain_maps_that_overflow_are_those_of_float32(thin):
    model, pairs, _, _ = thin
    exact = [Engine(model).plain_map(pair) for pair in pairs]
    engine = Engine(model, "fp16")
    for pair, expected in zip(pairs, exact, strict=True):
        assert not torch.equal(engine.plain_map(pair), expected)
        assert torch.equal(engine.plain_map(1e9 * pair), Engine(model).plain_map(1e9 * pair))
        torch.testing.assert_close(engine.plain_map(pair), expected, rtol=0.02, atol=0.02)


def test_small_scale_takes_no_part_in_the_loss_and_frozen_layers_get_no_gradient(thin):
    model, pairs, label, batch = thin
    rib = RIB(model, settings(iterations=1, tau=2.0))  # scales 1.0, 0.5 and 1.5
    with torch.no_grad():
        scores = [(gndp2d(model(pair), label, 2.0) * label).sum().item() for pair in pairs]
    (state,) = rib.iterate(pairs, label, iter([batch]))
    assert scores[1] != 0
    assert state.target_score == pytest.approx(scores[0] + scores[2], rel=1e-5)
    assert all(p.grad is None for p in model.backbone.layer2.parameters())


# --- memory that ends ---------------------------------------------------------------------------


class _FailsInBackward(torch.autograd.Function):
    """Identity whose gradient finds no memory where the pass is too large, after `before`."""

    @staticmethod
    def forward(context, raw, room):
        context.room = room
        return raw.view_as(raw)

    @staticmethod
    def backward(context, grad):
        if len(grad) > context.room:
            raise torch.OutOfMemoryError("CUDA out of memory (backward)")
        return grad, None


class SmallMemory(CAM):
    """Passes of more pixels at stride 8 than `room` fail; of more rows than `rows`, on the way back

    (behind the classifier, whose gradient is then complete already).
    """

    room, rows = float("inf"), float("inf")

    def frozen_features(self, images):
        self._needs(len(images) * images.shape[-2] * images.shape[-1] / 64)
        return super().frozen_features(images)

    def trained_features(self, frozen):
        self._needs(len(frozen) * frozen.shape[-2] * frozen.shape[-1])
        features = super().trained_features(frozen)
        if features.requires_grad:
            features = _FailsInBackward.apply(features, self.rows)
        return features

    def _needs(self, pixels):
        if pixels > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")


def small_memory_run(thin, room=float("inf"), rows=float("inf"), images=1):
    """States of every image, weights after the last, and the budget that is left."""
    model, pairs, label, batch = thin
    small = SmallMemory(3, width=8, stem=8)
    small.load_state_dict(model.state_dict())
    small.room, small.rows = room, rows
    rib = RIB(small, settings(iterations=3, learning_rate=1e-3))
    other = (batch[0].flip(0), batch[1].flip(0))
    runs = [list(rib.iterate(pairs, label, iter([batch, other, batch]))) for _ in range(images)]
    return runs, [p.detach().clone() for p in small.parameters()], rib.engine.budget


def assert_same_run(one, other, rtol):
    (states,), weights, _ = one
    (same_states,), same_weights, _ = other
    for state, same in zip(states, same_states, strict=True):
        assert (state.loss is None) == (same.loss is None)
        assert state.loss is None or state.loss == pytest.approx(same.loss, rel=1e-5)
        for sums, same_sums in zip(state.map_sums, same.map_sums, strict=True):
            torch.testing.assert_close(sums, same_sums, rtol=rtol, atol=rtol)
    for weight, same in zip(weights, same_weights, strict=True):
        torch.testing.assert_close(weight, same, rtol=rtol, atol=rtol / 10)


# 2 x 96 x 96 pixels are 288 at stride 8; a pass of one of them is 144.
@pytest.mark.parametrize("limits", [{"room": 200}, {"rows": 1}, {"room": 144, "rows": 1}])
def test_short_memory_changes_nothing_but_the_passes(thin, limits):
    plain = small_memory_run(thin)
    short = small_memory_run(thin, **limits)
    assert plain[2].pixels == float("inf") and short[2].pixels < float("inf")
    assert_same_run(short, plain, rtol=1e-5)


def test_a_batch_that_fails_is_not_drawn_again(thin):
    """Four other images do not fit together: by then the target's passes are done."""
    model, pairs, label, (images, labels) = thin
    double = (torch.cat([images, images.flip(-1)]), labels.repeat(2, 1))
    plain = small_memory_run((model, pairs, label, double))
    short = small_memory_run((model, pairs, label, double), rows=2)
    assert short[2].pixels == 2 * 64 * 64
    assert_same_run(short, plain, rtol=1e-5)


def test_the_budget_is_kept_for_the_next_image(thin, caplog):
    small_memory_run(thin, rows=1, images=1)
    once = len(caplog.messages)
    caplog.clear()
    small_memory_run(thin, rows=1, images=3)
    assert once == len(caplog.messages) > 0


def test_an_image_that_does_not_fit_at_all(thin):
    with pytest.raises(RowTooLargeError, match="96 x 96"):
        small_memory_run(thin, room=143)


# --- what the paper compares with ---------------------------------------------------------------


def test_no_pooled_class_is_global_average_pooling(thin):
    model, pairs, label, _ = thin
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
            rib_loss(raw, label, settings(tau=2.0, final_activation=activation)).backward()
            assert raw.grad[:, 1].abs().max() == 0  # not the image's class
            gradients[activation, scale] = raw.grad[0, 0, 0, 0].item()
    assert gradients["none", 1.0] == gradients["none", 10.0] == -0.25
    fading = 1 / (1 + np.exp(1.125))
    assert gradients["sigmoid", 1.0] == pytest.approx(-0.25 * fading, rel=1e-5)
    assert abs(gradients["sigmoid", 10.0]) < 1e-4 * 0.25
