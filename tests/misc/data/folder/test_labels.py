import os

import pytest

from misc.data.folder.labels import Places
from tests.misc.data.folder.conftest import save_photo

NAMES = ("a.jpg", "x/c.webp", "x/ä d.jpg", "x/1.jpg", "y/1.jpg", "z/x/2.jpg", "x/2.jpg", "v.1.jpg")


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path, NAMES)


@pytest.mark.parametrize(
    "name, path",
    [
        ("a.jpg", "a.jpg"),
        (" ./a.jpg ", "a.jpg"),
        ("x\\c.webp", "x/c.webp"),
        ("x/../a.jpg", "a.jpg"),
        ("x/2.jpg", "x/2.jpg"),  # the whole path, though it is the end of another one
        ("x/2", "x/2.jpg"),
        ("v.1", "v.1.jpg"),
        ("x/a\u0308 d.jpg", "x/ä d.jpg"),
    ],
)
def test_a_path_below_the_root_is_the_photograph(places, name, path):
    assert places.find(name) == path and not places.by_end


@pytest.mark.parametrize(
    "name, path",
    [
        ("c.webp", "x/c.webp"),
        ("c", "x/c.webp"),
        ("C:\\old\\y\\1.jpg", "y/1.jpg"),
        ("/not/here/x/1.jpg", "x/1.jpg"),
        ("../photos/y/1", "y/1.jpg"),
        ("old/z/x/2.jpg", "z/x/2.jpg"),
        ("images/a.jpg", "a.jpg"),
    ],
)
def test_otherwise_the_longest_end_of_the_path_counts_and_is_said(places, name, path):
    assert places.find(name) == path and places.by_end == {path: name}


@pytest.mark.parametrize(
    "name, words",
    [
        ("1.jpg", r"may be any of 2 \(x/1.jpg, y/1.jpg\); give its path"),
        ("1", "may be any of 2"),
        ("old/x/2.jpg", "may be any of 2"),
        ("A.jpg", "no photograph 'A.jpg' .*is it 'a.jpg'"),
        ("a.png", "no photograph 'a.png' .*is it 'a.jpg'"),
        ("q.jpg", "no photograph 'q.jpg'"),
        ("", "no photograph ''"),
        ("\0", "no photograph"),
        (os.fsdecode(b"\xff.jpg"), r"no photograph '\?.jpg'"),
    ],
)
def test_other_names_are_errors(places, name, words):
    with pytest.raises(ValueError, match=words) as refusal:
        places.find(name)
    assert str(refusal.value).isprintable()


def test_a_file_that_is_not_one_of_the_photographs_is_not_taken_for_one(places, tmp_path):
    save_photo(tmp_path / "@eaDir" / "a.jpg")
    for name in ("@eaDir/a.jpg", str(tmp_path / "@eaDir" / "a.jpg"), "x/../@eaDir/a.jpg"):
        with pytest.raises(ValueError, match="which is none of the photographs below"):
            places.find(name)
