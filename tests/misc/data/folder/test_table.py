import pytest

from misc.data.folder.labels import settled
from misc.data.folder.table import FORM, read_table
from misc.errors import UserError

NAMES = ("a.jpg", "b.png", "x/c.webp", "x/ä d.jpg")


@pytest.fixture
def read(tmp_path, tree_of):
    """Labels from the text of a table, with their classes; all problems raise."""

    def call(text):
        (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        found = read_table(tmp_path / "t.csv", tree_of(*NAMES))
        settled(found, None)
        return found

    return call


@pytest.fixture
def refused(read):
    """Lines of the refusal of a table."""

    def call(text):
        with pytest.raises(UserError, match="t.csv") as refusal:
            read(text)
        return str(refusal.value).splitlines()

    return call


@pytest.mark.parametrize("text", [
    "image,labels\na.jpg,cat;dog\nb.png,\n",
    " Labels , FILENAME \ncat;dog,a.jpg\n,b.png\n",
    "file;label\na.jpg;cat|dog\nb.png;\n",
    "image\tlabels\na.jpg\tcat;dog\nb.png\t\n",
    "image,cat,dog\na.jpg,1,1\nb.png,0,0\n",
    "cat,image,dog\nTRUE,a.jpg, 1\n,b.png,False\n",
    'image,labels\n"a.jpg"," cat ; dog ;cat"\nb,\n\n,\n',
    "image,labels\r\n./a.jpg,dog;cat;dog\r\n\r\nb.png,\r\n",
    "image,labels\ra.jpg,dog;cat\rb.png,\r",
])  # fmt: skip
def test_the_declared_form_is_read(read, text):
    found = read(text)
    shown = {path: set(names) for path, names in found.names.items()}
    assert shown == {"a.jpg": {"cat", "dog"}, "b.png": set()}
    assert found.classes == ("cat", "dog")


def test_tables_of_spreadsheets_are_read(read):
    for encoding in ("utf-8-sig", "utf-16"):
        found = read("image,label\nx/ä d.jpg,Löwe\nx/ä d.jpg,Löwe\n".encode(encoding))
        assert found.names == {"x/ä d.jpg": ("Löwe",)} and found.repeated == 1


@pytest.mark.parametrize("text, classes", [
    ("image,label\na.jpg,NA\nb.png,null\n", ("NA", "null")),
    ("image,zebra,ant\na.jpg,0,1\n", ("zebra", "ant")),
    ("image,labels\na.jpg,hot dog\nb.png,dog\n", ("dog", "hot dog")),
    ("image,screen,door,screen door\na.jpg,1,0,0\nb.png,0,1,0\nc.webp,0,0,1\n",
     ("screen", "door", "screen door")),
])  # fmt: skip
def test_names_of_classes_are_what_the_table_says(read, text, classes):
    assert read(text).classes == classes


@pytest.mark.parametrize("text, line, words", [
    ("a.jpg,cat\nb.png,dog\n", 1, "no column is called image"),
    ("image\na.jpg\n", 1, "has no column of labels"),
    ("Unnamed: 0,image,cat\n0,b.png,1\n", 1, "the further column 'Unnamed: 0'; take it out"),
    ("image,filename,label\na.jpg,a.jpg,cat\n", 1, "the further column 'filename'"),
    ("image,cat,Cat\na.jpg,1,0\n", 1, "has the column 'Cat' twice"),
    ('image,"cat, dog",bird\na.jpg,1,0\n', 1, "the column 'cat, dog' is called as if"),
    ('image,"house\ncat",dog\na.jpg,1,0\n', 1, "has a line break"),
    ("image,Background,cat\na.jpg,1,0\n", 1, "'Background' is not a class: the background is lab"),
    ("image,labels\na.jpg,cat\nb.png,cat,,,dog\n", 3, "has cells beyond the 2 of the head"),
    ("image,labels\na.jpg,cat\n,dog\n", 3, "names no photograph"),
    ("image,cat,dog\na.jpg,1,0\nb.png,2,0\n", 3, "'2' in the column 'cat' is not 0 or 1"),
    ('image,labels\na.jpg,"cat, dog"\nb.png,cat\n', 2, "has 'cat, dog', which would be one class"),
    ('image,labels\na.jpg,dog\nb.png,"house\ncat"\n', 3, "'house\\ncat' has a line break"),
    ("image,labels\na.jpg,dog\nb.png,ca\u200bt\n", 3, "has a line break or an unseen"),
])  # fmt: skip
def test_the_first_wrong_line_is_shown_with_head_and_form(refused, text, line, words):
    (first,) = refused(text)
    head, row = (text.splitlines() + ["", ""])[:2]
    row = row if line == 1 else text.splitlines()[line - 1]
    assert f"line {line}: " in first and words in first and first.endswith(FORM)
    assert '"' in text or not head or f"The head is '{head}'" in first
    assert '"' in text or row[:5] in first


@pytest.mark.parametrize("cell", ["cat/dog", "cat + dog", "cat dog", "cat_dog", "dog and cat",
                                  "cat\\dog", "cat - Dog", "cat->dog", "cat dog cat"])  # fmt: skip
def test_a_class_that_is_made_of_others_is_refused(refused, cell):
    (line,) = refused(f"image,labels\na.jpg,cat\nb.png,dog\nc.webp,{cell}\n")
    assert "line 4: " in line and "is made of the classes" in line and line.endswith(FORM)


@pytest.mark.parametrize("text, words", [
    ("image,label\na.jpg,cat\nb.png,Cat\n", "line 3: 'b.png,Cat': the classes 'cat' and 'Cat' dif"),
    ("image,label\na.jpg,0\nb.png,1\n", "has 0 and 1 in place of names"),
    ("image," + "a" * 200_000 + "\na.jpg,1\n", "line 1: field larger than"),
    ("image,label\na.jpg,cat\na.jpg,dog\n", "line 3: 'a.jpg,dog': a.jpg has dog here and cat in"),
    ("image,label\nz.jpg,cat\n", "line 2: 'z.jpg,cat': there is no photograph 'z.jpg'"),
    ("image,label\na.jpg,\n", "has no class for any"),
    (b"image,label\na.jpg,\xff\xfe\xfa\n", "is not a text in UTF-8"),
    ("image,label\na.jpg," + "x" * (9 << 20), "has a line of over 8 million characters"),
    ('image,label\na.jpg,"cat\nb.png,dog\n', "a quotation mark without its other one"),
    (f"image,label\nb.png,cat\na.jpg,{'x' * 200_000}\n", "or a cell longer than 131072"),
])  # fmt: skip
def test_what_else_is_wrong_is_one_line(refused, text, words):
    (line,) = refused(text)
    assert words in line


def test_of_many_rows_of_no_photograph_the_first_are_shown(refused):
    lines = refused("image,labels\n" + "z.jpg,cat\n" * 30)
    assert len(lines) == 21 and lines[-1] == "20 problems: 20 rows"
