"""net/deeplab_v2.py and misc/seg_loss.py against recorded outputs, trainings and schedules."""

import numpy as np
import pytest
import torch

from misc import seg_loss
from misc.crf import CRFSettings, dense_crf, wrapped_image
from net import backbones
from net.deeplab_v2 import DeepLabV2, _softmax
from tests.conftest import close, recorded_names
from tests.weights import fill_by_recipe


def network(seed, blocks=None, monkeypatch=None, **options):
    """DeepLab-v2 with the recipe's weights, and other numbers of blocks where they are given."""
    name = "resnet101"
    if blocks is not None and tuple(blocks) != backbones.KINDS[name].counts:
        kind = backbones.Kind(4, tuple(int(n) for n in blocks))
        monkeypatch.setitem(backbones.KINDS, "other", kind)
        name = "other"
    model = DeepLabV2(scale_by="factor", name=name, **options)
    with torch.no_grad():
        fill_by_recipe(model, int(seed))
    return model


@pytest.fixture(scope="module")
def full(golden):
    return network(golden("deeplab_forward.npz")["weight_seed"]).eval()


def test_recorded_weights_and_names(golden, full):
    data = golden("deeplab_forward.npz")
    state = {k.removeprefix("backbone."): v for k, v in full.state_dict().items()}
    for name, total, first in zip(
        data["torchvision_names"], data["weight_sum"], data["weight_first"], strict=True
    ):
        assert state[name].double().sum().item() == pytest.approx(total, rel=1e-6, abs=1e-6)
        assert state[name].flatten()[0].item() == pytest.approx(first, rel=1e-6)
    assert len(data["torchvision_names"]) == sum("batches" not in name for name in state)


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["", "_odd", "_large"])
def test_recorded_outputs(golden, full, suffix):
    data = golden("deeplab_forward.npz")
    x = torch.from_numpy(data[f"x{suffix}"])
    close(full.scores(x), data[f"logits{suffix}"])
    highest = full(x)
    close(highest, data[f"max{suffix}"])
    for name, scale in (("050", 0.5), ("075", 0.75)):
        if f"branch_{name}{suffix}" in data:
            close(full.scores(full.scaled(x, scale)), data[f"branch_{name}{suffix}"])


@torch.no_grad()
def test_recorded_parts_of_an_image_of_odd_size(golden, full):
    data = golden("deeplab_forward.npz")
    x = torch.from_numpy(data["x_odd"])
    stages = full.backbone(x)
    for stage, shape, stats, corner in zip(
        stages, data["stage_shapes_odd"], data["stage_stats_odd"], data["stage_corner_odd"],
        strict=True,
    ):  # fmt: skip
        assert tuple(stage.shape) == tuple(shape)
        values = stage.double()
        found = [values.mean(), values.square().mean().sqrt(), values.max()]
        np.testing.assert_allclose([v.item() for v in found], stats, rtol=1e-4)
        close(stage[0, :4, 0, :4], corner, 1e-3)
    for part, classifier in zip(data["aspp_parts_odd"], full.aspp, strict=True):
        close(classifier(stages[-1]), part)
    for name, scale in (("050", 0.5), ("075", 0.75)):
        close(full.scaled(x, scale), data[f"scaled_{name}_odd"])
        full.scale_by = "size"
        close(full.scores(full.scaled(x, scale)), data[f"sizeratio_branch_{name}_odd"])
        full.scale_by = "factor"
    size = data["pred_odd"].shape[-2:]
    labels = np.stack([_softmax(scores[None], size).argmax(dim=0).numpy() for scores in full(x)])
    clear = ~data["pred_close_odd"].reshape(len(x), *size).astype(bool)
    recorded = data["pred_odd"].reshape(len(x), *size)
    assert (labels == recorded)[clear].all() and clear.mean() > 0.95


def test_recorded_training_outputs_of_one_block_each(golden, monkeypatch):
    data = golden("deeplab_forward.npz")
    thin = network(data["weight_seed"], (1, 1, 1, 1), monkeypatch).train()
    outputs = thin(torch.from_numpy(data["x_odd"]))
    for name, output in zip(("100", "050", "075", "max"), outputs, strict=True):
        close(output, data[f"thin_{name}_odd"])
    with torch.no_grad():
        assert torch.equal(thin.eval()(torch.from_numpy(data["x_odd"])), outputs[-1])


def test_a_step_folds_every_normalisation_once_for_all_scales(monkeypatch):
    thin = network(0, (1, 1, 1, 1), monkeypatch, width=8, stem=8).train()
    folds, fold = [], backbones.folded
    monkeypatch.setattr(backbones, "folded", lambda *pair: folds.append(pair) or fold(*pair))
    thin(torch.randn(1, 3, 65, 65))[-1].sum().backward()
    assert len(folds) == 1 + 4 * 4  # the stem, and three convolutions and a shortcut in each block
    assert all(p.grad is not None for p in thin.parameters() if p.requires_grad)


def test_recorded_nearest_indices(golden):
    for file in ("deeplab_train.npz", "deeplab_data.npz"):
        data = golden(file)
        for name in (name for name in data.files if name.startswith("nearest_")):
            source, target = (int(n) for n in name.removeprefix("nearest_").split("_to_"))
            assert list(seg_loss.nearest_indices(source, target)) == data[name].tolist(), name


def test_recorded_label_resize_of_a_rectangle(golden):
    data = golden("deeplab_train.npz")
    label = torch.from_numpy(np.asarray(data["rect_label"]))[None]
    size = tuple(int(n) for n in data["rect_size"])
    assert np.array_equal(seg_loss.resized_labels(label, size)[0], data["rect_sensible"])
    # The reference hands height and width over in the wrong order.
    assert np.array_equal(seg_loss.resized_labels(label, size[::-1])[0], data["rect_upstream"])


@pytest.mark.parametrize("run", recorded_names("deeplab_train.npz", "_lr"))
def test_recorded_schedules(golden, run):
    data = golden("deeplab_train.npz")
    lr, every, most, power = data[f"{run}_config"].tolist()
    number = torch.nn.Parameter
    groups = [{"params": [number(torch.zeros(1))], "lr": factor * lr} for factor in (1, 10, 20)]
    optimizer = torch.optim.SGD(groups, lr=lr)
    schedule = seg_loss.stepwise_poly(optimizer, int(most), int(every), power)
    wanted = dict(zip(data[f"{run}_iteration"].tolist(), data[f"{run}_lr"], strict=True))
    for iteration in range(1, max(wanted) + 1):
        if iteration in wanted:
            rates = [group["lr"] for group in optimizer.param_groups]
            np.testing.assert_allclose(rates, wanted[iteration], rtol=1e-12, atol=1e-20)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("run", recorded_names("deeplab_train.npz", "_blocks"))
def test_recorded_training(golden, run, monkeypatch, device):
    data = golden("deeplab_train.npz")
    config = dict(zip(data["config_names"], data[f"{run}_config"].tolist(), strict=True))
    model = network(data["weight_seed"], data[f"{run}_blocks"], monkeypatch).train().to(device)
    model.zero_grad()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    groups = model.parameter_groups(config["LR"], config["WEIGHT_DECAY"])
    own_names = {id(p): n.removeprefix("backbone.") for n, p in model.named_parameters()}
    by_name = {own_names[id(p)]: (g, group["weight_decay"])
               for g, group in enumerate(groups) for p in group["params"]}  # fmt: skip
    recorded = zip(
        data[f"{run}_param_names"], data[f"{run}_param_group"], data[f"{run}_param_weight_decay"],
        strict=True,
    )  # fmt: skip
    assert by_name == {str(n): (int(g), pytest.approx(float(d))) for n, g, d in recorded}
    optimizer = torch.optim.SGD(groups, lr=config["LR"], momentum=config["MOMENTUM"])
    schedule = seg_loss.stepwise_poly(
        optimizer, int(config["ITER_MAX"]), int(config["LR_DECAY"]), config["POLY_POWER"]
    )
    inputs = run if f"{run}_images" in data else "thin"
    images, labels = data[f"{inputs}_images"], data[f"{inputs}_labels"]
    parameters = dict(model.named_parameters())
    names = [n if n.startswith("aspp") else f"backbone.{n}" for n in data[f"{run}_param_names"]]
    for k, (of_images, of_labels) in enumerate(zip(images, labels, strict=True)):
        np.testing.assert_allclose(
            [g["lr"] for g in optimizer.param_groups], data[f"{run}_lr_used"][k], rtol=1e-12
        )
        optimizer.zero_grad()
        total, branches = 0.0, []
        for batch, label in zip(of_images, of_labels, strict=True):
            batch, label = (torch.from_numpy(array).to(device) for array in (batch, label))
            losses = seg_loss.scale_losses(model(batch), label)
            loss = sum(losses) / config["ITER_SIZE"]
            loss.backward()
            total += loss.item()
            branches.append([value.item() for value in losses])
        np.testing.assert_allclose(total, data[f"{run}_loss"][k], rtol=1e-4 if k else 1e-5)
        np.testing.assert_allclose(
            branches, data[f"{run}_branch_loss"][k], rtol=1e-4 if k else 1e-5
        )
        norms = [parameters[n].grad.double().norm().item() for n in names]
        np.testing.assert_allclose(norms, data[f"{run}_grad_norm"][k], rtol=0.01, atol=1e-9)
        optimizer.step()
        schedule.step()
        changes = [(parameters[n] - before[n]).double().norm().item() for n in names]
        np.testing.assert_allclose(changes, data[f"{run}_change_norm"][k], rtol=0.01, atol=1e-9)
    for name in data[f"{inputs}_frozen_names"]:
        if f"backbone.{name}" in before:
            assert torch.equal(parameters[f"backbone.{name}"], before[f"backbone.{name}"])
    for k in range(4):
        np.testing.assert_allclose(
            model.aspp[k].bias.detach().cpu(),
            data[f"{run}_final_aspp.{k}.bias"],
            rtol=1e-3,
            atol=1e-5,
        )


def test_recorded_labels_as_the_losses_see_them(golden):
    data = golden("deeplab_train.npz")
    labels = torch.from_numpy(data["thin_labels"][0, 0])
    for name in ("100", "050", "075", "max"):
        expected = data[f"thin_resized_labels_{name}"]
        assert np.array_equal(seg_loss.resized_labels(labels, expected.shape[-2:]), expected)


def test_losses_of_batches_without_labels_are_zero():
    logits = torch.randn(1, 3, 4, 5, requires_grad=True)
    empty = torch.full((1, 4, 5), 255, dtype=torch.uint8)
    for loss in (seg_loss.cross_entropy, seg_loss.balanced_cross_entropy):
        assert loss(logits, empty).item() == 0
    loss(logits, empty).backward()
    assert not logits.grad.any()


def test_balanced_cross_entropy_weighs_both_sides_alike():
    logits = torch.randn(1, 3, 2, 4)
    labels = torch.tensor([[[0, 0, 0, 0], [0, 1, 2, 255]]], dtype=torch.uint8)
    values = -logits.log_softmax(1)[0]
    background = torch.cat([values[0, 0], values[0, 1, :1]]).mean()
    foreground = (values[1, 1, 1] + values[2, 1, 2]) / 2
    found = seg_loss.balanced_cross_entropy(logits, labels)
    torch.testing.assert_close(found, (background + foreground) / 2)
    only = seg_loss.balanced_cross_entropy(logits, labels.clamp_max(0))
    torch.testing.assert_close(only, values[0].mean() / 2)


def crf_settings(data):
    values = dict(zip(data["param_names"].tolist(), data["param_values"].tolist(), strict=True))
    return CRFSettings(
        values["iter_max"], values["pos_xy_std"], values["pos_w"], values["bi_xy_std"],
        values["bi_rgb_std"], values["bi_w"], float(data["unary_clip"]),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", "wrapped"])
@pytest.mark.parametrize("count, image", [(5, "image"), (21, "image21")])
def test_recorded_dense_crf(golden, count, image, kind):
    data = golden("deeplab_crf.npz")
    shown = data[f"{image}_bgr"]
    logits = torch.from_numpy(data[f"logits{count}"])[None]
    before = _softmax(logits, shown.shape[:2]).numpy()
    assert (before.argmax(axis=0) == data[f"labels{count}_before"]).all()
    if count == 5:
        np.testing.assert_allclose(before, data["probs5"], atol=1e-5)
    else:
        np.testing.assert_allclose(before[:, ::4, ::4], data["probs21_every4"], atol=1e-5)
    if kind == "wrapped":
        shown = wrapped_image(shown, tuple(data["mean_bgr"]))
        assert np.array_equal(shown, data[f"{image}_wrapped"])
    after = dense_crf(shown, before, crf_settings(data))
    stored = data[f"q{count}_{kind}"] if count == 5 else data[f"q21_{kind}_every4"]
    np.testing.assert_allclose(after if count == 5 else after[:, ::4, ::4], stored, atol=1e-3)
    clear = ~data[f"close{count}_{kind}"].astype(bool)
    assert (after.argmax(axis=0) == data[f"labels{count}_{kind}"])[clear].all()
