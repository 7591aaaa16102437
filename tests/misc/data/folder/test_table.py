import tracemalloc

import pytest

from misc.data.folder.labels import Places
from misc.data.folder.table import read_table
from misc.errors import UserError

NAMES = ("a.jpg", "b.png", "x/c.webp", "x/ä d.jpg")


@pytest.fixture
def read(tmp_path):
    """Names of the classes by path, from the text of a table; all problems raise."""

    def call(text, encoding="utf-8", **options):
        (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        found = read_table(tmp_path / "t.csv", Places(tmp_path, NAMES), **options)
        found.problems.raise_all()
        return found

    return call


FORMS = [
    "image,labels\na.jpg,cat;dog\nb.png,\n",
    "a.jpg,cat;dog\nb.png,\n",  # no first line that names the columns
    "a.jpg,cat|dog\nb.png,\n",
    "a.jpg,cat,dog\nb.png,,\n",
    "Datei;Klasse;Klasse\na.jpg;cat;dog\nb.png;;\n",
    "image\tlabels\na.jpg\tcat;dog\nb.png\t\n",
    "image,cat,dog\na.jpg,1,1\nb.png,0,0\n",
    "image,cat,dog\na.jpg,1,True\nb.png,0.0,\n",
    'image,labels,when\n"a.jpg"," cat ; dog ",2024\nb,,2024\n\n',
    "image,labels\r\n./a.jpg,dog;cat;dog\r\nb.png,\r\n",
]


@pytest.mark.parametrize("text", FORMS)
def test_every_usual_form_of_a_table_is_understood(read, text):
    found = read(text)
    assert {path: set(names) for path, names in found.names.items()} == {
        "a.jpg": {"cat", "dog"}, "b.png": set(),
    }  # fmt: skip
    assert found.classes == ("cat", "dog")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_of_spreadsheets_are_read(read, encoding):
    found = read("image,label\nx/ä d.jpg,Löwe\n", encoding)
    assert found.names == {"x/ä d.jpg": ("Löwe",)}


def test_a_photograph_is_found_by_its_name_alone_or_in_the_other_unicode_form(read):
    found = read("image,label\nc.webp,one\na\u0308 d,two\n")
    assert found.names == {"x/c.webp": ("one",), "x/ä d.jpg": ("two",)}


def test_a_column_for_each_class_keeps_its_order(read):
    assert read("image,zebra,ant\na.jpg,0,1\n").classes == ("zebra", "ant")


def test_rows_that_say_the_same_are_counted(read):
    assert read("a.jpg,cat;dog\na.jpg,dog;cat\n").repeated == 1


WRONG = [
    ("image,label\na.jpg,cat\na.jpg,dog\n", "line 3: a.jpg has dog here and cat in line 2"),
    ("image,label\nz.jpg,cat\n", "line 2: there is no photograph 'z.jpg'"),
    ("image,label\n../a.jpg,cat\n", "line 2: '../a.jpg' leaves the folder"),
    ("image,label\n/etc/a.jpg,cat\n", "line 2: '/etc/a.jpg' leaves the folder"),
    ("a.jpg,0,1\nb.png,1,0\n", "no first line that names them"),
    ("image,cat,dog\na.jpg,1,0\nb.png,2,0\n" + "a.jpg,1,0\n", "no photograph|expected|'2'|b.png"),
    ("image,cat,cat\na.jpg,1,0\n", "has the column 'cat' twice"),
    ("image\na.jpg\n", "has no two columns"),
    ("", "has no two columns"),
    (b"a.jpg,\xff\xfe\xfa\n", "is not a text in UTF-8"),
    (b"\x89PNG\0\0,\0\n", "is not a text"),
    ("a.jpg," + "x" * (9 << 20), "has a line of more than 8 million characters"),
]


@pytest.mark.parametrize("text, words", WRONG)
def test_what_is_wrong_with_a_table_is_said_with_its_line(read, text, words):
    if "|" in words:
        found = read(text)  # a 2 makes it a table of names
        assert found.names["b.png"] == ("2", "0")
        return
    with pytest.raises(UserError) as error:
        read(text)
    assert words in str(error.value) and "t.csv" in str(error.value)


def test_an_ambiguous_name_is_an_error(tmp_path):
    places = Places(tmp_path, ("x/a.jpg", "y/a.jpg"))
    with pytest.raises(ValueError, match="may be any of 2"):
        places.find("a.jpg")
    assert places.find("y/a.jpg") == "y/a.jpg"


def test_a_cell_that_is_neither_0_nor_1_is_named(read):
    rows = "".join("a.jpg,1,0\n" for _ in range(60))
    with pytest.raises(UserError, match="line 62: has 'maybe' in the column 'dog'"):
        read(f"image,cat,dog\n{rows}b.png,1,maybe\n")


def test_rows_of_photographs_that_are_not_there_are_left_out_on_request(read):
    found = read("image,label\na.jpg,cat\nz.jpg,bird\n", skip_unknown=True)
    assert found.names == {"a.jpg": ("cat",)} and "bird" not in found.classes


def test_a_photograph_is_not_taken_for_one_whose_case_differs(read):
    with pytest.raises(UserError, match=r"line 2: there is no photograph 'B.PNG' .*is it 'b.png'"):
        read("image,label\nB.PNG,cat\n")


def test_a_longer_table_of_other_images_takes_no_more_memory(tmp_path):
    def peak(rows):
        text = "image,label\na.jpg,cat\n" + "".join(f"other/{i}.jpg,c{i}\n" for i in range(rows))
        (tmp_path / "t.csv").write_text(text)
        tracemalloc.start()
        read_table(tmp_path / "t.csv", Places(tmp_path, NAMES), skip_unknown=True)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(6000) - peak(2000) < 200_000
