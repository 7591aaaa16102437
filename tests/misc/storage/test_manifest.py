"""misc/storage/manifest.py: results of different settings never mix in one folder."""

import json

import numpy as np
import pytest

from misc.errors import UserError
from misc.storage.cam_files import save_dict
from misc.storage.manifest import (
    Sources,
    check_folder,
    file_hash,
    folder_hash,
    ids_hash,
    make_writable,
    prepare_folder,
    read_manifest,
    require_writable,
    settings_difference,
)
from misc.storage.outputs import Output

OPTIONS = {"step": "make_cam", "scales": (1.0, 0.5), "limit": None}
INPUTS = {"classifier": "abc"}


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


def test_a_new_folder_says_what_made_it(folder):
    check_folder(folder, OPTIONS)
    assert not folder.path.exists()
    prepare_folder(folder, OPTIONS, INPUTS, overwrite=False)
    noted = {"step": "make_cam", "scales": [1.0, 0.5], "limit": None, "inputs": INPUTS}
    assert names(folder) == ["manifest.json"] and read_manifest(folder.path) == noted


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_settings_go_on(full_folder, overwrite):
    check_folder(full_folder, OPTIONS)
    prepare_folder(full_folder, OPTIONS, INPUTS, overwrite)
    assert names(full_folder) == ["a.npy", "b.npy", "manifest.json", "notes.txt"]


@pytest.mark.parametrize(
    "options, inputs, words",
    [
        ({**OPTIONS, "limit": 3}, INPUTS, "limit is None there and 3 now"),
        ({**OPTIONS, "scales": (1.0,)}, INPUTS, r"scales is \[1.0, 0.5\] there and \[1.0\] now"),
        ({"step": "make_cam"}, INPUTS, "scales is"),
        (OPTIONS, {"classifier": "xyz"}, "classifier is abc there and xyz now"),
        (OPTIONS, {**INPUTS, "labels": "1"}, "labels is None there and 1 now"),
    ],
)
def test_other_settings_are_refused_or_redone(full_folder, options, inputs, words):
    before = (full_folder.path / "manifest.json").read_text()
    with pytest.raises(UserError, match=f"--out_dir .*out: .*{words}.*--overwrite"):
        prepare_folder(full_folder, options, inputs, overwrite=False)
    assert (full_folder.path / "manifest.json").read_text() == before
    assert names(full_folder) == ["a.npy", "b.npy", "manifest.json", "notes.txt"]
    prepare_folder(full_folder, options, inputs, overwrite=True)
    assert names(full_folder) == ["manifest.json", "notes.txt"]
    assert read_manifest(full_folder.path)["inputs"] == inputs
    check_folder(full_folder, options)


def test_inputs_may_still_be_made_when_a_folder_is_checked(full_folder):
    check_folder(full_folder, OPTIONS)
    with pytest.raises(UserError, match="limit is None there and 3 now"):
        check_folder(full_folder, {**OPTIONS, "limit": 3})


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_unknown_origin_are_never_removed(full_folder, overwrite):
    (full_folder.path / "manifest.json").unlink()
    for claim in (prepare_folder, lambda f, o, _, w: check_folder(f, o, w)):
        with pytest.raises(UserError, match="holds 2 .npy files and no manifest.json") as refusal:
            claim(full_folder, OPTIONS, INPUTS, overwrite)
        assert "--overwrite" not in str(refusal.value)
    assert names(full_folder) == ["a.npy", "b.npy", "notes.txt"]


def test_overwrite_removes_sealed_files_alone_and_says_how_many(full_folder, caplog):
    np.save(full_folder.path / "by_hand.npy", {"keys": np.arange(3)})
    caplog.set_level("INFO")
    prepare_folder(full_folder, {**OPTIONS, "limit": 3}, INPUTS, overwrite=True)
    assert names(full_folder) == ["by_hand.npy", "manifest.json", "notes.txt"]
    assert f"--out_dir {full_folder.path}: 2 files removed" in caplog.text


def test_a_folder_of_another_step_is_never_redone(full_folder):
    other = {**OPTIONS, "step": "make_recam_with_RIB"}
    for claim in (prepare_folder, lambda f, o, _, w: check_folder(f, o, w)):
        with pytest.raises(UserError, match="holds the files of make_cam; give another") as refusal:
            claim(full_folder, other, INPUTS, True)
        assert "--overwrite" not in str(refusal.value)
    assert "a.npy" in names(full_folder)


def test_files_of_another_kind_do_not_matter(folder):
    folder.path.mkdir(parents=True)
    (folder.path / "notes.txt").touch()
    prepare_folder(folder, OPTIONS, INPUTS, overwrite=False)
    assert names(folder) == ["manifest.json", "notes.txt"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"[" * 100000])
def test_a_damaged_manifest_is_named(full_folder, content):
    (full_folder.path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match="manifest.json: is damaged.*remove the folder"):
        prepare_folder(full_folder, OPTIONS, INPUTS, overwrite=False)


def test_a_manifest_of_another_form_is_of_no_step(full_folder):
    (full_folder.path / "manifest.json").write_text(json.dumps([1, 2]))
    with pytest.raises(UserError, match="holds the files of another program"):
        prepare_folder(full_folder, OPTIONS, INPUTS, overwrite=False)


def test_differences_are_told_apart_from_forms():
    assert settings_difference({"a": [1, 2]}, {"a": (1, 2)}) == ""
    assert settings_difference({"a": 1, "inputs": {"b": 2}}, {"a": 1, "inputs": {"b": 2}}) == ""
    assert settings_difference({"a": 1}, {"a": 2, "c": 3}) == (
        "a is 1 there and 2 now, c is None there and 3 now"
    )


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"--out_dir {bad}: cannot be written"):
            make_writable(bad, "--out_dir")
        with pytest.raises(UserError, match=f"--out_dir {bad}: cannot be written"):
            require_writable(bad, "--out_dir")
    require_writable(tmp_path / "a" / "b", "--out_dir")
    assert not (tmp_path / "a").exists()
    make_writable(tmp_path / "a" / "b", "--out_dir")
    assert not list((tmp_path / "a" / "b").iterdir())


def test_digests_stand_for_content(tmp_path, full_folder):
    (tmp_path / "one").write_bytes(b"1" * 3_000_000)
    (tmp_path / "same").write_bytes(b"1" * 3_000_000)
    (tmp_path / "other").write_bytes(b"1" * 2_999_999 + b"2")
    one, same, other = (file_hash(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other and len(one) == 16
    assert ids_hash(("a", "b")) == ids_hash(("a", "b")) != ids_hash(("b", "a"))
    before = folder_hash(full_folder.path)
    prepare_folder(full_folder, OPTIONS, INPUTS, overwrite=False)
    assert folder_hash(full_folder.path) == before
    prepare_folder(full_folder, {**OPTIONS, "limit": 3}, INPUTS, overwrite=True)
    assert folder_hash(full_folder.path) != before
    assert "no manifest" in folder_hash(tmp_path)


# --- images ---------------------------------------------------------------------------------------


def test_files_of_images_that_changed_go_and_others_stay(full_folder):
    first = Sources({"a": "1", "b": "1"})
    prepare_folder(full_folder, OPTIONS, INPUTS, False, first)
    assert names(full_folder) == ["a.npy", "b.npy", "manifest.json", "notes.txt"]
    digest = folder_hash(full_folder.path)
    prepare_folder(full_folder, OPTIONS, INPUTS, False, Sources({"b": "2", "c": "1"}))
    assert names(full_folder) == ["a.npy", "manifest.json", "notes.txt"]
    assert read_manifest(full_folder.path)["images"] == {"a": "1", "b": "2", "c": "1"}
    assert folder_hash(full_folder.path) == digest  # what is made of the others stays, too


def test_a_list_that_images_are_drawn_from_may_grow_and_not_shrink(full_folder):
    prepare_folder(full_folder, OPTIONS, INPUTS, False, Sources(drawn=("a", "b")))
    prepare_folder(full_folder, OPTIONS, INPUTS, False, Sources(drawn=("b", "c", "a")))
    fewer = Sources(drawn=("a", "b"))
    with pytest.raises(UserError, match=r"1 image of the train list that are not in it now \(c\)"):
        prepare_folder(full_folder, OPTIONS, INPUTS, False, fewer)
    assert "a.npy" in names(full_folder)
    prepare_folder(full_folder, OPTIONS, INPUTS, True, fewer)
    assert names(full_folder) == ["manifest.json", "notes.txt"]


def test_images_that_differ_are_named():
    noted = {"images": {"a": "1 0", "b": "1 0", "c": "1 0"}}
    now = {"images": {"a": "2 0", "b": "1 1", "d": "1 0"}}
    assert settings_difference(noted, now) == (
        "1 image only now (d), 1 image only there (c), 1 image with another photograph (a), "
        "1 image with other labels (b)"
    )
    assert settings_difference(noted, noted) == ""
    turned = {"images": dict(reversed(noted["images"].items()))}
    assert settings_difference(noted, turned) == "the images are in another order"
