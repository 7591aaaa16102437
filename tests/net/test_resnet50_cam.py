"""Classifier and CAM network: recorded outputs, freezing, batch and class counts."""

import pytest
import torch

from net.resnet50_cam import CAM, Net
from tests.conftest import close
from tests.weights import fill_by_recipe


def thin(cls, **options):
    model = cls(**{"width": 8, "stem": 16, **options})
    fill_by_recipe(model)
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 61, 75, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n_classes", [20, 80])
def test_recorded_forward(golden, n_classes, device):
    data = golden("cam_forward.npz")
    cam = CAM(n_classes).to(device)
    state = fill_by_recipe(cam, int(data["weight_seed"]))
    if n_classes == 20:
        assert sorted(state) == sorted(data["weight_names"].tolist())
        for name, total in zip(data["weight_names"], data["weight_sum"], strict=True):
            assert state[name].double().sum().item() == pytest.approx(total, rel=1e-6, abs=1e-6)
    classifier = Net(n_classes).to(device)
    classifier.load_state_dict(cam.state_dict())
    names = [
        n.removeprefix("x") for n in data.files if n[0] == "x" and f"cam{n_classes}{n[1:]}" in data
    ]
    with torch.no_grad():
        for name in names:
            x = torch.from_numpy(data[f"x{name}"]).to(device)
            close(cam(x), data[f"cam{n_classes}{name}"])
            close(classifier(x), data[f"pooled{n_classes}{name}"])


@pytest.mark.parametrize("kind, bf16", [(CAM, True), (CAM, False), (Net, True)])
def test_bf16_is_of_the_backbone_of_maps_alone_and_ends_with_it(images, kind, bf16):
    model, found = thin(kind), []
    model.bf16 = bf16  # which a training does not look at
    model.classifier.register_forward_hook(lambda *layer: found.append(layer[-1].dtype))
    model(images)
    expected = torch.bfloat16 if bf16 and kind is CAM else torch.float32
    assert model.frozen_features(images).dtype == expected and found == [torch.float32]
    assert not torch.is_autocast_enabled("cpu")


def test_only_layer3_layer4_and_classifier_train(images):
    net = thin(Net, n_classes=5).train()
    net(images).square().sum().backward()
    trained = {name for name, p in net.named_parameters() if p.grad is not None}
    parts = ("backbone.layer3.", "backbone.layer4.", "classifier.")
    assert trained == {name for name, _ in net.named_parameters() if name.startswith(parts)}
    backbone, new = net.trainable_parameters()
    listed = {id(p) for p in (*backbone, *new)}
    assert listed == {id(p) for p in net.parameters() if p.requires_grad}
    assert [p is net.classifier.weight for p in new] == [True]
