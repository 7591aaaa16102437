"""Maps of other programs become the CAMs they were, whatever form they come in."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from misc.cams import load_cam, save_cam
from misc.imutils import get_strided_size
from misc.storage.scores import load_scores
from tests.tools.hostile import Reduced
from voc12.dataset import CLASS_NAMES
from voc12.prepare import label_from_xml


def contents(folder: Path, suffix: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(f"*.{suffix}")}


@pytest.fixture(scope="module")
def own(sample, tmp_path_factory):
    """A result folder with maps of the synthetic sample as this project saves them."""
    folder, random = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    ids = tuple((sample.root / "ImageSets/Segmentation/train.txt").read_text().split())
    maps = {}
    for image_id in ids:
        label = label_from_xml(sample.root / "Annotations" / f"{image_id}.xml", sample)
        keys, size = label.nonzero()[0], sample.image_size(image_id)
        high_res = random.random((len(keys), *size), np.float32)
        cam = random.random((len(keys), *get_strided_size(size, 4)), np.float32)
        maps[image_id] = {"keys": keys, "cam": cam, "high_res": high_res}
        (folder / "cam").mkdir(exist_ok=True)
        save_cam(folder / "cam" / f"{image_id}.npy", **maps[image_id])
    given = ("--voc12_root", str(sample.root), "--result_dir", str(folder))
    return SimpleNamespace(folder=folder, ids=ids, maps=maps, given=given)


def background(maps: np.ndarray) -> np.ndarray:
    return np.concatenate([1 - maps.max(axis=0, keepdims=True), maps])


def of_all(keys: np.ndarray, maps: np.ndarray) -> np.ndarray:
    whole = np.full((20, *maps.shape[1:]), 0.5, np.float32)
    whole[keys] = maps
    return whole


tensor = torch.from_numpy
# Content of a file by the keys, cam and high_res of an image.
FORMATS = {
    "tensors": lambda k, cam, high: {"keys": tensor(k), "cam": tensor(cam), "high_res": high},
    "from 1": lambda k, cam, high: {"keys": k + 1, "cam": cam, "high_res": tensor(high)},
    "background first": lambda k, cam, high: {
        "keys": np.pad(k + 1, (1, 0)), "cam": tensor(background(cam)), "high_res": background(high)
    },
    "background without key": lambda k, cam, high: {
        "keys": k.tolist(), "cam": background(cam), "high_res": background(high)
    },
    "key of no map": lambda k, cam, high: {  # of CLIMS
        "keys": np.pad(k + 1, (1, 0)), "cam": tensor(cam), "hr_cam": high
    },
    "all classes": lambda k, cam, high: {
        "keys": np.arange(20), "cam": of_all(k, cam), "high_res": of_all(k, high)
    },
    "by class": lambda k, cam, high: dict(zip(k.tolist(), high, strict=True)),
    "by name": lambda k, cam, high: {CLASS_NAMES[key]: high[n] for n, key in enumerate(k)},
    "channels": lambda k, cam, high: of_all(k, high),
    "channels last": lambda k, cam, high: np.moveaxis(background(of_all(k, high)), 0, -1),
    "own channels": lambda k, cam, high: high[None],
    "small alone": lambda k, cam, high: {"keys": k, "cam": cam},
}  # fmt: skip
FROM_ONE = ("--import_keys", "label")


def save(path: Path, content: object) -> None:
    if path.suffix == ".pth":
        torch.save({k: torch.as_tensor(v) for k, v in content.items()}, path)
    elif path.suffix == ".npz" and isinstance(content, dict):
        np.savez_compressed(path, **{str(k): v for k, v in content.items()})
    else:
        (np.savez if path.suffix == ".npz" else np.save)(path, content)


def written(own, folder: Path, name: str, suffix: str = ".npy") -> Path:
    folder.mkdir(exist_ok=True)
    for image_id, maps in own.maps.items():
        save(folder / f"{image_id}{suffix}", FORMATS[name](*maps.values()))
    return folder


def imported(own, run, source: Path, out: Path, *options: str) -> int:
    """Exit code of the step that makes maps in `out` of a folder."""
    return run(*own.given, "--import_maps", source, "--cam_out_dir", out, "--import_maps_pass",
               *options)  # fmt: skip


@pytest.mark.parametrize(("name", "suffix", "words"), [
    ("tensors", ".npy", ()), ("from 1", ".npy", FROM_ONE), ("background first", ".npy", FROM_ONE),
    ("background first", ".pth", FROM_ONE), ("background without key", ".npy", ()),
    ("all classes", ".npz", ()), ("key of no map", ".npy", ()),
])  # fmt: skip
def test_dicts_of_keys_come_back_bitwise(own, tmp_path, tiny_run, name, suffix, words):
    source = written(own, tmp_path / "in", name, suffix)
    assert imported(own, tiny_run, source, tmp_path / "out", *words) == 0
    assert contents(tmp_path / "out", "npy") == contents(own.folder / "cam", "npy")


def test_numbers_from_1_are_refused_unless_they_are_said_to_be(own, tmp_path, tiny_run, capsys):
    source = written(own, tmp_path / "in", "from 1")
    assert imported(own, tiny_run, source, tmp_path / "out") == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert "which is no label of its image" in first and "--import_keys class or label" in first
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "suffix"), [
    ("by class", ".npy"), ("by class", ".pth"), ("by name", ".npz"), ("channels", ".npy"),
    ("channels last", ".npz"), ("own channels", ".npy"),
])  # fmt: skip
def test_maps_without_a_small_size_get_one(own, tmp_path, tiny_run, name, suffix):
    source = written(own, tmp_path / "in", name, suffix)
    assert imported(own, tiny_run, source, tmp_path / "out") == 0
    for image_id, maps in own.maps.items():
        found = load_cam(tmp_path / "out" / f"{image_id}.npy")
        np.testing.assert_array_equal(found["keys"], maps["keys"])
        np.testing.assert_array_equal(found["high_res"], maps["high_res"])
        assert found["cam"].shape == maps["cam"].shape
        np.testing.assert_allclose(
            found["cam"][:, 1, 2], maps["high_res"][:, 4:8, 8:12].mean(axis=(1, 2)), rtol=1e-5
        )


def test_tensors_among_the_own_maps_are_to_be_imported(own, tmp_path, tiny_run, capsys):
    for name in ("tensors", "key of no map"):
        written(own, tmp_path, name)
        assert tiny_run(*own.given, "--eval_cam_pass", "--cam_out_dir", tmp_path) == 2
        assert "are read by --import_maps DIR" in capsys.readouterr().err


def as_pngs(own, folder: Path, name: Callable[[str, int], str], bits: int) -> Path:
    highest, dtype = (65535, np.uint16) if bits == 16 else (255, np.uint8)
    for image_id, maps in own.maps.items():
        for key, one in zip(maps["keys"].tolist(), maps["high_res"], strict=True):
            path = folder / name(image_id, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.round(one * highest).astype(dtype)).save(path)
    return folder


@pytest.mark.parametrize(("name", "bits", "words"), [
    (lambda i, k: f"{i}_{k}.png", 16, ()), (lambda i, k: f"{k + 1}/{i}.png", 8, FROM_ONE),
    (lambda i, k: f"{i}/{CLASS_NAMES[k]}.png", 16, ()),
])  # fmt: skip
def test_pngs_of_one_class_each(own, tmp_path, tiny_run, name, bits, words):
    source = as_pngs(own, tmp_path / "in", name, bits)
    assert imported(own, tiny_run, source, tmp_path / "out", *words) == 0
    for image_id, maps in own.maps.items():
        found = load_cam(tmp_path / "out" / f"{image_id}.npy")
        np.testing.assert_array_equal(found["keys"], maps["keys"])
        np.testing.assert_allclose(found["high_res"], maps["high_res"], atol=0.6 / (2**bits - 1))


def test_labels_and_masks_of_imported_maps_are_the_same(own, tmp_path, tiny_run, boundary_file):
    """From maps of this project, and from the same maps as those of another one."""
    source = written(own, tmp_path / "in", "background first")
    steps = ("--cam_to_ir_label_pass", "--make_sem_seg_pass", "--eval_cam_pass", "--limit", 4,
             "--irn_weights_name", boundary_file)  # fmt: skip
    assert tiny_run(*own.given, *steps) == 0
    given = (*own.given, *steps, "--import_maps", source, *FROM_ONE)
    assert tiny_run(*given, "--import_maps_pass") == 0
    for name in ("ir_label", "sem_seg"):
        first = contents(own.folder / name, "png")
        assert len(first) == 4
        assert contents(own.folder / f"{name}_imported", "png") == first
    scores = load_scores(own.folder)
    assert scores["imported seed"]["miou"] == scores["RIB seed"]["miou"]


def test_small_maps_are_enlarged(own, tmp_path, tiny_run):
    source = written(own, tmp_path / "in", "small alone")
    assert imported(own, tiny_run, source, tmp_path / "out") == 0
    maps, found = own.maps[own.ids[0]], load_cam(tmp_path / "out" / f"{own.ids[0]}.npy")
    assert found["high_res"].shape == maps["high_res"].shape
    assert np.array_equal(found["cam"], maps["cam"])


def test_what_is_wrong_is_said_for_every_file(own, tmp_path, tiny_run, capsys):
    """Also sizes that a file does not have, code, and pickles of anything else."""
    source = written(own, tmp_path / "in", "by class")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (20, 100000, 100000), }"
    bomb = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n"
    huge = torch.as_strided(torch.zeros(4), (2, 30000, 30000), (0, 0, 0))
    code = Reduced(os.mkdir, str(tmp_path / "made"))
    spoilt = (
        (lambda maps: {key: one * np.nan for key, one in maps.items()}, "not finite"),
        (lambda maps: {key: one[:, :50] for key, one in maps.items()}, "do not fit its image"),
        (lambda maps: {key: one * 9 for key, one in maps.items()}, "not in 0..1"),
        (lambda maps: {0: code}, "refers to"),
        (lambda maps: {"keys": np.array([1, 2]), "cam": huge}, "larger than the file"),
        (lambda maps: bomb, "cannot be read as arrays"),
        (lambda maps: pickle.dumps([1, 2, 3]), "cannot be read as arrays"),
    )
    for image_id, (change, _) in zip(own.ids, spoilt, strict=False):
        content = change(FORMATS["by class"](*own.maps[image_id].values()))
        path = source / f"{image_id}.npy"
        path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    (source / f"{own.ids[7]}.npy").unlink()
    assert imported(own, tiny_run, source, tmp_path / "out") == 2
    said = capsys.readouterr().err
    for image_id, text in zip(own.ids, [*(text for _, text in spoilt), "has no maps"], strict=True):
        assert any(image_id in line and text in line for line in said.splitlines()), said
    assert not (tmp_path / "made").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "text"), [
    ("{}.png", "label maps serve as they are"), ("x{}.npy", "has no maps of the images"),
])  # fmt: skip
def test_folders_of_something_else(own, tmp_path, tiny_run, capsys, name, text):
    for image_id in own.ids:
        (tmp_path / name.format(image_id)).write_bytes(b"")
    assert imported(own, tiny_run, tmp_path, own.folder / "other") == 2
    assert text in capsys.readouterr().err
    assert imported(own, tiny_run, tmp_path, tmp_path / "deep") == 2
    assert "lies in the folder of --import_maps" in capsys.readouterr().err
    assert imported(own, tiny_run, tmp_path, own.folder / "other", "--recam", "rib") == 2
    assert "needs --recam imported" in capsys.readouterr().err


def test_masks_of_others_are_scored_as_they_are(own, sample, tmp_path, tiny_run):
    """Palette PNGs without a checksum; those of the ground truth have no error."""
    for image_id in own.ids:
        with Image.open(sample.mask_path(image_id)) as mask:
            mask.save(tmp_path / f"{image_id}.png")
    assert tiny_run(*own.given, "--eval_sem_seg_pass", "--sem_seg_out_dir", tmp_path) == 0
    assert load_scores(own.folder)[f"masks of {tmp_path}"]["miou"] == [1.0]
