"""step/make_sem_seg_labels.py against recorded label maps."""

import numpy as np
import pytest
import torch

from misc.cams import label_map
from misc.cli.options import parse
from misc.indexing import upsampled_walk, walked_scores
from net.inference import pseudo_mask
from step.make_sem_seg_labels import walk_settings


@pytest.fixture
def recorded(golden):
    return golden("random_walk.npz")


@pytest.fixture
def made_up():
    """Maps and boundaries of the kind of the recorded ones."""
    rng = np.random.default_rng(0)
    maps = {
        name: rng.random(shape) for name, shape in (("cam", (2, 12, 15)), ("edge", (1, 12, 15)))
    }
    arrays = {f"seg_{name}": values.astype(np.float32) for name, values in maps.items()}
    return {**arrays, "seg_power": 1.3, "seg_size": (45, 58)}


def propagated(data, **changes):
    """Scores of the maps after the random walk of the step, K x H x W."""
    words = [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    args = parse(["--seed_power", str(float(data["seg_power"])), *words])
    cam, edge = torch.from_numpy(data["seg_cam"]), torch.from_numpy(data["seg_edge"])
    size = tuple(int(side) for side in data["seg_size"])
    return walked_scores(cam, edge, size, walk_settings(args)).numpy()


@pytest.mark.parametrize("name, threshold", [("bg027", 0.27), ("bg022", 0.22)])
def test_labels_are_the_recorded_ones(recorded, name, threshold):
    labels = label_map(propagated(recorded), recorded["seg_keys"], threshold)
    expected = recorded[f"seg_label_{name}"]
    assert labels.dtype == np.uint8 and labels.shape == expected.shape
    close = recorded[f"seg_close_{name}"]
    assert close.mean() < 0.01
    assert (labels == expected)[~close.astype(bool)].all()


@pytest.mark.parametrize(("option", "value"), [
    ("seed_power", 1.0), ("beta", 8), ("exp_times", 4), ("walk_norm", "class"),
])  # fmt: skip
def test_every_option_of_the_walk_counts(made_up, option, value):
    changed = propagated(made_up, **{option: value})
    assert np.abs(changed - propagated(made_up)).max() > 1e-3


def test_walk_to_scores_is_the_recorded_part(recorded):
    """The recorded walk, enlarged, cut and divided by the maximum of all classes together."""
    size = tuple(int(side) for side in recorded["seg_size"])
    scores = upsampled_walk(torch.from_numpy(recorded["seg_walk"]), size).numpy()
    assert scores.shape == (len(recorded["seg_keys"]), *size) and scores.max() == 1
    np.testing.assert_allclose(propagated(recorded), scores, rtol=0, atol=1e-4)


class Remember(torch.nn.Module):
    """In place of the boundary network: keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.device_of = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pair):
        self.seen = (self.crop_size, tuple(pair.shape))
        return torch.zeros(1, *((n - 1) // 4 + 1 for n in pair.shape[-2:])), None


@pytest.mark.parametrize("pad, crop_size", [(64, 64), (50, 50), (49, None), (0, None)])
def test_images_larger_than_the_padding_are_not_cut(pad, crop_size):
    network = Remember()
    maps = {"keys": np.array([3]), "cam": np.ones((1, 8, 13), dtype=np.float32)}
    pseudo_mask(network, np.zeros((30, 50, 3), dtype=np.uint8), maps, pad_size=pad)
    assert network.seen == (crop_size, (2, 3, 30, 50))
