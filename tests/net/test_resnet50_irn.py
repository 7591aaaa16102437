"""Boundary network: recorded outputs, losses and gradients; padding, mirroring, mean shift."""

import pytest
import torch

from misc.affinity_loss import PairLoss
from misc.indexing import PathIndex, affinity_labels, pair_ends, path_maximum, shifted
from net.resnet50_irn import AffinityDisplacementLoss, EdgeDisplacement, Net
from tests.conftest import close
from tests.weights import fill_by_recipe

THIN = {"width": 8, "stem": 16}


def thin(cls, *args, **options):
    torch.manual_seed(0)
    return cls(*args, **options, **THIN)


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
def test_recorded_inference(recorded_net, case, padded, device):
    data, model = recorded_net
    model.crop_size = int(data["crop_size"]) if padded else None
    edge, displacement = model.to(device)(torch.from_numpy(data[f"x_{case}"]).to(device))
    close(edge, data[f"edge_{case}"])
    close(displacement, data[f"dp_{case}"])


@torch.no_grad()
def test_recorded_raw_outputs_and_mean_shift_mode(recorded_net, device):
    data, model = recorded_net
    pair = torch.from_numpy(data["x_pad"]).to(device)
    size = int(data["crop_size"])
    pair = torch.nn.functional.pad(pair, (0, size - pair.shape[3], 0, size - pair.shape[2]))
    edge, displacement = Net.forward(model.eval().to(device), pair)
    close(edge, data["raw_edge_pad"])
    close(displacement, data["raw_dp_pad"])
    close(Net.forward(model.train(), pair)[1], data["raw_dp_pad_training"])
    model.eval()


@pytest.fixture(scope="module")
def pair_loss():
    return PairLoss(PathIndex(5, (16, 16)))


def test_recorded_losses_and_gradients(golden, pair_loss, monkeypatch, device):
    data = golden("affinity_loss.npz")
    edge = torch.from_numpy(data["edge_logits"]).to(device).requires_grad_()
    displacement = torch.from_numpy(data["dp"]).to(device).requires_grad_()
    label_maps = torch.from_numpy(data["label_maps"]).to(device)
    labels = affinity_labels(label_maps, pair_loss.path_index, 21)
    monkeypatch.setattr(Net, "forward", lambda network, images: (edge, displacement))
    losses = thin(AffinityDisplacementLoss, pair_loss.path_index)(None, labels)
    names = {"bg_pos": "bg_pos_aff", "fg_pos": "fg_pos_aff", "pos": "pos_aff", "neg": "neg_aff"}
    for field, value in losses._asdict().items():
        recorded = data[f"scalar_{names.get(field, field)}"].item()
        assert value.item() == pytest.approx(recorded, rel=1e-5), field
    losses.total.backward()
    close(edge.grad, data["grad_edge_logits"])
    close(displacement.grad, data["grad_dp"])
    probability = torch.sigmoid(edge.detach()).squeeze(1)
    close(1 - path_maximum(probability, pair_loss.path_index), data["affinity"])
    pair_displacement = changes(displacement.detach(), pair_loss.path_index)
    close(pair_displacement, data["pair_displacement"])


def changes(displacement, paths):
    """Displacement at the start of a pair minus that at its end, B x 2 x pairs x starts."""
    start = shifted(displacement, (0, 0), paths.radius_floor)
    return (start.unsqueeze(2) - pair_ends(displacement, paths)).flatten(3)


def test_losses_without_any_label_are_zero(pair_loss):
    label_map = torch.full((1, 12, 12), 255, dtype=torch.uint8)
    labels = affinity_labels(label_map, pair_loss.path_index, 21)
    losses = pair_loss(torch.randn(1, 1, 12, 12), torch.randn(1, 2, 12, 12), labels)
    assert all(value.item() == 0 for value in losses)


def test_training_touches_the_heads_only():
    paths = PathIndex(3, (16, 16))
    model = thin(AffinityDisplacementLoss, paths).train()
    maps = torch.randint(0, 3, (2, 16, 16), dtype=torch.uint8)
    labels = affinity_labels(maps, paths, 21)
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
