"""misc/report/ and step/html_report.py: what a page holds, without a browser."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from misc.cams import load_cam
from misc.errors import UserError
from misc.labels import read_label_png
from misc.metrics import mean_iou, pseudo_mask_confusion
from misc.report.embedding import embedded
from misc.report.history import runs_of
from misc.report.pictures import SIZES, map_levels, reduced
from misc.storage.checksums import Checksum, checksum_of
from misc.storage.manifest import write_manifest
from step import html_report


def entries(page: str) -> dict[str, dict]:
    """What the script elements of a page hold, by their ids."""
    found = re.findall(r'<script type="application/json" id="(\w+)">(.*?)</script>', page)
    return {name: json.loads(text) for name, text in found}


def layers(stack: dict, count: int) -> np.ndarray:
    """The grey layers of a stack, count x h x w."""
    content = base64.b64decode(stack["src"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content))).reshape(count, *stack["size"])


@pytest.fixture
def held(result):
    html_report.run(result.args)
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    return entries(page)


def test_images_are_in_the_order_of_their_iou(result, held):
    data, info = held["data"], result.args.info
    ious = {}
    for image_id in result.ids:
        truth = read_label_png(info.mask_path(image_id))
        mask = read_label_png(result.args.sem_seg_out_dir / f"{image_id}.png")
        ious[image_id] = mean_iou(pseudo_mask_confusion(truth, mask, info.num_labels))
    assert data["images"]["ids"] == sorted(ious, key=ious.get)
    assert data["images"]["scores"] == pytest.approx(sorted(ious.values()), abs=1e-4)
    assert [held[f"i{n}"]["id"] for n in range(len(ious))] == data["images"]["ids"]
    assert data["has_truth"] and data["thresholds"]["RIB"] == data["rows"][0]["threshold"]


def test_without_truth_images_are_in_the_order_of_agreement(result, monkeypatch):
    info = result.args.info
    monkeypatch.setattr(type(info), "mask_path", lambda self, i: self.root / "no" / f"{i}.png")
    html_report.run(result.args)
    data = entries((result.folder / "report.html").read_text())["data"]
    assert not data["has_truth"] and data["confusion"] is None
    assert data["images"]["scores"] == sorted(data["images"]["scores"]) != []


def test_maps_and_masks_of_the_page_are_those_of_the_files(result, held):
    number = held["data"]["images"]["ids"].index(result.ids[0])
    entry = held[f"i{number}"]
    expected = ["CAM", "RIB"]
    assert entry["maps"]["layers"] == expected
    maps = load_cam(result.args.cam_out_dir / f"{result.ids[0]}.npy")
    stack = layers(entry["maps"], len(expected) * len(entry["keys"]))
    levels = map_levels(maps["cam"], tuple(entry["maps"]["size"]))
    assert np.array_equal(stack[-len(entry["keys"]) :], levels)
    assert entry["masks"]["titles"] == ["pseudo mask", "ground truth"]
    mask = read_label_png(result.args.sem_seg_out_dir / f"{result.ids[0]}.png")
    shown = layers(entry["masks"], 2)[0]
    assert shown.shape == reduced(mask.shape, SIZES[0].photo)
    assert shown.shape == mask.shape and np.array_equal(shown, mask)  # the sample is small


def test_the_confusion_is_that_of_the_first_mask(result, held):
    confusion, total = held["data"]["confusion"], 0
    for image_id in result.ids:
        truth = read_label_png(result.args.info.mask_path(image_id))
        mask = read_label_png(result.args.sem_seg_out_dir / f"{image_id}.png")
        total = total + pseudo_mask_confusion(truth, mask, 21)
    assert confusion["title"] == "pseudo mask"
    assert confusion["counts"] == total[np.ix_(*[confusion["labels"]] * 2)].tolist()


def test_masks_of_other_kinds_and_images_without_truth_are_not_mixed_in(result, monkeypatch):
    """An image that has a mask of the network alone, and one whose truth is not there."""
    info, (first, second, *others) = result.args.info, result.ids
    truth = info.mask_path(first)
    (result.folder / "seg").mkdir()
    (result.args.sem_seg_out_dir / f"{first}.png").rename(result.folder / "seg" / f"{first}.png")
    for folder in (result.args.cam_out_dir, result.args.plain_cam_out_dir):
        (folder / f"{first}.npy").unlink()
    own = type(info).mask_path
    monkeypatch.setattr(
        type(info), "mask_path", lambda self, i: self.root / "no" if i == second else own(self, i)
    )
    html_report.run(result.args)
    held = entries((result.folder / "report.html").read_text())
    data, numbers = held["data"], held["data"]["images"]["ids"].index
    scores = dict(zip(data["images"]["ids"], data["images"]["scores"], strict=True))
    assert scores[second] is None and scores[first] is not None
    assert held[f"i{numbers(second)}"]["ious"] == {}
    total = sum(read_label_png(own(info, i)).size for i in others)
    ignored = sum(int((read_label_png(own(info, i)) == 255).sum()) for i in others)
    assert np.sum(data["confusion"]["counts"]) == total - ignored
    labels = np.setdiff1d(read_label_png(truth), (0, 255))
    assert held[f"i{numbers(first)}"]["keys"] == [int(label) - 1 for label in labels]
    assert data["images_note"].endswith("mean over the labels of an image.")


def test_levels_are_above_a_threshold_where_the_map_is():
    values = np.float32([0, 0.004, 0.29, 0.29 + 1e-5, 0.3, 0.301, 1]).reshape(1, 1, -1)
    levels = map_levels(values, values.shape[1:])
    # A thousandth of a level is left to rounding.
    assert levels.ravel().tolist() == [0, 1, 29, 30, 30, 31, 100]


def test_a_page_is_sealed_and_replaces_no_page_of_others(result, held):
    path = result.folder / "report.html"
    assert checksum_of(path.read_bytes()) is Checksum.WHOLE
    html_report.run(result.args)  # its own it replaces
    path.write_text("mine")
    with pytest.raises(UserError, match="was not made by this program"):
        html_report.run(result.args)
    assert path.read_text() == "mine"


def test_a_page_asks_no_network_and_names_do_no_harm(result):
    html_report.run(result.args)
    page = (result.folder / "report.html").read_text()
    assert "default-src 'none'" in page and not re.findall(r"(?:src|href)=\W?https?:", page)
    assert "</script>" not in embedded({"name": "</script><script>alert(1)"})


def test_pictures_shrink_until_a_page_is_below_its_limit(result, monkeypatch):
    html_report.run(result.args)
    large = (result.folder / "report.html").stat().st_size
    monkeypatch.setattr(html_report, "MAX_BYTES", 40_000)
    html_report.run(result.args)
    assert (result.folder / "report.html").stat().st_size < large - 20_000


def test_a_damaged_file_costs_its_image_alone(result, caplog):
    (result.args.cam_out_dir / f"{result.ids[1]}.npy").write_bytes(b"nothing")
    html_report.run(result.args)
    data = entries((result.folder / "report.html").read_text())["data"]
    assert set(data["images"]["ids"]) == set(result.ids) - {result.ids[1]}
    assert "left out of the page" in caplog.text
    assert data["images_note"].startswith(f"{len(result.ids) - 1} of {len(result.ids)} images")


LOG = """RIB run log
23:59:50 all options: {"a": 1}
23:59:50 machine: {"torch": "2.6"}
23:59:50 options: {"a": 1}
23:59:52 [1/2] make_cam: plain maps
00:00:12 make_cam: 4 images in 20.0 s (5 s per image)
00:00:12 [2/2] eval_cam: scores
00:00:15 eval_cam: 4 images in 3.0 s (1 s per image)
00:00:15 drawing pictures
00:01:15 pictures: here
"""


def test_runs_are_read_from_the_log(tmp_path):
    path = tmp_path / "run.log"
    path.write_text(LOG)
    (run,) = runs_of(path)
    assert run["steps"] == [
        ["make_cam", 20.0, "4 images in 20.0 s (5 s per image)"],
        ["eval_cam", 3.0, "4 images in 3.0 s (1 s per image)"],
    ]
    assert run["machine"] == {"torch": "2.6"} and run["options"] == {"a": 1}
    assert runs_of(tmp_path / "none.log") == []


def test_report_remembers_where_the_photographs_are(result, tiny_run, sample):
    (result.folder / "lists").mkdir(exist_ok=True)
    noted = {"dataset": "voc12", "root": str(sample.root)}
    write_manifest(result.folder / "lists", noted)
    assert tiny_run("--report", "--report_html", "--result_dir", result.folder) == 0
    data = entries((result.folder / "report.html").read_text())["data"]
    assert len(data["images"]["ids"]) == len(result.ids)
