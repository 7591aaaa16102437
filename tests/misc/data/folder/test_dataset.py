import logging
import os

import numpy as np
import pytest

from misc.data.dataset_info import read_image_list
from misc.data.datasets import image_of, mask_of
from misc.data.folder import names
from misc.data.folder.dataset import defaults_for, describe
from misc.data.folder.prepare import prepare, validation_split
from misc.data.label_file import load_labels
from misc.errors import UserError
from misc.labels import save_label_png
from tests.misc.data.folder.conftest import save_photo

TABLE = "image,labels\na.jpg,cat\nb.png,dog\nx/c.webp,cat;dog\nx/d e.tif,\nx/y/ä#%1.JPG,cat\n"


def listed(info, folder, name):
    return read_image_list(folder / f"{name}.txt", info)


def test_all_photographs_of_a_tree_are_found_by_their_ids(photos, described, tmp_path):
    info = described(TABLE + "x/y/a.jpeg,dog\n", unlabelled="error")
    prepare(info, tmp_path / "lists")
    ids = listed(info, tmp_path / "lists", "all")
    paths = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    assert [names.path_of(i) for i in ids] == paths and len(ids) == 6
    for image_id in ids:
        assert image_of(info, image_id).shape == (*info.image_size(image_id), 3) == (16, 24, 3)
    labels = load_labels(tmp_path / "lists" / "cls_labels.npz", ids, info)
    shown = {names.path_of(i): labels[i].tolist() for i in ids}
    assert info.class_names == ("cat", "dog")
    assert shown == {"a.jpg": [1, 0], "b.png": [0, 1], "x/c.webp": [1, 1], "x/d e.tif": [0, 0],
                     "x/y/ä#%1.JPG": [1, 0], "x/y/a.jpeg": [0, 1]}  # fmt: skip
    table = (tmp_path / "lists" / "photographs.txt").read_text(encoding="utf-8")
    assert f"{names.id_of('x/d e.tif')}\tx/d e.tif\n" in table


def test_a_list_may_have_paths_ids_and_names_with_spaces(photos, described, tmp_path):
    info = described(TABLE)
    text = f"x/d e.tif\n\n# comment\n{names.id_of('x/y/ä#%1.JPG')}\n{photos / 'b.png'}\n./a.jpg\n"
    text += "c.webp\nC:\\old\\y\\a.jpeg\n"  # found by the end of the path
    (tmp_path / "list.txt").write_text(text)
    found = "|".join(map(names.path_of, read_image_list(tmp_path / "list.txt", info)))
    assert found == "x/d e.tif|x/y/ä#%1.JPG|b.png|a.jpg|x/c.webp|x/y/a.jpeg"
    for wrong in ("old/z.jpg", "/etc/passwd", "x/readme.txt"):
        (tmp_path / "list.txt").write_text(f"{wrong}\n")
        with pytest.raises(UserError, match=r"list\.txt"):
            read_image_list(tmp_path / "list.txt", info)


def test_other_files_are_left_out_and_counted(photos, described, caplog):
    for name in ("notes.txt", "raw.CR2", "moving.gif", ".hidden.jpg"):
        (photos / name).write_bytes(b"x")
    os.symlink(photos, photos / "circle")
    with caplog.at_level(logging.INFO):
        described(TABLE).log_contents()
    said = " ".join(caplog.messages)
    assert "left out: 1 .cr2, 1 .gif, 1 .txt" in said and "circle" not in said


def test_photographs_without_a_row_are_all_named(described):
    with pytest.raises(UserError, match="(?s)b.png.*d e.tif.*a.jpeg.*--unlabelled"):
        described("image,labels\na.jpg,cat\nx/c.webp,dog\n", unlabelled="error")


def test_a_folder_without_photographs_says_what_it_has(tmp_path, described):
    save_photo(tmp_path / "raw" / "1.HEIC", format="PNG")
    with pytest.raises(UserError, match=r"has no photographs .*1 \.heic"):
        described(TABLE, root=tmp_path / "raw")


def test_masks_are_found_beside_their_photographs_and_by_name_alone(photos, described, tmp_path):
    labels = np.zeros((16, 24), np.uint8)
    labels[4:9, 5:] = 2
    masks = photos / "masks"  # inside of the root: they are no photographs
    for path, name in (("b.png", "b.png"), ("x/c.webp", "x/c.png"), ("x/d e.tif", "d e.png")):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        save_label_png(masks / name, labels)
        info = described(TABLE, masks=masks)
        assert np.array_equal(mask_of(info, names.id_of(path)), labels)
    prepare(info, tmp_path / "lists")
    scored = listed(info, tmp_path / "lists", "eval")
    assert sorted(map(names.path_of, scored)) == ["b.png", "x/c.webp", "x/d e.tif"]
    assert "masks/b.png" not in info.scan().tree.photographs


def test_a_tenth_of_every_class_is_in_the_validation_split():
    of = [(0,)] * 40 + [(1,)] * 20 + [(2,)] * 9 + [()] * 10 + [(0, 2)]
    classes = {f"image{n}": of_image for n, of_image in enumerate(of)}
    chosen = validation_split(classes)
    counts = [sum(index in classes[i] for i in chosen) for index in range(3)]
    assert counts == [4, 2, 1] and len(chosen) == len(set(chosen)) in (7, 8)
    assert validation_split(dict(reversed(classes.items()))) == chosen  # whatever their order


@pytest.mark.parametrize("images", [1, 24, 100_000])
def test_defaults_suit_the_number_of_photographs(images):
    chosen = defaults_for(images, 500, 20)
    assert all(1 <= chosen[f"{name}_batch_size"] <= max(1, images // 3) for name in ("cam", "RIB"))
    assert 5 <= chosen["cam_num_epoches"] <= 60 and 3 <= chosen["irn_num_epoches"] <= 30
    if images > 10_000:  # the paper's
        papers = {"cam_batch_size": 16, "cam_num_epoches": 5, "cam_learning_rate": 0.1,
                  "cam_long": (320, 640), "cam_crop_size": 512, "irn_num_epoches": 3,
                  "seg_iterations": 30_000, "seg_crop_size": 321, "seg_batch_size": 10}  # fmt: skip
        assert papers.items() <= chosen.items()
    else:  # few images are those of a laptop
        assert chosen["cam_long"] == (240, 480) and chosen["cam_crop_size"] == 384
        assert chosen["seg_iterations"] <= 1_120 and chosen["seg_crop_size"] == 177


def test_lists_and_labels_of_sub_folders_open_no_photograph(tree_of, tmp_path):
    many = [f"class {number // 20}/{number % 20}.jpg" for number in range(200)]
    tree = tree_of(*many, "class 0/A.jpg", "class 0/a.jpg", "alone.jpg")  # all of them empty
    info = describe(tree.root, labels=None, unlabelled="skip")
    prepare(info, tmp_path / "lists")
    numbers = [len(listed(info, tmp_path / "lists", name)) for name in ("all", "val", "train")]
    assert numbers == [202, 20, 182] and info.num_classes == 10
    assert listed(info, tmp_path / "lists", "unlabelled") == ("alone",)
