"""misc/storage/manifest.py: results of different settings never mix in one folder."""

import numpy as np
import pytest

from misc.errors import UserError
from misc.storage import manifest
from misc.storage.cam_files import save_dict
from misc.storage.manifest import (
    Sources,
    check_folder,
    file_hash,
    folder_hash,
    prepare_folder,
    read_manifest,
    settings_difference,
)
from misc.storage.outputs import Output

OPTIONS = {"step": "make_cam", "scales": (1.0, 0.5), "limit": None}
INPUTS = {"classifier": "abc"}
ALL = ["a.npy", "b.npy", "manifest.json", "notes.txt"]


@pytest.fixture
def folder(tmp_path):
    return Output("--out_dir", tmp_path / "new" / "out", suffix=".npy")


@pytest.fixture
def full_folder(folder):
    prepare_folder(folder, OPTIONS, INPUTS, overwrite=False)
    for name in ("a.npy", "b.npy"):
        save_dict(folder.path / name, {"keys": np.arange(3)})
    (folder.path / "notes.txt").touch()
    return folder


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


def refusals(folder, options, overwrite):
    """Messages of the check and of the run."""
    for step in (lambda: check_folder(folder, options, overwrite),
                 lambda: prepare_folder(folder, options, INPUTS, overwrite)):  # fmt: skip
        with pytest.raises(UserError) as refusal:
            step()
        yield str(refusal.value)


def test_a_new_folder_says_what_made_it_and_the_same_settings_go_on(folder):
    check_folder(folder, OPTIONS)
    assert not folder.path.exists()
    folder.path.mkdir(parents=True)
    (folder.path / "notes.txt").touch()  # files of another kind do not matter
    prepare_folder(folder, OPTIONS, INPUTS, overwrite=False)
    recorded = {"step": "make_cam", "scales": [1.0, 0.5], "limit": None, "inputs": INPUTS}
    assert read_manifest(folder.path) == recorded
    save_dict(folder.path / "a.npy", {"keys": np.arange(3)})
    for overwrite in (False, True):
        prepare_folder(folder, OPTIONS, INPUTS, overwrite)
        assert names(folder) == ["a.npy", "manifest.json", "notes.txt"]


@pytest.mark.parametrize("options, inputs, words", [
    ({**OPTIONS, "limit": 3}, INPUTS, "limit is None there and 3 now"),
    ({**OPTIONS, "scales": (1.0,)}, INPUTS, r"scales is \[1.0, 0.5\] there and \[1.0\] now"),
    ({"step": "make_cam"}, INPUTS, "scales is"),
    (OPTIONS, {"classifier": "xyz"}, "classifier is abc there and xyz now"),
    (OPTIONS, {**INPUTS, "labels": "1"}, "labels is None there and 1 now"),
])  # fmt: skip
def test_other_settings_are_refused_or_redone(full_folder, options, inputs, words, caplog):
    np.save(full_folder.path / "by_hand.npy", {"keys": np.arange(3)})
    with pytest.raises(UserError, match=f"--out_dir .*out: .*{words}.*--overwrite"):
        prepare_folder(full_folder, options, inputs, overwrite=False)
    assert read_manifest(full_folder.path)["inputs"] == INPUTS
    assert names(full_folder) == sorted([*ALL, "by_hand.npy"])
    caplog.set_level("INFO")
    prepare_folder(full_folder, options, inputs, overwrite=True)
    assert names(full_folder) == ["by_hand.npy", "manifest.json", "notes.txt"]
    assert f"--out_dir {full_folder.path}: 2 files removed" in caplog.text
    assert read_manifest(full_folder.path)["inputs"] == inputs
    check_folder(full_folder, options)


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_unknown_origin_and_of_another_step_are_never_removed(full_folder, overwrite):
    for line in refusals(full_folder, {**OPTIONS, "step": "make_recam_with_RIB"}, overwrite):
        assert "holds the files of make_cam; give another" in line and "--overwrite" not in line
    (full_folder.path / "manifest.json").unlink()
    for line in refusals(full_folder, OPTIONS, overwrite):
        assert "holds 2 .npy files and no manifest.json" in line and "--overwrite" not in line
    assert names(full_folder) == ["a.npy", "b.npy", "notes.txt"]


def test_files_of_images_that_changed_go_and_others_stay(full_folder):
    first = Sources({"a": "1", "b": "1"})
    prepare_folder(full_folder, OPTIONS, INPUTS, False, first)
    before = folder_hash(full_folder.path)
    assert names(full_folder) == ALL
    prepare_folder(full_folder, OPTIONS, INPUTS, False, Sources({"b": "2", "c": "1"}))
    assert names(full_folder) == ["a.npy", "manifest.json", "notes.txt"]
    assert read_manifest(full_folder.path)["images"] == {"a": "1", "b": "2", "c": "1"}
    assert folder_hash(full_folder.path) == before  # what is made of the others stays, too


def test_a_list_that_images_are_drawn_from_may_grow_and_not_shrink(full_folder):
    prepare_folder(full_folder, OPTIONS, INPUTS, False, Sources(drawn=("a", "b")))
    prepare_folder(full_folder, OPTIONS, INPUTS, False, Sources(drawn=("b", "c", "a")))
    fewer = Sources(drawn=("a", "b"))
    with pytest.raises(UserError, match=r"1 image that left the train list \(c\)"):
        prepare_folder(full_folder, OPTIONS, INPUTS, False, fewer)
    assert names(full_folder) == ALL
    prepare_folder(full_folder, OPTIONS, INPUTS, True, fewer)
    assert names(full_folder) == ["manifest.json", "notes.txt"]


def test_differences_are_named():
    assert settings_difference({"a": [1, 2]}, {"a": (1, 2)}) == ""
    told = settings_difference({"a": 1}, {"a": 2, "c": 3})
    assert told == "a is 1 there and 2 now, c is None there and 3 now"
    there = {"images": {"a": "1 0", "b": "1 0", "c": "1 0"}}
    now = {"images": {"a": "2 0", "b": "1 1", "d": "1 0"}}
    assert settings_difference(there, now) == (
        "1 image only now (d), 1 image only there (c), 1 image with another photograph (a), "
        "1 image with other labels (b)"
    )


def test_hashes_stand_for_content(tmp_path, full_folder):
    for name, last in {"one": b"1", "same": b"1", "other": b"2"}.items():
        (tmp_path / name).write_bytes(b"1" * 2_999_999 + last)
    assert file_hash(tmp_path / "one") == file_hash(tmp_path / "same")
    assert file_hash(tmp_path / "one") != file_hash(tmp_path / "other")
    assert manifest.ids_hash(("a", "b")) != manifest.ids_hash(("b", "a"))
    before = folder_hash(full_folder.path)
    prepare_folder(full_folder, OPTIONS, INPUTS, overwrite=False)
    assert folder_hash(full_folder.path) == before
    prepare_folder(full_folder, {**OPTIONS, "limit": 3}, INPUTS, overwrite=True)
    assert folder_hash(full_folder.path) != before
    assert "no manifest" in folder_hash(tmp_path)
