import pytest

from misc.data.folder import names
from misc.errors import UserError

AWKWARD = [
    "a.jpg", "a.JPG", "a.png", "a.jpeg", "a.png.jpg", ".hidden.jpg", "x/..b.jpg", "x/y/c d.webp",
    "%41.jpg", "100%.jpg", "a#b.jpg", "ä.jpg", "猫/犬.png", "new\nline.jpg", "tab\t.tif",
    "a|b;c.jpg", "\udcff\udcfe.jpg", "%~0123456789abcdef.jpg", "x" * 300 + ".jpg",
    "ä" * 200 + "/b.png", "C:\\.jpg", "no\u00a0break.jpg", "-rf.jpg", "'\".jpg", "..jpg.png",
]  # fmt: skip


@pytest.mark.parametrize("path", AWKWARD)
def test_an_id_is_a_file_name_that_leads_back_to_its_path(path):
    image_id = names.id_of(path)
    assert names.is_id(image_id)
    assert len(f".{image_id}.partial.123456.npy".encode()) < 255
    assert not set('/\\ \n\t\0|;#"') & set(image_id) and not image_id.startswith(".")
    assert names.is_cut(image_id) or names.path_of(image_id) == path


def test_what_is_not_an_id_is_refused():
    wrong = ["../a", "..%2Fa", "a/b", "%2Fa", "a%2F..%2Fb", "", ".", "a b", "%61", "a%00", "a%2f"]
    assert not any(map(names.is_id, wrong))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_of_classes_is_read_in_its_order(tmp_path, encoding):
    (tmp_path / "names.txt").write_bytes("zebra\r\nLöwe \ncat\n\n".encode(encoding))
    assert names.read_classes(tmp_path / "names.txt") == ("zebra", "Löwe", "cat")


@pytest.mark.parametrize("text, words", [
    ("cat\ncat\ndog\n", "line 2: has 'cat', and line 1 has 'cat'"),
    ("cat\n\ndog\n", "line 2: the name of a class is empty"),
    ("__Background__\ncat\n", "line 1: '__Background__' is not a class"),
    ("cat\nd\x0bog\n", "line 2: the name of a class 'd\\\\x0bog' has a line break"),
    ("cat\nd\u2028og\n", "line 2: .* has a line break"),
    ("cat\nCat\n", "line 2: has 'Cat', and line 1 has 'cat'"),
    ("hot dog\nhotdog\n", "line 2: has 'hotdog', and line 1 has 'hot dog'"),
    ("", "names no class"),
    (b"\xff\xfa", "is not a text in UTF-8"),
])  # fmt: skip
def test_names_that_cannot_be_classes_are_refused_with_their_line(tmp_path, text, words):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"names.txt.* {words}"):
        names.read_classes(tmp_path / "names.txt")


@pytest.mark.parametrize("name", ["C++", "hot dog", "N/A", "ä", "می‌خواهم", "'s", "1"])
def test_names_of_other_kinds_are_classes(name):
    assert names.name_problem(name) is None
    known = {"c": "C", "dog": "dog", "n": "n"}
    assert names.made_of(name, known, blanks=True) == ()
