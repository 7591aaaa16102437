import json

import pytest

from misc.data.folder.annotations import read_coco
from misc.data.folder.classes import made_of, name_problem, read_classes
from misc.data.folder.labels import Places, settled
from misc.errors import UserError
from tests.misc.data.folder.test_annotations import COCO


@pytest.fixture
def found(tmp_path):
    (tmp_path / "i.json").write_text(json.dumps(COCO))
    return read_coco(tmp_path / "i.json", Places(tmp_path, ("a.jpg", "b.png")))


@pytest.fixture
def classes(tmp_path):
    """Names from the bytes or text of a file."""

    def call(text, encoding="utf-8"):
        content = text if isinstance(text, bytes) else text.encode(encoding)
        (tmp_path / "names.txt").write_bytes(content)
        return read_classes(tmp_path / "names.txt")

    return call


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_of_classes_gives_the_order(found, classes, encoding):
    labels = settled(found, classes("zebra\r\ndog \ncat\n\n", encoding), "i.json")
    assert labels.classes == ("zebra", "dog", "cat") and labels.of["a.jpg"] == (1, 2)


@pytest.mark.parametrize(
    "text, words",
    [
        ("cat\ncat\ndog\n", "names.txt, line 2: has 'cat', as line 1 has"),
        ("cat\n\ndog\n", "names.txt, line 2: the name of a class is empty"),
        ("background\ncat\n", "names.txt, line 1: 'background' is not a class"),
        ("__Background__\ncat\n", "names.txt, line 1: '__Background__' is not a class"),
        ("cat\nd\x0bog\n", "names.txt, line 2: the name of a class 'd\\\\x0bog' has a line break"),
        ("cat\nd\u2028og\n", "names.txt, line 2: .* has a line break"),
        ("cat\nCat\n", "names.txt: the classes 'cat' and 'Cat' differ in case"),
        ("hot dog\nhotdog\n", "names.txt: the classes 'hot dog' and 'hotdog' differ in case, bl"),
        ("", "names.txt: names no class"),
        (b"\xff\xfa", "names.txt: is not a text in UTF-8"),
    ],
)
def test_names_that_cannot_be_classes_are_refused_with_their_line(classes, text, words):
    with pytest.raises(UserError, match=words):
        classes(text)


@pytest.mark.parametrize(
    "given, words",
    [
        (("cat",), r"i\.json: categories\[0\]: the class 'dog' .of 1 image. is not in names.txt"),
        (("cat", "Dog"), "is it 'Dog'"),
        (("cat", "dog", "cat+dog"), r"the class 'cat\+dog' is made of the classes 'cat' and 'dog'"),
        (tuple(map(str, range(65_533))) + ("cat", "dog"), "at most 65534"),
    ],
)
def test_classes_that_do_not_fit_are_named_with_both_files(found, given, words):
    with pytest.raises(UserError, match=words):
        settled(found, given, "i.json", "names.txt")


@pytest.mark.parametrize("name", ["C++", "hot dog", "N/A", "ä", "می‌خواهم", "'s", "1"])
def test_names_of_other_kinds_are_classes(name):
    assert name_problem(name) is None
    known = {"c": "C", "dog": "dog", "n": "n"}
    assert made_of(name, known, blanks=True) == ()
