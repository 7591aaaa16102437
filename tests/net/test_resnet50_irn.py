"""Boundary network: recorded outputs, losses and gradients; padding, mirroring, mean shift."""

import math

import numpy as np
import pytest
import torch

from misc.affinity_loss import PairLoss
from misc.errors import UserError
from misc.indexing import (
    AffinityLabels,
    PathIndex,
    affinity_labels,
    pair_ends,
    path_maximum,
    shifted,
)
from net.resnet50_irn import AffinityDisplacementLoss, EdgeDisplacement, Net
from tests import references
from tests.weights import fill_by_recipe

THIN = {"width": 8, "stem": 16}


def thin(cls, *args, **options):
    torch.manual_seed(0)
    return cls(*args, **options, **THIN)


def assert_close(actual, recorded):
    recorded = torch.from_numpy(recorded)
    assert actual.shape == recorded.shape
    assert (actual - recorded).abs().max() <= 1e-4 * recorded.abs().max()


@pytest.fixture(scope="module")
def recorded_net(golden):
    data = golden("irn_forward.npz")
    model = EdgeDisplacement(crop_size=int(data["crop_size"]))
    state = fill_by_recipe(model, int(data["weight_seed"]))
    model.mean_shift.running_mean.copy_(torch.from_numpy(data["mean_shift"]))
    for name, total in zip(data["weight_names"], data["weight_sum"], strict=True):
        assert state[name].double().sum().item() == pytest.approx(total, rel=1e-6, abs=1e-6)
    assert sorted(state) == sorted(data["weight_names"].tolist())
    return data, model.eval()


@pytest.mark.parametrize(
    "case, padded", [("pad", True), ("big", True), ("coco", False), ("coco_odd", False)]
)
@torch.no_grad()
def test_recorded_inference(recorded_net, case, padded):
    data, model = recorded_net
    model.crop_size = int(data["crop_size"]) if padded else None
    edge, displacement = model(torch.from_numpy(data[f"x_{case}"]))
    assert_close(edge, data[f"edge_{case}"])
    assert_close(displacement, data[f"dp_{case}"])


@torch.no_grad()
def test_recorded_raw_outputs_and_mean_shift_mode(recorded_net):
    data, model = recorded_net
    pair = torch.from_numpy(data["x_pad"])
    size = int(data["crop_size"])
    pair = torch.nn.functional.pad(pair, (0, size - pair.shape[3], 0, size - pair.shape[2]))
    edge, displacement = Net.forward(model.eval(), pair)
    assert_close(edge, data["raw_edge_pad"])
    assert_close(displacement, data["raw_dp_pad"])
    assert_close(Net.forward(model.train(), pair)[1], data["raw_dp_pad_training"])
    model.eval()


@pytest.fixture(scope="module")
def pair_loss():
    return PairLoss(PathIndex(5, (16, 16)))


def test_recorded_losses_and_gradients(golden, pair_loss):
    data = golden("affinity_loss.npz")
    edge = torch.from_numpy(data["edge_logits"]).requires_grad_()
    displacement = torch.from_numpy(data["dp"]).requires_grad_()
    label_maps = torch.from_numpy(data["label_maps"])
    labels = affinity_labels(label_maps, pair_loss.path_index, 21)
    losses = pair_loss(edge, displacement, labels)
    names = {"bg_pos": "bg_pos_aff", "fg_pos": "fg_pos_aff", "pos": "pos_aff", "neg": "neg_aff"}
    for field, value in losses._asdict().items():
        recorded = data[f"scalar_{names.get(field, field)}"].item()
        assert value.item() == pytest.approx(recorded, rel=1e-5), field
    losses.total.backward()
    assert_close(edge.grad, data["grad_edge_logits"])
    assert_close(displacement.grad, data["grad_dp"])
    probability = torch.sigmoid(edge.detach()).squeeze(1)
    assert_close(1 - path_maximum(probability, pair_loss.path_index), data["affinity"])
    pair_displacement = changes(displacement.detach(), pair_loss.path_index)
    assert_close(pair_displacement, data["pair_displacement"])


def changes(displacement, paths):
    """Displacement at the start of a pair minus that at its end, B x 2 x pairs x starts."""
    start = shifted(displacement, (0, 0), paths.radius_floor)
    return (start.unsqueeze(2) - pair_ends(displacement, paths)).flatten(3)


@pytest.mark.parametrize("radius, size", [(2, (5, 9)), (5, (16, 18)), (7, (13, 30))])
def test_losses_and_gradients_are_those_of_the_maps_of_all_pairs(radius, size):
    generator = torch.Generator().manual_seed(radius)
    paths = PathIndex(radius, size)
    pair_loss = PairLoss(paths)
    values = torch.tensor([0, 0, 3, 7, 255], dtype=torch.uint8)
    label_maps = values[torch.randint(0, 5, (3, *size), generator=generator)]
    indices = references.PairIndices.of(paths, torch.device("cpu"))
    results = []
    for plain in (False, True):
        generator.manual_seed(0)
        edge = torch.randn(3, 1, *size, generator=generator).requires_grad_()
        # Whole numbers: many differences are 0, where the gradient of the error is 0 too.
        displacement = torch.randint(-2, 3, (3, 2, *size), generator=generator).float()
        displacement.requires_grad_()
        if plain:
            labels = references.pair_labels(label_maps.numpy(), paths, 21)
            losses = references.irn_losses(edge, displacement, labels, indices)
        else:
            losses = pair_loss(edge, displacement, affinity_labels(label_maps, paths, 21))
        # Every term with a weight of its own, so that none hides behind another.
        sum(weight * term for weight, term in enumerate(losses, start=1)).backward()
        results.append((torch.stack(list(losses)).detach(), edge.grad, displacement.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_large_displacements_lose_no_accuracy(pair_loss):
    labels = affinity_labels(torch.zeros(1, 12, 12, dtype=torch.uint8), pair_loss.path_index, 21)
    small = torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(0)).mul(64).round()
    expected = pair_loss(torch.zeros(1, 1, 12, 12), small, labels).dp_bg.item()
    moved = pair_loss(torch.zeros(1, 1, 12, 12), small + 2.0**20, labels).dp_bg.item()
    assert expected > 1 and moved == pytest.approx(expected, rel=1e-6)


def test_pair_displacement_of_a_linear_field(pair_loss):
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(12.0), indexing="ij")
    pairs = changes(torch.stack([rows, 2 * columns])[None], pair_loss.path_index)
    offsets = torch.from_numpy(pair_loss.path_index.search_dst).float()
    assert pairs.shape == (1, 2, 34, 6 * 4)
    assert torch.equal(
        pairs, -(offsets.T * torch.tensor([[1.0], [2.0]]))[None, :, :, None] + 0 * pairs
    )


def test_losses_by_hand_in_a_batch_of_two(pair_loss):
    bg, fg, neg = torch.zeros(3, 2, 34, 6 * 4)
    bg[0, 1, 0] = fg[0, 0, 0] = fg[1, 5, 3] = neg[1, 2, 0] = 1
    edge_logits = torch.stack([torch.zeros(1, 10, 12), torch.full((1, 10, 12), math.log(3))])
    losses = pair_loss(edge_logits, torch.ones(2, 2, 10, 12), AffinityLabels(bg, fg, neg))
    # Affinity 1/2 in the first image and 1/4 in the second; the displacements are all equal.
    offsets = np.abs(pair_loss.path_index.search_dst)
    expected = {
        "bg_pos": math.log(2),
        "fg_pos": (math.log(2) + math.log(4)) / 2,
        "pos": (math.log(2) * 2 + math.log(2) + math.log(4)) / 4,
        "neg": math.log(4 / 3),
        "dp_fg": (offsets[0].sum() + offsets[5].sum()) / 4,
        "dp_bg": 0.0,
    }
    for field, value in expected.items():
        assert getattr(losses, field).item() == pytest.approx(value, abs=1e-4), field
    total = (expected["pos"] + expected["neg"] + expected["dp_fg"]) / 2
    assert losses.total.item() == pytest.approx(total, abs=1e-4)


def test_losses_without_any_label_are_zero(pair_loss):
    labels = affinity_labels(
        torch.full((1, 12, 12), 255, dtype=torch.uint8), pair_loss.path_index, 21
    )
    losses = pair_loss(torch.randn(1, 1, 12, 12), torch.randn(1, 2, 12, 12), labels)
    assert all(value.item() == 0 for value in losses)


def test_training_touches_the_heads_only():
    model = thin(AffinityDisplacementLoss, PathIndex(3, (16, 16))).train()
    maps = torch.randint(0, 3, (2, 16, 16), dtype=torch.uint8)
    labels = affinity_labels(maps, model.loss.path_index, 21)
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    model(images, labels).total.backward()
    assert images.grad is None
    edge, displacement = model.trainable_parameters()
    assert len(edge) == 5 * 3 + 2 and len(displacement) == 7 * 3 + 1
    assert all(p.grad is not None for p in (*edge, *displacement))
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
    trained = {id(p) for p in (*edge, *displacement)}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in edge} == {
        id(p) for n, p in model.named_parameters() if n.startswith("fc_edge")
    }


def test_too_small_training_maps_are_a_clear_error(pair_loss):
    with pytest.raises(UserError, match="--irn_crop_size"):
        affinity_labels(torch.zeros(1, 8, 8, dtype=torch.uint8), pair_loss.path_index, 21)


@torch.no_grad()
def test_mirrored_pair_gives_mirrored_boundaries():
    model = thin(EdgeDisplacement, crop_size=None).eval()
    image = torch.randn(3, 32, 48)
    pair = torch.stack([image, image.flip(-1)])
    edge, displacement = model(pair)
    mirrored, _ = model(pair.flip(0))
    assert edge.shape == (1, 8, 12) and displacement.shape == (2, 8, 12)
    torch.testing.assert_close(edge, mirrored.flip(-1))
    assert 0 <= edge.min() and edge.max() <= 1


@torch.no_grad()
def test_mean_shift_is_subtracted_in_evaluation_only():
    model = thin(EdgeDisplacement, crop_size=64)
    pair = torch.randn(2, 3, 50, 37)
    raw = model.train()(pair)[1]
    assert torch.equal(raw, model.eval()(pair)[1])
    model.mean_shift.running_mean.copy_(torch.tensor([0.5, -1.0]))
    shifted = model(pair)[1]
    assert shifted.shape == (2, 13, 10)
    torch.testing.assert_close(raw - shifted, torch.tensor([0.5, -1.0])[:, None, None] + 0 * raw)
    assert torch.equal(raw, model.train()(pair)[1])


@torch.no_grad()
def test_padding_is_zeros_below_and_right_and_large_images_are_cut():
    padding, plain = (
        thin(EdgeDisplacement, crop_size=64).eval(),
        thin(EdgeDisplacement, None).eval(),
    )
    pair = torch.randn(2, 3, 80, 40)
    canvas = torch.zeros(2, 3, 64, 64)
    canvas[:, :, :, :40] = pair[:, :, :64]
    _, displacement = padding(pair)
    assert displacement.shape == (2, 16, 10)  # 80 rows are cut to 64
    assert torch.equal(displacement, plain(canvas)[1][:, :, :10])


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 80), (61, 75)])
def test_outputs_are_those_of_concatenated_maps_of_the_whole_batch(size):
    model = thin(Net).eval()
    fill_by_recipe(model)
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    for ours, plain in zip(model(images), references.irn_outputs(model, images), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_heads_follow_the_backbones_channels():
    model = Net(width=16, stem=24)
    assert model.fc_edge1[0].in_channels == 24 and model.fc_dp5[0].in_channels == 512
    assert model.arch == {"name": "resnet50", "width": 16, "stem": 24, "stride_in_1x1": False}
