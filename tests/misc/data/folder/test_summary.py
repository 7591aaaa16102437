"""What the check and the run say of a folder of photographs, and of names that do not fit."""

import os

import numpy as np
import pytest

from misc.errors import UserError
from misc.labels import save_label_png
from tests.misc.data.folder.conftest import save_photo

TABLE = "image,labels\na.jpg,cat;dog\nb.png,\nc.webp,cat\n"


@pytest.fixture
def said(described, caplog):
    """What is logged of a table of the photographs."""

    def call(table, **options):
        with caplog.at_level("INFO"):
            described(table, **options).log_contents()
        return "\n".join(caplog.messages)

    return call


def test_classes_with_their_numbers_and_two_photographs_are_said(said, photos):
    text = said(TABLE)
    assert f"{photos}: 3 photographs with labels of 2 classes: cat 2, dog 1" in text
    assert "for example a.jpg: cat; dog\nfor example b.png: no class" in text
    assert "1 photograph found by the end of the path, such as x/c.webp for 'c.webp'" in text
    assert "1 photograph without any class" in text and "3 photographs without labels" in text


def test_a_linked_folder_that_leaves_the_root_is_said(said, photos, tmp_path):
    save_photo(tmp_path / "far" / "z.jpg")
    os.symlink(tmp_path / "far", photos / "link")
    assert f"{photos / 'link'}: is a link that leaves the folder; 1 photograph came" in said(TABLE)


def test_a_list_of_classes_that_was_found_is_named_where_it_does_not_fit(said, photos):
    (photos / "classes.txt").write_text("dog\n")
    with pytest.raises(UserError) as refusal:
        said(TABLE)
    line = str(refusal.value)
    assert "labels.csv, line 2: " in line and f"'cat' (of 2 images) is not in {photos}/cl" in line
    (photos / "classes.txt").write_text("dog\ncat\n")
    assert f"in the order of {photos / 'classes.txt'}" in said(TABLE)


def test_a_wrong_table_is_not_followed_by_lines_of_photographs_without_a_row(described):
    with pytest.raises(UserError) as refusal:
        described("image,labels\na.jpg,cat\nb.png,cat,dog\n", unlabelled="error")
    assert len(str(refusal.value).splitlines()) == 1


def test_masks_with_other_names_are_about_the_masks(described, photos, tmp_path):
    from misc.data.folder.prepare import prepare

    for name in ("a_mask.png", "b_mask.png", "Thumbs.db"):
        (tmp_path / "masks").mkdir(exist_ok=True)
        save_label_png(tmp_path / "masks" / name, np.zeros((16, 24), np.uint8))
    with pytest.raises(UserError) as refusal:
        prepare(described(TABLE, masks=tmp_path / "masks"), tmp_path / "lists")
    line = str(refusal.value)
    assert f"--masks {tmp_path / 'masks'}: has no mask of {photos / 'a.jpg'}" in line
    assert "looked for were a.png, a.jpg.png;" in line and "2 files, such as a_mask.png" in line
    assert not (tmp_path / "lists").exists()


def test_an_empty_folder_of_masks_is_said(described, photos, tmp_path):
    from misc.data.folder.prepare import prepare

    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="it has no files: give the masks"):
        prepare(described(TABLE, masks=tmp_path / "masks"), tmp_path / "lists")


def test_masks_of_no_photograph_are_said(described, tmp_path, caplog):
    from misc.data.folder.prepare import prepare

    for name in ("a.png", "b_mask.png"):
        (tmp_path / "masks").mkdir(exist_ok=True)
        save_label_png(tmp_path / "masks" / name, np.zeros((16, 24), np.uint8))
    prepare(described(TABLE, masks=tmp_path / "masks"), tmp_path / "lists")
    assert "1 PNG file of no photograph with a label, such as b_mask.png" in caplog.text
