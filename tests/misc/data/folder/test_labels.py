"""Photographs found by names, labels checked as a whole, and the log that shows them."""

import os

import pytest

from misc.data.folder.labels import Found, from_sub_folders, settled
from misc.errors import UserError
from tests.misc.data.folder.conftest import save_photo

NAMES = ("a.jpg", "x/c.webp", "x/ä d.jpg", "x/1.jpg", "y/1.jpg", "z/x/2.jpg", "x/2.jpg", "v.1.jpg")


@pytest.fixture
def places(tree_of):
    return tree_of(*NAMES)


@pytest.mark.parametrize("name, path, whole", [
    (" ./a.jpg ", "a.jpg", True), ("x\\c.webp", "x/c.webp", True), ("x/../a.jpg", "a.jpg", True),
    ("x/2.jpg", "x/2.jpg", True),  # the whole path, though it is the end of another one
    ("x/2", "x/2.jpg", True), ("v.1", "v.1.jpg", True), ("x/a\u0308 d.jpg", "x/ä d.jpg", True),
    ("c", "x/c.webp", False), ("C:\\old\\y\\1.jpg", "y/1.jpg", False),
    ("/not/here/x/1.jpg", "x/1.jpg", False), ("../photos/y/1", "y/1.jpg", False),
    ("old/z/x/2.jpg", "z/x/2.jpg", False), ("images/a.jpg", "a.jpg", False),
])  # fmt: skip
def test_a_name_is_a_path_or_the_longest_end_of_one_which_is_said(places, name, path, whole):
    assert places.find(name) == path and places.by_end == ({} if whole else {path: name})


@pytest.mark.parametrize("name, words", [
    ("1.jpg", r"may be any of 2 \(x/1.jpg, y/1.jpg\); give its path"), ("1", "may be any of 2"),
    ("old/x/2.jpg", "may be any of 2"), ("A.jpg", "no photograph 'A.jpg' .*is it 'a.jpg'"),
    ("a.png", "no photograph 'a.png' .*is it 'a.jpg'"), ("", "no photograph ''"),
    ("\0", "no photograph"), (os.fsdecode(b"\xff.jpg"), r"no photograph '\?.jpg'"),
])  # fmt: skip
def test_other_names_are_errors(places, name, words):
    with pytest.raises(ValueError, match=words) as refusal:
        places.find(name)
    assert str(refusal.value).isprintable()


def test_a_file_that_is_not_one_of_the_photographs_is_not_taken_for_one(places):
    save_photo(places.root / "@eaDir" / "a.jpg")
    for name in ("@eaDir/a.jpg", str(places.root / "@eaDir" / "a.jpg"), "x/../@eaDir/a.jpg"):
        with pytest.raises(ValueError, match="is none of the photographs below"):
            places.find(name)


def test_the_nearest_folder_names_the_class(tree_of):
    found = from_sub_folders(tree_of("train/cat/1.jpg", "dog/2.jpg", "3.jpg"))
    assert found.names == {"train/cat/1.jpg": ("cat",), "dog/2.jpg": ("dog",)}
    with pytest.raises(UserError, match="'Background' is not a class: .*table with --labels"):
        settled(from_sub_folders(tree_of("Background/1.jpg")), None)


@pytest.fixture
def found(tree_of):
    """Labels of two photographs: a dog with a cat, and nothing."""
    found = Found(tree_of("a.jpg", "b.png"), "i.json", "row")
    found.add("i.json, line 1", "a.jpg", ("cat", "dog"))
    found.add("i.json, line 2", "b.png", ())
    found.where, found.classes = {"dog": "i.json, line 1"}, ("cat", "dog")
    return found


def test_a_list_of_classes_gives_the_order(found):
    labels = settled(found, ("zebra", "dog", "cat"), "names.txt")
    assert labels.classes == ("zebra", "dog", "cat") and labels.of["a.jpg"] == (1, 2)


@pytest.mark.parametrize("given, words", [
    (("cat",), r"i\.json, line 1: the class 'dog' .of 1 image. is not in names.txt"),
    (("cat", "Dog"), "is it 'Dog'"),
    (("cat", "dog", "cat+dog"), r"the class 'cat\+dog' is made of the classes 'cat' and 'dog'"),
    (tuple(map(str, range(65_533))) + ("cat", "dog"), "at most 65534"),
])  # fmt: skip
def test_classes_that_do_not_fit_are_named_with_both_files(found, given, words):
    with pytest.raises(UserError, match=words):
        settled(found, given, "names.txt")


TABLE = "image,labels\na.jpg,cat;dog\nb.png,\nc.webp,cat\n"


def test_classes_with_their_numbers_and_two_photographs_are_said(described, photos, caplog):
    caplog.set_level("INFO")
    described(TABLE).log_contents()
    text = "\n".join(caplog.messages)
    assert f"{photos}: 3 photographs with labels of 2 classes: cat 2, dog 1" in text
    assert "for example a.jpg: cat; dog\nfor example b.png: no class" in text
    assert "1 photograph found by the end of the path, such as x/c.webp for 'c.webp'" in text
    assert "1 photograph without any class" in text and "3 photographs without labels" in text


def test_a_list_of_classes_that_was_found_is_named_where_it_does_not_fit(described, photos):
    (photos / "classes.txt").write_text("dog\n")
    with pytest.raises(UserError, match=r"labels.csv, line 2: .*'cat' \(of 2 .*/classes.txt"):
        described(TABLE).scan()
    (photos / "classes.txt").write_text("dog\ncat\n")
    assert described(TABLE).class_names == ("dog", "cat")
