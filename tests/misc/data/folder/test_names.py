import random

import pytest

from misc.data.folder import names

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


def test_ids_differ_where_paths_do():
    letters = "a%2E/. #~ä.jpgpn\u0301"
    rng = random.Random(0)
    paths = {
        "".join(rng.choices(letters, k=rng.randint(1, 6))).strip("/") + rng.choice(names.SUFFIXES)
        for _ in range(5000)
    }
    assert len({names.id_of(path) for path in paths}) == len(paths) > 3000


@pytest.mark.parametrize(
    "text", ["../a", "..%2Fa", "a/b", "%2Fa", "a%2F..%2Fb", "", ".", "a b", "%61", "a%00"]
)
def test_what_is_not_an_id_is_refused(text):
    assert not names.is_id(text)


def test_only_formats_that_are_read_are_photographs():
    assert names.is_photograph("a.JpEg") and names.is_photograph("x/y.TIFF")
    assert not any(names.is_photograph(name) for name in ("a.gif", "a.txt", "jpg", "a.jpg.bak"))
