"""Exported weights in networks that are put together as the original code puts them together."""

import pytest
import torch
from torch import nn

from misc.errors import UserError
from net.backbones import ResNet
from net.checkpoint import load_boundary_net, load_segmentation, original_state, save_checkpoint
from net.deeplab_v2 import DeepLabV2
from net.resnet50_cam import CAM
from net.resnet50_irn import EdgeDisplacement
from tests.weights import fill_by_recipe

THIN = {"width": 8, "stem": 16}


class Groups(nn.Module):
    """A ResNet-50 whose layers IRN and RIB register again, as stages and as `backbone`."""

    def __init__(self, *stages: tuple[str, ...]):
        super().__init__()
        self.resnet50 = ResNet(**THIN)
        groups = [nn.Sequential(*self.resnet50.parts(names)) for names in stages]
        for number, group in enumerate(groups, start=1):
            self.add_module(f"stage{number}", group)
        self.backbone = nn.ModuleList(groups)


STEM = ("conv1", "bn1", "relu", "maxpool")


class Classifier(Groups):
    def __init__(self):
        super().__init__((*STEM, "layer1"), ("layer2",), ("layer3",), ("layer4",))
        self.classifier = nn.Conv2d(self.resnet50.out_channels[-1], 5, 1, bias=False)
        self.newly_added = nn.ModuleList([self.classifier])

    def forward(self, images):
        for stage in self.backbone:
            images = stage(images)
        return self.classifier(images)


class BoundaryNet(Groups):
    def __init__(self):
        super().__init__(STEM, ("layer1",), ("layer2",), ("layer3",), ("layer4",))
        heads = dict(EdgeDisplacement(**THIN).named_children())
        self.mean_shift = heads["mean_shift"]
        heads["fc_dp7"].append(self.mean_shift)
        for kind, count in (("edge", 6), ("dp", 7)):
            layers = {f"fc_{kind}{n}": heads[f"fc_{kind}{n}"] for n in range(1, count + 1)}
            for name, layer in layers.items():
                self.add_module(name, layer)
            self.add_module(f"{kind}_layers", nn.ModuleList(layers.values()))


@torch.no_grad()
def test_a_classifier_loads_strictly_and_gives_the_same_scores(tmp_path):
    own = CAM(5, **THIN).eval()
    fill_by_recipe(own)
    save_checkpoint(tmp_path / "cam.pth", own)
    original = Classifier().eval()
    original.load_state_dict(original_state(tmp_path / "cam.pth"), strict=True)
    images = torch.randn(2, 3, 40, 56)
    # Up to rounding: here the memory format may be another one.
    torch.testing.assert_close(original(images), own(images), rtol=1e-5, atol=1e-5)
    assert own(images).any()


def test_a_boundary_net_loads_with_all_its_layers(tmp_path):
    own = EdgeDisplacement(**THIN)
    fill_by_recipe(own)
    own.mean_shift.running_mean.copy_(torch.tensor([0.5, -1.0]))
    save_checkpoint(tmp_path / "irn.pth", own)
    original = BoundaryNet()
    missing, unexpected = original.load_state_dict(original_state(tmp_path / "irn.pth"), False)
    assert not missing and not unexpected
    assert original.dp_layers[6][4].running_mean.tolist() == [0.5, -1.0]
    torch.save(original.state_dict(), tmp_path / "back.pth")
    back = load_boundary_net(tmp_path / "back.pth").state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in own.state_dict().items())


def test_a_segmentation_network_has_the_names_of_deeplab_pytorch(golden, tmp_path):
    own = DeepLabV2(5, width=8, stem=8)
    save_checkpoint(tmp_path / "seg.pth", own)
    state = original_state(tmp_path / "seg.pth")
    names = golden("deeplab_forward.npz")["ref_names"].tolist()
    assert {n for n in state if "batches" not in n} == {f"base.{name}" for name in names}
    torch.save(state, tmp_path / "back.pth")
    back = load_segmentation(tmp_path / "back.pth", 5).state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in own.state_dict().items())


@pytest.mark.parametrize("model", [
    CAM(5, name="resnet18", **THIN), CAM(5, stride_in_1x1=True, **THIN),
    DeepLabV2(5, colours="torchvision", width=8, stem=8),
    DeepLabV2(5, stride_in_1x1=False, width=8, stem=8),
])  # fmt: skip
def test_a_network_that_the_original_code_does_not_build_is_refused(tmp_path, model):
    save_checkpoint(tmp_path / "net.pth", model)
    with pytest.raises(UserError, match="the original code builds one of"):
        original_state(tmp_path / "net.pth")
