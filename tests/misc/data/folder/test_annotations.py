import json

import pytest

from misc.data.folder.annotations import read_coco, read_xml_folder
from misc.errors import UserError

DOG, CAT = "<object><name>dog</name></object>", "<object><name>cat</name></object>"


def image(number, name):
    return {"id": number, "file_name": name}


A, B = image(1, "a.jpg"), image(2, "b.png")
CLASSES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
SHOWN = [{"image_id": 1, "category_id": 7}, {"image_id": 1, "category_id": 7, "iscrowd": 1},
         {"image_id": 1, "category_id": 3}]  # fmt: skip
COCO = {"images": [A, B], "categories": CLASSES, "annotations": SHOWN}


@pytest.fixture
def coco(tmp_path, tree_of):
    """Labels from a file of instances with changes; all problems raise."""

    def call(**changes):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(COCO | changes))
        found = read_coco(path, tree_of("a.jpg", "b.png"))
        found.problems.raise_all()
        return found

    return call


def test_instances_of_coco_give_labels(coco):
    found = coco()
    assert {k: set(v) for k, v in found.names.items()} == {"a.jpg": {"cat", "dog"}, "b.png": set()}
    assert found.classes == ("cat", "dog")  # in the order of their ids


@pytest.mark.parametrize("changes, words", [
    ({"images": 3}, "its images are not a list"),
    ({"images": [A, image(1, "b.png")]}, r"images\[1\]: has the id 1 of .*images\[0\]"),
    ({"images": [A, image(2, "./a.jpg")]}, r"images\[1\]: a.jpg is in .*images\[0\] already"),
    ({"images": [A, image(2, None)]}, r"images\[1\]: its file_name is missing or null"),
    ({"images": [A, image(True, "b.png")]}, r"images\[1\]: its id is true"),
    ({"images": [image(1, "z/zz.jpg")]}, r"images\[0\]: there is no photograph 'z/zz.jpg'"),
    ({"categories": [*CLASSES, {"id": 0, "name": " dog"}]}, r"categories\[2\]: has the name 'dog'"),
    ({"categories": [{"id": 3, "name": "ca\nt"}]}, r"categories\[0\]: .*'ca\\nt' has a line br"),
    ({"annotations": [{"image_id": 9, "category_id": 7}]}, r"annotations\[0\]: is of image 9"),
    ({"annotations": [{"image_id": 1, "category_id": 9}]}, "is of category 9, which the file"),
    ({"annotations": [{"image_id": 1}]}, r"annotations\[0\]: its category_id is missing"),
])  # fmt: skip
def test_broken_instances_are_named_with_the_entry(coco, changes, words):
    with pytest.raises(UserError, match=rf"(?s)instances\.json.*{words}"):
        coco(**changes)


@pytest.mark.parametrize("text", ["[]", "{", "\0", '{"images": {}}', "3", "[" * 99_999])
def test_other_json_files_are_refused_with_the_form(tmp_path, tree_of, text):
    (tmp_path / "i.json").write_text(text)
    with pytest.raises(UserError, match=r"i\.json: is not a file of COCO's .*has lists of im"):
        read_coco(tmp_path / "i.json", tree_of("a.jpg"))


@pytest.fixture
def xml(tmp_path, tree_of):
    """Labels from XML files by name of their text; all problems raise."""

    def call(photographs=("a.jpg", "b.png"), **files):
        for name, text in files.items():
            path = tmp_path / "xml" / f"{name.replace('__', '/')}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        found = read_xml_folder(tmp_path / "xml", tree_of(*photographs))
        found.problems.raise_all()
        return found

    return call


def named(filename, objects=""):
    return f"<annotation><filename>{filename}</filename>{objects}</annotation>"


def test_xml_files_give_labels(xml):
    left = {"._a": "\0", "@eaDir__a": "\0"}  # by systems
    found = xml(first=named("a.jpg", DOG + CAT + DOG), b=named("other.jpg"), **left)
    assert found.names == {"a.jpg": ("dog", "cat"), "b.png": ()}
    said = "1 of 2 XML files have a <filename> that is not there, such as 'other.jpg'"
    assert said in " ".join(found.notes)


def test_exchanged_file_names_are_never_exchanged_labels(xml):
    words = "a.xml: by its own name it is of a.jpg.* <filename> 'b.png' of b.png.*\n.*b.xml"
    with pytest.raises(UserError, match=words):
        xml(a=named("b.png", DOG), b=named("a.jpg", CAT))


@pytest.mark.parametrize("stale", ["B.PNG", "b.jpg", "C:\\old\\b.png", "b", "/x/b.png"])
def test_a_stale_file_name_counts_whatever_its_folder_case_and_suffix(xml, stale):
    with pytest.raises(UserError, match="by its own name it is of a.jpg"):
        xml(a=named(stale, DOG))
    assert xml(a=named(stale.replace("b", "a").replace("B", "A"), DOG)).names == {"a.jpg": ("dog",)}


def test_files_of_one_photograph_or_of_none_are_named(xml):
    with pytest.raises(UserError, match=r"z\.xml: a\.jpg is in .*a\.xml already; keep one"):
        xml(a=named("a.jpg", DOG), z=named("a.jpg", DOG))
    with pytest.raises(UserError, match=r"z\.xml: there is no photograph of its name in .*'y.jpg'"):
        xml(a=named("a.jpg", DOG), z=named("y.jpg", DOG))


def test_folders_and_file_names_decide_between_photographs_of_one_name(xml):
    photographs = ("x/a.jpg", "y/a.jpg", "c.jpg", "c.png")
    found = xml(photographs, x__a=named("a.jpg", DOG), y__a=named("a.jpg", CAT), c=named("c.png"))
    assert found.names == {"x/a.jpg": ("dog",), "y/a.jpg": ("cat",), "c.png": ()}
    with pytest.raises(UserError, match=r"a\.xml: may be of any of 2 photographs \(x/a.jpg, y/a"):
        xml(photographs, a=named("a.jpg", DOG))


@pytest.mark.parametrize("text, words", [
    ('<annotations><image name="a.jpg"><box label="cat"/></image></annotations>', "<annotati"),
    (f'<annotation xmlns="http://x.org">{DOG}</annotation>', "its root is <{http://x.org}ann"),
    (named("a.jpg", "<Object><Name>dog</Name></Object>"), "it has <Object> in <annotation>"),
    (named("a.jpg", "<object><n>dog</n></object>"), "an <object> has no <name>"),
    (named("a.jpg", "<object><name>a</name><name>b</name></object>"), "has 2 <name>"),
    (named("a.jpg", "<object><name>a</name><deleted>1</deleted></object>"), "<deleted>"),
    (named("a.jpg", "<object><name>Background</name></object>"), "is not a class"),
    ("<annotation/>", "it has no <filename>"),
    ('<!DOCTYPE a [<!ENTITY b "bbb">]><annotation>&b;</annotation>', "cannot be read"),
])  # fmt: skip
def test_what_is_not_pascal_is_refused_with_the_form(xml, text, words):
    with pytest.raises(UserError, match="export the annotations as Pascal VOC") as refusal:
        xml(a=text)
    (line,) = str(refusal.value).splitlines()
    assert words in line and "a.xml: " in line


def test_what_annotation_programs_write_as_pascal_is_read(xml):
    before = "<folder>p</folder><filename>a.jpg</filename><path>C:\\p\\a.jpg</path><source/><size/>"
    box = "<bndbox><xmin>1</xmin></bndbox><part><name>head</name></part>"
    objects = f"<object><name>dog\n</name><difficult>1</difficult>{box}</object>"
    text = f'<annotation verified="yes">{before}<segmented>0</segmented>{objects}</annotation>'
    assert xml(a=text).names == {"a.jpg": ("dog",)}
