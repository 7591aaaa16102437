"""misc/storage/outputs.py: only this program's own files are ever replaced."""

import json
import os

import numpy as np
import pytest

from misc.cams import save_cam
from misc.errors import UserError
from misc.labels import save_label_png
from misc.storage import outputs
from misc.storage.manifest import prepare_folder, read_manifest
from tests.tools.fuzz_inputs import npy, picture

MAP = np.full((1, 3, 5), 0.5)
WRITERS = {
    "a.png": lambda path: save_label_png(path, np.zeros((3, 5), np.uint8)),
    "a.npy": lambda path: save_cam(path, [3], MAP, MAP),
    "a.json": lambda path: outputs.write_json(path, {"a": 1}),
    "a.txt": lambda path: outputs.write_output(path, b"2012_000001\n"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_without_a_checksum_is_somebody_elses_whatever_is_in_it(tmp_path, name):
    path = tmp_path / name
    for content in (b"", b"mine", b"{}", b'{"inputs": 1, "a": 2}', npy({}), picture("PNG", "L")):
        path.write_bytes(content)
        assert outputs.output_state(path) is outputs.State.NOT_OURS and outputs.is_not_ours(path)
        with pytest.raises(UserError, match=f"{path}: was not made by this program, or was chang"):
            WRITERS[name](path)
        outputs.remove_output(path)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_own_files_are_replaced_and_removed_and_cut_ones_are_nobodys(tmp_path, name):
    path = tmp_path / name
    for _ in range(2):
        WRITERS[name](path)
        assert outputs.output_state(path) is outputs.State.WHOLE and outputs.is_own(path)
    whole = path.read_bytes()
    for kept in (0, 1, len(whole) // 2):
        path.write_bytes(whole[:kept])
        assert outputs.output_state(path) is outputs.State.NOT_OURS
    path.write_bytes(whole)
    outputs.remove_output(path)
    assert outputs.output_state(path) is outputs.State.MISSING and not outputs.is_not_ours(path)


def test_a_file_with_a_changed_byte_is_damaged_and_written_again(tmp_path):
    path = tmp_path / "a.npy"
    WRITERS["a.npy"](path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    assert outputs.output_state(path) is outputs.State.DAMAGED
    WRITERS["a.npy"](path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", ["folder", "dangling"])
def test_what_is_no_file_stays(tmp_path, kind):
    path = tmp_path / "a.txt"
    path.mkdir() if kind == "folder" else path.symlink_to(tmp_path / "none")
    with pytest.raises(UserError, match="was not made by this program"):
        outputs.write_output(path, b"1\n")
    assert path.is_dir() or path.is_symlink()


def test_a_list_holds_ids_only_and_the_manifest_its_checksum(tmp_path):
    path = tmp_path / "train.txt"
    outputs.write_output(path, b"2012_000001\n")
    assert path.read_bytes() == b"2012_000001\n" and not outputs.is_changed(path)
    assert read_manifest(tmp_path) is None
    path.write_bytes(b"2012_000002\n")
    assert outputs.is_changed(path) and not outputs.is_own(path)


def test_settings_and_checksums_share_a_manifest(tmp_path):
    folder = outputs.Output("--result_dir", tmp_path, suffix=".txt")
    prepare_folder(folder, {"version": 1, "a": 1}, {}, False)
    outputs.write_output(tmp_path / "train.txt", b"1\n")
    assert read_manifest(tmp_path) == {"version": 1, "a": 1, "inputs": {}}
    assert outputs.is_own(tmp_path / "train.txt")
    (tmp_path / "mine.txt").write_text("1\n")
    prepare_folder(folder, {"version": 1, "a": 2}, {}, True)
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "mine.txt"]


def test_a_manifest_of_the_user_stays(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text('{"name": "my application"}')
    folder = outputs.Output("--result_dir", tmp_path, suffix=".txt")
    refused = [lambda: outputs.write_output(tmp_path / "train.txt", b"1\n"),
               lambda: prepare_folder(folder, {"version": 1}, {}, False),
               lambda: prepare_folder(folder, {"version": 1}, {}, True),
               lambda: outputs.require_own(tmp_path / "b.json", in_manifest=True),
               lambda: outputs.write_json(tmp_path / "b.json", {}, in_manifest=True)]  # fmt: skip
    for write in refused:
        with pytest.raises(UserError, match=f"{path}: was not made by this program"):
            write()
    assert path.read_text() == '{"name": "my application"}'
    assert os.listdir(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize("suffixes", [(".txt", ".json"), (".txt",)])
def test_whenever_a_writer_is_killed_its_file_is_known(tmp_path, monkeypatch, suffixes):
    path = tmp_path / "train.txt"
    outputs.write_output(path, b"1\n")
    replace = os.replace

    def killed(source, target):
        if target.suffix in suffixes:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            outputs.write_output(path, b"2\n")
    assert path.read_bytes() == b"1\n" and outputs.is_own(path)
    outputs.write_output(path, b"2\n")
    assert path.read_bytes() == b"2\n" and outputs.is_own(path)


def test_a_file_whose_name_is_given_replaces_no_result_of_another_step(tmp_path):
    path = tmp_path / "a.npy"
    save_cam(path, [3], MAP, MAP)
    with pytest.raises(UserError, match="was not made by this program"):
        outputs.write_json(path, {"a": 1}, in_manifest=True)
    assert outputs.is_own(path)
    for number in range(2):
        outputs.write_json(tmp_path / "b.json", {"a": number}, in_manifest=True)
    assert json.loads((tmp_path / "b.json").read_text()) == {"a": 1}


def test_files_for_other_programs_are_never_replaced(tmp_path):
    path, target = tmp_path / "deep" / "a.png", tmp_path / "photo.jpg"
    target.write_bytes(b"photograph")
    for _ in range(2):
        outputs.write_new(path, b"one", "move it")
        outputs.link_new(tmp_path / "deep" / "a.jpg", target, "move it")
    assert (tmp_path / "deep" / "a.jpg").resolve() == target
    for write in (lambda: outputs.write_new(path, b"two", "move it"),
                  lambda: outputs.link_new(path, target, "move it")):  # fmt: skip
        with pytest.raises(UserError, match="is there with other content and stays as it is; move"):
            write()
    assert path.read_bytes() == b"one"
