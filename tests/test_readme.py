"""Commands and code that README.md promises."""

import re

import pytest
import torch
from PIL import Image

from Dataset.make_sample import make_sample
from misc.cli.options import STEPS, build_parser
from net.checkpoint import save_checkpoint
from net.resnet50_irn import Net
from tests.conftest import PROJECT, THIN

README = (PROJECT / "README.md").read_text()
PATHS = set(re.findall(r"`((?:misc|net|step|tests|voc12|coco14)/[\w/.]+)", README))


def test_the_example_from_python_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) <= 15
    root = tmp_path / "Dataset" / "sample_voc12"
    make_sample(root, 1, 1)
    photograph = root / "JPEGImages" / "2012_000001.jpg"
    Image.open(photograph).resize((64, 48)).save(photograph)
    link = tmp_path / "Dataset" / "sample_classifier.pth"
    link.symlink_to(PROJECT / "Dataset" / "sample_classifier.pth")
    save_checkpoint(tmp_path / "result" / "sample_voc12" / "res50_irn.pth", Net(**THIN))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    image, mask, maps = names["image"], names["mask"], names["maps"]
    assert names["cams"].shape == (20, *image.shape[:2])
    assert maps["high_res"].shape == (1, *image.shape[:2]) and maps["keys"].tolist() == [7]
    assert mask.shape == image.shape[:2] and set(mask.ravel()) <= {0, 8}
    before = torch.load(link, weights_only=True)["state_dict"]["classifier.weight"].float()
    assert torch.equal(names["network"].classifier.weight, before)  # left as it was


def test_every_option_that_is_named_exists():
    """Those of torchrun and Slurm have no underscore."""
    known = {flag for action in build_parser()._actions for flag in action.option_strings}
    code = "".join(path.read_text() for path in PROJECT.rglob("*.py"))
    named = set(re.findall(r"(?<![\w-])--(?!NAME_)[A-Za-z]\w*_\w+", README))
    assert len(named) > 40
    assert [flag for flag in named - known if f'"{flag}"' not in code] == []


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_path_that_is_named_exists(path):
    made = ("coco14/cls_labels_coco.npy", "step/NAME.py")
    assert path in made or (PROJECT / path.rstrip(".")).exists()


def test_every_step_is_in_the_table():
    assert all(f"| `{name}` |" in README for name in STEPS)
