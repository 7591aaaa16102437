import json

import pytest

from misc.data.folder.annotations import read_coco, read_xml_folder
from misc.data.folder.labels import Places, from_sub_folders, read_classes, settled
from misc.errors import UserError

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.png"}],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {"image_id": 1, "category_id": 7}, {"image_id": 1, "category_id": 7, "iscrowd": 1},
        {"image_id": 1, "category_id": 3},
    ],
}  # fmt: skip


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path, ("a.jpg", "b.png"))


def coco(tmp_path, places, **changes):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(COCO | changes))
    found = read_coco(path, places)
    found.problems.raise_all()
    return found


def test_instances_of_coco_give_labels(tmp_path, places):
    found = coco(tmp_path, places)
    assert {k: set(v) for k, v in found.names.items()} == {"a.jpg": {"cat", "dog"}, "b.png": set()}
    assert found.classes == ("cat", "dog")  # in the order of their ids


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"images": 3}, "is not a file of instances"),
        ({"categories": [{"id": "x", "name": "dog"}]}, "is not a file of instances"),
        ({"annotations": [{"image_id": 9, "category_id": 7}]}, "image 9 and category 7"),
        ({"images": [{"id": 1, "file_name": "../a.jpg"}], "annotations": []}, "leaves the folder"),
    ],
)
def test_broken_instances_are_named(tmp_path, places, changes, words):
    with pytest.raises(UserError, match=words):
        coco(tmp_path, places, **changes)


def test_xml_files_give_labels(tmp_path, places):
    objects = "<object><name>dog</name></object><object><name>cat</name></object>"
    folder = tmp_path / "xml"
    folder.mkdir()
    (folder / "1.xml").write_text(f"<annotation><filename>a.jpg</filename>{objects}</annotation>")
    (folder / "b.xml").write_text("<annotation><filename>other.jpg</filename></annotation>")
    found = read_xml_folder(folder, places)
    found.problems.raise_all()
    assert found.names == {"a.jpg": ("dog", "cat"), "b.png": ()}


@pytest.mark.parametrize(
    "text",
    ["<annotation>", '<!DOCTYPE a [<!ENTITY b "bbb">]><annotation>&b;</annotation>', "\0\0"],
)
def test_a_broken_xml_file_is_named(tmp_path, places, text):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match=r"a\.xml: cannot be read"):
        read_xml_folder(tmp_path, places).problems.raise_all()


def test_the_nearest_folder_names_the_class(tmp_path):
    found = from_sub_folders(tmp_path, ("train/cat/1.jpg", "dog/2.jpg", "3.jpg"))
    assert found.names == {"train/cat/1.jpg": ("cat",), "dog/2.jpg": ("dog",)}


def test_a_list_of_classes_gives_the_order(tmp_path, places):
    (tmp_path / "classes.txt").write_text("zebra\ndog\ncat\n")
    found = coco(tmp_path, places)
    labels = settled(found, read_classes(tmp_path / "classes.txt"), "t.csv")
    assert labels.classes == ("zebra", "dog", "cat") and labels.of["a.jpg"] == (1, 2)


@pytest.mark.parametrize(
    "classes, words",
    [
        (("cat",), "the class 'dog' .of 1 images. is not in --classes; add it there"),
        (("cat", "Dog"), "is it 'Dog'"),
        (("cat", "dog", "DOG"), "differ in case"),
        (tuple(map(str, range(65_533))) + ("cat", "dog"), "at most 65534"),
    ],
)
def test_classes_that_do_not_fit_are_named(tmp_path, places, classes, words):
    with pytest.raises(UserError, match=words):
        settled(coco(tmp_path, places), classes, "t.csv")
