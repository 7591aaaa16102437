"""Photographs of a folder tree, and what is passed over there."""

import os

import pytest

from misc.data.folder.dataset import describe
from misc.data.folder.photographs import Tree, files_below
from misc.errors import UserError
from tests.misc.data.folder.conftest import save_photo

LEFT = ("@eaDir", "Thumbs.db", "desktop.ini", ".DS_Store", "__MACOSX", "._a.jpg", "#recycle",
        "$RECYCLE.BIN", "System Volume Information", "lost+found", ".ipynb_checkpoints", "a.jpg~",
        "@Recycle", ".AppleDouble", "Thumbs", ".picasa.ini", ".Trash-1000", "FOUND.000",
        "a.jpg@SynoEAStream", "~$labels.csv", "#a.xml#")  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_systems_disks_and_editors_leave_is_passed_over(name, tmp_path):
    for path in (f"cat/{name}/a.jpg/thumb.jpg", f"{name}/b.jpg", "cat/a.jpg"):
        save_photo(tmp_path / path)
    tree = Tree(tmp_path)
    assert tree.photographs == ("cat/a.jpg",)
    assert tree.passed == ({} if name.startswith(".") else {name: 2})
    assert describe(tmp_path, labels=None).class_names == ("cat",)


@pytest.mark.parametrize("name", ["thumbs up", "thumbs", "lost", "#1.jpg", "found.jpg", "@home"])
def test_other_names_are_not_passed_over(name, tmp_path):
    save_photo(tmp_path / name / "a.jpg")
    assert Tree(tmp_path).photographs == (f"{name}/a.jpg",)


def test_a_linked_folder_that_leaves_the_root_is_counted(tmp_path):
    for name in ("photos/a.jpg", "other/b.jpg", "other/deep/c.jpg", "photos/in/d.jpg"):
        save_photo(tmp_path / name)
    os.symlink(tmp_path / "other", tmp_path / "photos" / "link")
    os.symlink(tmp_path / "photos" / "in", tmp_path / "photos" / "again")
    tree = Tree(tmp_path / "photos")
    assert tree.links == {"link/": 2}
    # A folder has the same path whatever the links to it are called.
    assert tree.photographs == ("a.jpg", "in/d.jpg", "link/b.jpg", "link/deep/c.jpg")


def test_links_in_circles_end(tmp_path):
    save_photo(tmp_path / "x" / "a.jpg")
    os.symlink(tmp_path, tmp_path / "x" / "up")
    os.symlink("self", tmp_path / "self")
    assert files_below(tmp_path)[0] == ["self", "x/a.jpg"]


@pytest.mark.parametrize("name", [b"x\xff.jpg", b"x\ny.jpg"])
def test_names_that_no_list_can_hold_are_one_line(tmp_path, name):
    save_photo(tmp_path / "a.jpg")
    (tmp_path / os.fsdecode(b"\xff.txt")).touch()  # other files may be called anything
    assert Tree(tmp_path).photographs == ("a.jpg",)
    save_photo(tmp_path / os.fsdecode(name))
    words = f"{tmp_path}.* (is not UTF-8|has a lin).*rename it"
    with pytest.raises(UserError, match=words) as error:
        Tree(tmp_path)
    assert str(error.value).isprintable()
