"""Demo/toy_experiment.py: its data, what it writes, and the claim of the paper's Figure 1."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from Demo import toy_experiment
from misc.errors import UserError
from tests.Demo.digits import draw_digits

TINY = ["--seeds", "0", "--images", "20", "--epochs", "1", "--rib_iter", "2", "--rib_images", "2",
        "--channels", "2"]  # fmt: skip


@pytest.fixture
def one_thread():
    """The number of threads decides the last bits, from which a training goes its own way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def save_idx(path: Path, array: np.ndarray, packed: bool) -> None:
    """Write an array of uint8 as MNIST's files have it."""
    data = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


@pytest.fixture
def mnist(tmp_path):
    """A folder in torchvision's layout: a training part, and a packed test part."""
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28)).astype(np.uint8)
    labels = np.arange(12, dtype=np.uint8) % 10
    for part, chosen, packed in (("train", slice(0, 7), False), ("t10k", slice(7, 12), True)):
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            path = tmp_path / "MNIST" / "raw" / f"{part}-{kind}-ubyte"
            save_idx(path, values[chosen], packed)
    return tmp_path, images


def test_twos_and_eights_of_both_parts_of_mnist_are_read(mnist):
    root, images = mnist
    found, values = toy_experiment.read_mnist(root)
    assert values.tolist() == [2, 8]
    np.testing.assert_array_equal(found, images[[2, 8]])
    shutil.rmtree(root / "MNIST")
    with pytest.raises(UserError, match="has no MNIST/raw/; say --mnist_download"):
        toy_experiment.read_mnist(root)


@pytest.mark.parametrize("damage", ["cut", "other labels"])
def test_damaged_files_of_mnist_are_named(mnist, damage):
    raw = mnist[0] / "MNIST" / "raw"
    images = raw / "train-images-idx3-ubyte"
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:-9])
    else:
        save_idx(raw / "train-labels-idx1-ubyte", np.zeros(3, np.uint8), packed=False)
    with pytest.raises(UserError, match=images.name if damage == "cut" else "raw"):
        toy_experiment.read_mnist(mnist[0])


def claim_holds(hgr: dict[str, list[float]]) -> bool:
    """Figure 1: the last layer loses nearly all of the shapes, and far less of the digits."""
    shapes, digits = hgr["non_discriminative"], hgr["discriminative"]
    falls_more = shapes[-2] - shapes[-1] > digits[-2] - digits[-1] + 0.1
    return falls_more and shapes[-1] < 0.15  # published: 0.12


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_claim_holds_with_a_final_activation_alone(activation, one_thread):
    toy = toy_experiment.Toy(final_activation=activation)
    digits, values = draw_digits(np.random.default_rng(0), toy.images)
    network, _, shown = toy_experiment.trained(digits, values, toy, seed=0)
    shown = toy_experiment.Canvases(*(of_all[:100] for of_all in shown))
    hgr = toy_experiment.measure(network, shown, toy)
    assert claim_holds(hgr) == (activation == "sigmoid")


@pytest.fixture
def drawn(tmp_path):
    """The options of a run on drawn digits."""
    digits, values = draw_digits(np.random.default_rng(0), 30)
    raw = tmp_path / "MNIST" / "raw"
    save_idx(raw / "t10k-images-idx3-ubyte", digits, packed=True)
    save_idx(raw / "t10k-labels-idx1-ubyte", values.astype(np.uint8), packed=True)
    return ["--mnist_root", str(tmp_path), "--toy_out_dir", str(tmp_path / "toy"), *TINY]


def test_scores_and_figure_are_written_and_written_again(drawn, tmp_path):
    for _ in range(2):
        assert toy_experiment.main(drawn) == 0
    scores = json.loads((tmp_path / "toy" / "scores.json").read_text())
    assert set(scores["hgr"]) == set(toy_experiment.REGIONS) and scores["data"] == "MNIST"
    assert all(len(values) == toy_experiment.NUM_LAYERS for values in scores["hgr"].values())
    assert all(len(v) == 2 for kind in scores["fine_tuned"].values() for v in kind.values())
    assert (tmp_path / "toy" / "toy_experiment.png").is_file()


def test_scores_of_others_stay(drawn, tmp_path, capsys):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "scores.json").write_text('{"made_by": "RIB", "rows": {}}')
    assert toy_experiment.main(drawn) == 2
    assert "give another --toy_out_dir" in capsys.readouterr().err
    assert json.loads((tmp_path / "toy" / "scores.json").read_text())["rows"] == {}


@pytest.mark.parametrize("words", [["--strides", "1,1"], ["--side", "9"], ["--epochs", "0"],
                                   ["--seeds", "a"], ["--final_activation", "tanh"]])  # fmt: skip
def test_settings_out_of_range_are_one_line_and_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        toy_experiment.main(words)
    assert end.value.code == 2 and words[0] in capsys.readouterr().err
