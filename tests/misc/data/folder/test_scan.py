import os

import pytest

from misc.data.folder.dataset import describe
from misc.data.folder.scan import Walk, is_left_behind, look_into
from misc.errors import UserError
from tests.misc.data.folder.conftest import save_photo

LEFT = ("@eaDir", "Thumbs.db", "desktop.ini", ".DS_Store", "__MACOSX", "._a.jpg", "#recycle",
        "$RECYCLE.BIN", "System Volume Information", "lost+found", ".ipynb_checkpoints", "a.jpg~",
        "@Recycle", ".AppleDouble", "Thumbs", ".picasa.ini", ".Trash-1000", "FOUND.000",
        "a.jpg@SynoEAStream", "~$labels.csv", "#a.xml#")  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_systems_disks_and_editors_leave_is_passed_over(name, tmp_path):
    save_photo(tmp_path / "cat" / "a.jpg")
    save_photo(tmp_path / "cat" / name / "a.jpg" / "thumb.jpg")
    save_photo(tmp_path / name / "b.jpg")
    tree = look_into(tmp_path)
    assert tree.photographs == ("cat/a.jpg",)
    assert tree.passed == ({} if name.startswith(".") else {name: 2})


@pytest.mark.parametrize("name", ["thumbs up", "a.jpg", "lost", "#1.jpg", "found.jpg", "@home"])
def test_other_names_are_not_passed_over(name):
    assert not is_left_behind(name)


def test_sub_folders_that_a_nas_made_are_no_classes(tmp_path, caplog):
    for name in ("cat/p0.jpg", "cat/p1.jpg", "dog/p4.jpg", "cat/@eaDir/p0.jpg/SYNO_THUMB_M.jpg"):
        save_photo(tmp_path / name)
    scan = describe(tmp_path, labels=None).scan()
    assert scan.labels.classes == ("cat", "dog") and len(scan.labels.of) == 3
    assert "@eaDir (1)" in scan.tree.left_out()


def test_a_linked_folder_that_leaves_the_root_is_counted(tmp_path):
    for name in ("photos/a.jpg", "other/b.jpg", "other/deep/c.jpg", "photos/in/d.jpg"):
        save_photo(tmp_path / name)
    os.symlink(tmp_path / "other", tmp_path / "photos" / "link")
    os.symlink(tmp_path / "photos" / "in", tmp_path / "photos" / "again")
    tree = look_into(tmp_path / "photos")
    assert tree.links == {"link/": 2}
    # A folder has the same path whatever the links to it are called.
    assert tree.photographs == ("a.jpg", "in/d.jpg", "link/b.jpg", "link/deep/c.jpg")


def test_links_in_circles_end(tmp_path):
    save_photo(tmp_path / "x" / "a.jpg")
    os.symlink(tmp_path, tmp_path / "x" / "up")
    os.symlink("self", tmp_path / "self")
    assert sorted(Walk(tmp_path).files()) == ["self", "x/a.jpg"]


@pytest.mark.parametrize(
    "name, words", [(b"x\xff.jpg", "its name is not UTF-8"), (b"x\ny.jpg", "has a line break")]
)
def test_names_that_no_list_can_hold_are_one_line(tmp_path, name, words):
    save_photo(tmp_path / "a.jpg")
    save_photo(tmp_path / os.fsdecode(name))
    with pytest.raises(UserError, match=words) as refusal:
        look_into(tmp_path)
    text = str(refusal.value)
    assert text.isprintable() and text.startswith(str(tmp_path)) and "rename it" in text


def test_other_files_may_be_called_anything(tmp_path):
    save_photo(tmp_path / "a.jpg")
    (tmp_path / os.fsdecode(b"\xff.txt")).touch()
    assert look_into(tmp_path).others == 1
