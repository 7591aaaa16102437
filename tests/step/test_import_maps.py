"""Maps of other programs become the CAMs they were, whatever form they come in."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from misc.cams import load_cam, save_cam
from misc.cli.check import makers
from misc.cli.options import chosen_steps, parse
from misc.data.foreign_maps import ForeignMaps, numbering_of
from misc.errors import UserError
from misc.imutils import get_strided_size
from misc.storage.scores import load_scores
from step import all_steps
from voc12.prepare import label_from_xml


class Own(NamedTuple):
    """A result folder with maps of the drawn sample as this project saves them."""

    folder: Path
    ids: tuple[str, ...]
    maps: dict[str, dict[str, np.ndarray]]
    given: tuple[str, ...]

    def cams(self) -> dict[str, bytes]:
        return contents(self.folder / "cam", "npy")


def contents(folder: Path, suffix: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(f"*.{suffix}")}


@pytest.fixture(scope="module")
def own(sample, tmp_path_factory, tiny_run) -> Own:
    folder, random = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    ids = tuple((sample.root / "ImageSets/Segmentation/train.txt").read_text().split())
    maps = {}
    for image_id in ids:
        label = label_from_xml(sample.root / "Annotations" / f"{image_id}.xml", sample)
        keys, size = label.nonzero()[0], sample.image_size(image_id)
        assert len(keys)
        high_res = random.random((len(keys), *size), np.float32)
        cam = random.random((len(keys), *get_strided_size(size, 4)), np.float32)
        maps[image_id] = {"keys": keys, "cam": cam, "high_res": high_res}
        (folder / "cam").mkdir(exist_ok=True)
        save_cam(folder / "cam" / f"{image_id}.npy", **maps[image_id])
    given = ("--voc12_root", str(sample.root), "--result_dir", str(folder))
    return Own(folder, ids, maps, given)


def background(maps: np.ndarray) -> np.ndarray:
    return np.concatenate([1 - maps.max(axis=0, keepdims=True), maps])


def tensors(keys, cam, high_res) -> dict:
    return {"keys": torch.from_numpy(keys), "cam": torch.from_numpy(cam), "high_res": high_res}


def from_one(keys, cam, high_res) -> dict:
    return {"keys": keys + 1, "cam": cam, "high_res": torch.from_numpy(high_res)}


def background_first(keys, cam, high_res) -> dict:
    maps = {"cam": torch.from_numpy(background(cam)), "high_res": background(high_res)}
    return {"keys": np.pad(keys + 1, (1, 0)), **maps}


def background_without_key(keys, cam, high_res) -> dict:
    return {"keys": keys.tolist(), "cam": background(cam), "high_res": background(high_res)}


def labels_with_a_background(keys, cam, high_res) -> dict:
    """What CLIMS saves: K + 1 keys for K maps."""
    return {"keys": np.pad(keys + 1, (1, 0)), "cam": torch.from_numpy(cam), "hr_cam": high_res}


def all_classes(keys, cam, high_res) -> dict:
    whole = np.full((20, *high_res.shape[1:]), 0.5, np.float32)
    small = np.full((20, *cam.shape[1:]), 0.5, np.float32)
    whole[keys], small[keys] = high_res, cam
    return {"keys": np.arange(20), "cam": small, "high_res": whole}


def by_class(keys, cam, high_res) -> dict:
    return dict(zip(keys.tolist(), high_res, strict=True))


def by_name(keys, cam, high_res) -> dict:
    names = parse([]).info.class_names
    return {names[key]: high_res[n] for n, key in enumerate(keys)}


def channels(keys, cam, high_res) -> np.ndarray:
    return all_classes(keys, cam, high_res)["high_res"]


def channels_last(keys, cam, high_res) -> np.ndarray:
    return np.moveaxis(background(channels(keys, cam, high_res)), 0, -1)


def own_channels(keys, cam, high_res) -> np.ndarray:
    return high_res[None]


def save_torch(path: Path, content: object) -> None:
    plain = {k: torch.as_tensor(v) for k, v in content.items()}
    torch.save(plain, path.with_suffix(".pth"))


def save_npy(path: Path, content: object) -> None:
    np.save(path.with_suffix(".npy"), content)


def save_npz(path: Path, content: object) -> None:
    if isinstance(content, dict):
        np.savez_compressed(path.with_suffix(".npz"), **{str(k): v for k, v in content.items()})
    else:
        np.savez(path.with_suffix(".npz"), content)


def written(own: Own, folder: Path, form: Callable, save: Callable) -> Path:
    for image_id, maps in own.maps.items():
        save(folder / image_id, form(**maps))
    return folder


def imported(own: Own, run, source: Path, out: Path, *options: str) -> dict[str, bytes]:
    """What the step makes of a folder."""
    assert run(*own.given, "--import_maps", source, "--cam_out_dir", out, "--import_maps_pass",
               *options) == 0  # fmt: skip
    return contents(out, "npy")


@pytest.mark.parametrize(
    ("form", "save"),
    [(tensors, save_npy), (from_one, save_npy), (background_first, save_npy),
     (background_first, save_torch), (background_without_key, save_npy), (all_classes, save_npz),
     (labels_with_a_background, save_npy)],
)  # fmt: skip
def test_dicts_of_keys_come_back_to_the_last_bit(own, tmp_path, tiny_run, form, save):
    (tmp_path / "in").mkdir()
    source = written(own, tmp_path / "in", form, save)
    assert imported(own, tiny_run, source, tmp_path / "out") == own.cams()


@pytest.mark.parametrize(
    ("form", "save"),
    [(by_class, save_npy), (by_class, save_torch), (by_name, save_npz), (channels, save_npy),
     (channels_last, save_npz), (own_channels, save_npy)],
)  # fmt: skip
def test_maps_without_a_small_size_get_one(own, tmp_path, tiny_run, form, save):
    (tmp_path / "in").mkdir()
    source = written(own, tmp_path / "in", form, save)
    imported(own, tiny_run, source, tmp_path / "out")
    for image_id, maps in own.maps.items():
        found = load_cam(tmp_path / "out" / f"{image_id}.npy")
        np.testing.assert_array_equal(found["keys"], maps["keys"])
        np.testing.assert_array_equal(found["high_res"], maps["high_res"])
        assert found["cam"].shape == maps["cam"].shape
        np.testing.assert_allclose(
            found["cam"][:, 1, 2], maps["high_res"][:, 4:8, 8:12].mean(axis=(1, 2)), rtol=1e-5
        )


def test_tensors_among_the_own_maps_are_to_be_imported(own, tmp_path, tiny_run, capsys):
    written(own, tmp_path, tensors, save_npy)
    command = (*own.given, "--eval_cam_pass", "--cam_out_dir", tmp_path)
    assert tiny_run(*command) == 2
    assert "are read by --import_maps DIR" in capsys.readouterr().err
    written(own, tmp_path, labels_with_a_background, save_npy)
    assert tiny_run(*command) == 2
    assert "are read by --import_maps DIR" in capsys.readouterr().err


def as_pngs(own: Own, folder: Path, name: Callable[[str, int], str], bits: int) -> Path:
    highest, dtype = (65535, np.uint16) if bits == 16 else (255, np.uint8)
    for image_id, maps in own.maps.items():
        for key, one in zip(maps["keys"].tolist(), maps["high_res"], strict=True):
            path = folder / name(image_id, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.round(one * highest).astype(dtype)).save(path)
    return folder


@pytest.mark.parametrize(
    ("name", "bits"),
    [(lambda i, k: f"{i}_{k}.png", 16), (lambda i, k: f"{k + 1}/{i}.png", 8),
     (lambda i, k: f"{i}/{parse([]).info.class_names[k]}.png", 16)],
)  # fmt: skip
def test_pngs_of_one_class_each(own, tmp_path, tiny_run, name, bits):
    source = as_pngs(own, tmp_path / "in", name, bits)
    imported(own, tiny_run, source, tmp_path / "out")
    for image_id, maps in own.maps.items():
        found = load_cam(tmp_path / "out" / f"{image_id}.npy")
        np.testing.assert_array_equal(found["keys"], maps["keys"])
        np.testing.assert_allclose(found["high_res"], maps["high_res"], atol=0.6 / (2**bits - 1))


def test_labels_and_masks_of_imported_maps_are_the_same(own, tmp_path, tiny_run, boundary_file):
    """From maps of this project, and from the same maps as those of another one."""
    (tmp_path / "in").mkdir()
    source = written(own, tmp_path / "in", background_first, save_npy)
    steps = ("--cam_to_ir_label_pass", "--make_sem_seg_pass", "--eval_cam_pass",
             "--irn_weights_name", boundary_file)  # fmt: skip
    assert tiny_run(*own.given, *steps) == 0
    assert tiny_run(*own.given, *steps, "--import_maps", source, "--import_maps_pass") == 0
    for name in ("ir_label", "sem_seg"):
        first = contents(own.folder / name, "png")
        assert len(first) == len(own.ids)
        assert contents(own.folder / f"{name}_imported", "png") == first
    scores = load_scores(own.folder)
    assert scores["imported seed"]["miou"] == scores["RIB seed"]["miou"]


def test_the_sequence_of_imported_maps_has_no_classifier():
    steps = chosen_steps(parse(["--import_maps", "maps"]))
    args = parse(["--import_maps", "maps"])
    assert makers(args, all_steps())[args.cam_out_dir.resolve()] == "import_maps"
    assert steps[0] == "import_maps" and not {"train_cam", "make_cam"} & set(steps)
    assert not {"make_recam_with_RIB", "import_maps"} & set(
        chosen_steps(parse(["--recam", "none"]))
    )


def test_small_maps_are_enlarged(own, tmp_path, tiny_run):
    (tmp_path / "in").mkdir()
    for image_id, maps in own.maps.items():
        np.save(tmp_path / "in" / f"{image_id}.npy", {"keys": maps["keys"], "cam": maps["cam"]})
    out = tmp_path / "out"
    imported(own, tiny_run, tmp_path / "in", out)
    maps, found = own.maps[own.ids[0]], load_cam(out / f"{own.ids[0]}.npy")
    assert found["high_res"].shape == maps["high_res"].shape
    assert np.array_equal(found["cam"], maps["cam"])


class Code:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_what_is_wrong_is_said_for_every_file(own, tmp_path, tiny_run, capsys):
    source = tmp_path / "in"
    source.mkdir()
    written(own, source, by_class, save_npy)
    first, second, third, fourth, fifth, *_ = own.ids
    maps = by_class(**own.maps[first])
    np.save(source / f"{first}.npy", {key: one * np.nan for key, one in maps.items()})
    np.save(source / f"{second}.npy", {0: Code(tmp_path / "made")}, allow_pickle=True)
    (source / f"{third}.npy").unlink()
    np.save(
        source / f"{fourth}.npy", {k: m[:, :50] for k, m in by_class(**own.maps[fourth]).items()}
    )
    np.save(source / f"{fifth}.npy", {k: m * 9 for k, m in by_class(**own.maps[fifth]).items()})
    command = (*own.given, "--import_maps", source, "--cam_out_dir", tmp_path / "out")
    assert tiny_run(*command, "--import_maps_pass") == 2
    said = capsys.readouterr().err
    expected = {first: "not finite", second: "refers to", third: "has no maps of",
                fourth: "do not fit its image", fifth: "not in 0..1"}  # fmt: skip
    for image_id, text in expected.items():
        assert any(image_id in line and text in line for line in said.splitlines()), said
    assert "5 problems" in said and not (tmp_path / "made").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [("{}.png", "label maps serve as they are"), ("x{}.npy", "has no maps of the images")],
)
def test_folders_of_something_else(own, tmp_path, tiny_run, capsys, name, text):
    for image_id in own.ids:
        (tmp_path / name.format(image_id)).write_bytes(b"")
    command = (*own.given, "--import_maps_pass", "--import_maps")
    assert tiny_run(*command, tmp_path, "--cam_out_dir", own.folder / "other") == 2
    assert text in capsys.readouterr().err
    assert tiny_run(*command, tmp_path, "--cam_out_dir", tmp_path / "deep") == 2
    assert "lies in the folder of --import_maps" in capsys.readouterr().err
    assert tiny_run(*command, tmp_path, "--recam", "rib") == 2
    assert "needs --recam imported" in capsys.readouterr().err


def test_masks_of_others_are_scored_as_they_are(own, sample, tmp_path, tiny_run):
    """Palette PNGs without a seal; those of the truth have no error."""
    scored = (sample.root / "ImageSets/Segmentation/train.txt").read_text().split()
    for image_id in scored:
        with Image.open(sample.mask_path(image_id)) as truth:
            truth.save(tmp_path / f"{image_id}.png")
    assert tiny_run(*own.given, "--eval_sem_seg_pass", "--sem_seg_out_dir", tmp_path) == 0
    assert load_scores(own.folder)[f"masks of {tmp_path}"]["miou"] == [1.0]
    said = f"scored with the ground truth in {sample.mask_dirs[0]} ({len(scored)} images)"
    assert said in (own.folder / "run.log").read_text()


def maps_of(*numbers: int) -> ForeignMaps:
    return ForeignMaps(numbers, False, ())


def test_numbers_are_recognised_by_the_labels_or_asked_for():
    assert numbering_of([(maps_of(3), [3])], "maps") == "class"
    assert numbering_of([(maps_of(4), [3])], "maps") == "label"
    assert numbering_of([(maps_of(0, 4), [3])], "maps") == "label"
    # Either could be among the labels of both images, but only one numbering has all of them.
    assert numbering_of([(maps_of(3, 4), [3, 4]), (maps_of(4), [3, 4])], "maps") == "class"
    for images in ([(maps_of(4), [3, 4])], [(maps_of(3), [3]), (maps_of(8), [7])]):
        with pytest.raises(UserError, match="--import_keys label"):
            numbering_of(images, "maps")
    assert numbering_of([(maps_of(), [3])], "maps") == "class"


def test_damaged_files_are_refused(own, tmp_path, tiny_run, capsys):
    """Sizes that a file does not have, and pickles of anything else."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (20, 100000, 100000), }"
    bomb = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n"
    shared = torch.zeros(4)
    huge = torch.as_strided(shared, (2, 30000, 30000), (0, 0, 0))
    for number, image_id in enumerate(own.ids):
        path = tmp_path / f"{image_id}.npy"
        if number % 3 == 0:
            path.write_bytes(bomb)
        elif number % 3 == 1:
            np.save(path, {"keys": np.array([1, 2]), "cam": huge}, allow_pickle=True)
        else:
            path.write_bytes(pickle.dumps([1, 2, 3]))
    command = (*own.given, "--import_maps_pass", "--import_maps", tmp_path)
    assert tiny_run(*command, "--cam_out_dir", own.folder / "other") == 2
    assert "cannot be read as arrays" in capsys.readouterr().err
