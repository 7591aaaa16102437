"""The whole sequence on the synthetic sample with another backbone than ResNet-50."""

from misc.labels import read_label_png
from misc.storage.scores import load_scores
from net.checkpoint import load_boundary_net, load_classifier
from net.resnet50_cam import Net
from tests.conftest import THIN, saved


def test_every_step_runs_with_another_backbone(sample, tiny_run, tmp_path):
    weights, folder = tmp_path / "start.pth", tmp_path / "r"
    saved(Net(20, name="resnet18", **THIN), weights)
    words = ("--voc12_root", sample.root, "--result_dir", folder, "--limit", 2)
    assert tiny_run(*words, "--imagenet_weights", weights) == 0
    assert load_classifier(folder / "res50_cam.pth", 20).arch["name"] == "resnet18"
    assert load_boundary_net(folder / "res50_irn.pth").arch["name"] == "resnet18"
    assert set(load_scores(folder)) == {"CAM seed", "RIB seed", "pseudo masks"}
    masks = [read_label_png(path) for path in sorted((folder / "sem_seg").glob("*.png"))]
    assert len(masks) == 2 and all(mask.max() < 21 for mask in masks)
