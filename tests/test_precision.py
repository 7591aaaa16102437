"""tests/precision.py: its rounding, and that it reaches every convolution both ways."""

import copy

import torch

from net.folded import FoldedCAM
from net.resnet50_cam import CAM
from tests import precision
from tests.precision import FORMATS, emulated, to_tf32
from tests.weights import fill_by_recipe


def test_tf32_keeps_ten_bits_to_the_nearest():
    step = 2.0**-10
    values = torch.tensor([1.0, 1 + step, 1 + 0.49 * step, 1 + 0.51 * step, -3.0, 1e-30, 0.0])
    expected = torch.tensor([1.0, 1 + step, 1.0, 1 + step, -3.0, 1e-30, 0.0])
    torch.testing.assert_close(to_tf32(values), expected, rtol=1e-3 / 2, atol=0)
    assert torch.equal(to_tf32(values)[:5], expected[:5])
    exact = torch.randn(1000).half().float()  # as many bits: nothing to round
    assert torch.equal(to_tf32(exact), exact)


def maps_and_gradients(model, images, form):
    network = FoldedCAM(copy.deepcopy(model))
    with emulated(FORMATS.get(form)):
        maps = network(images)
    return maps.detach(), torch.autograd.grad(maps.sum(), network.trained)


def test_formats_with_fewer_bits_move_maps_and_gradients_more():
    model = CAM(5, width=8, stem=16)
    fill_by_recipe(model)
    images = torch.randn(2, 3, 61, 75, generator=torch.Generator().manual_seed(0))
    exact = maps_and_gradients(model, images, None)
    apart = {}
    for form in FORMATS:
        maps, gradients = maps_and_gradients(model, images, form)
        of_maps = (maps - exact[0]).abs().max() / exact[0].abs().max()
        pairs = zip(gradients, exact[1], strict=True)
        of_gradients = max((g - e).abs().max() / e.abs().max() for g, e in pairs)
        apart[form] = torch.stack([of_maps, of_gradients])
    assert (apart["tf32"] > 1e-5).all() and (apart["bf16"] < 0.2).all()
    assert (2 * apart["tf32"] < apart["bf16"]).all() and (2 * apart["fp16"] < apart["bf16"]).all()


def test_the_table(sample, classifier_file, tmp_path, capsys):
    words = ["--voc12_root", sample.root, "--cam_weights_name", classifier_file]
    words += ["--limit", "2", "--max_long", "64", "--cam_crop_size", "32", "--cam_long", "32,48"]
    words += ["--RIB_iter", "2", "--RIB_batch_size", "2", "--num_workers", "0", "--cam_scales", "1"]
    report = tmp_path / "report.json"
    assert precision.main([*map(str, words), "--formats", "bf16", "--json", str(report)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()[-4:]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["float32", "bf16"]
    assert "0.0e+00" in lines[2] and "0.0e+00" not in lines[3] and report.exists()
