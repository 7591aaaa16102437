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
from misc.report.history import runs_of
from misc.report.images import embedded
from misc.report.pictures import map_levels
from misc.storage.checksums import Checksum, checksum_of
from misc.storage.scores import load_scores
from step import html_report


def page_of(result) -> tuple[str, dict[str, dict]]:
    """The page, and what its script elements hold, by their ids."""
    html_report.run(result.args)
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="(\w+)">(.*?)</script>', page)
    return page, {name: json.loads(text) for name, text in found}


def layers(stack: dict, count: int) -> np.ndarray:
    """The grey layers of a stack, count x h x w."""
    content = base64.b64decode(stack["src"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content))).reshape(count, *stack["size"])


def confusion_of(result, image_id: str) -> np.ndarray:
    """Confusion of the pseudo mask of an image."""
    truth = read_label_png(result.args.info.mask_path(image_id))
    mask = read_label_png(result.args.sem_seg_out_dir / f"{image_id}.png")
    return pseudo_mask_confusion(truth, mask, 21)


def test_a_page_has_images_by_their_iou_tables_and_charts(result):
    page, held = page_of(result)
    images, score = held["data"]["images"], load_scores(result.folder)["RIB seed"]
    ious = {image_id: mean_iou(confusion_of(result, image_id)) for image_id in result.ids}
    assert images["ids"] == sorted(ious, key=ious.get)
    assert images["scores"] == pytest.approx(sorted(ious.values()), abs=1e-4)
    assert [held[f"i{n}"]["id"] for n in range(len(ious))] == images["ids"]
    assert held["data"]["thresholds"]["RIB"] == score["thresholds"][score["best"]]
    assert f"<td>{100 * score['miou'][score['best']]:.2f}</td>" in page
    assert f"<th>cat</th>\n      <td>{100 * score['iou']['cat']:.1f}</td>" in page
    assert page.count('<img class="chart" src="data:image/svg') == 2
    assert "default-src 'none'" in page and not re.findall(r"(?:src|href)=\W?https?:", page)


def test_maps_and_masks_of_the_page_are_those_of_the_files(result):
    held = page_of(result)[1]
    entry = held[f"i{held['data']['images']['ids'].index(result.ids[0])}"]
    assert entry["maps"]["layers"] == ["CAM", "RIB"]
    assert entry["masks"]["titles"] == ["pseudo mask", "ground truth"]
    maps = load_cam(result.args.cam_out_dir / f"{result.ids[0]}.npy")
    levels = map_levels(maps["cam"], tuple(entry["maps"]["size"]))
    stack = layers(entry["maps"], 2 * len(levels))
    assert np.array_equal(stack[-len(levels) :], levels)
    mask = read_label_png(result.args.sem_seg_out_dir / f"{result.ids[0]}.png")
    assert np.array_equal(layers(entry["masks"], 2)[0], mask)  # the sample is small


def test_a_page_has_a_checksum_and_replaces_no_page_of_others(result):
    path = result.folder / "report.html"
    page_of(result)
    assert checksum_of(path.read_bytes()) is Checksum.WHOLE
    page_of(result)  # its own it replaces
    path.write_text("mine")
    with pytest.raises(UserError, match="was not made by this program"):
        html_report.run(result.args)
    assert path.read_text() == "mine"
    assert "</script>" not in embedded({"name": "</script><script>alert(1)"})


def test_a_damaged_file_costs_its_image_alone(result, caplog):
    (result.args.cam_out_dir / f"{result.ids[1]}.npy").write_bytes(b"nothing")
    assert set(page_of(result)[1]["data"]["images"]["ids"]) == set(result.ids) - {result.ids[1]}
    assert "left out of the report" in caplog.text


LOG = """RIB run log
23:59:50 all options: {"a": 1}
23:59:50 machine: {"torch": "2.6"}
23:59:50 options: {"a": 1}
23:59:52 [1/2] make_cam: CAMs
00:00:12 [2/2] eval_cam: scores
00:00:15 making the pictures
00:01:15 pictures: here
"""


def test_runs_are_read_from_the_log(tmp_path):
    path = tmp_path / "run.log"
    path.write_text(LOG)
    (run,) = runs_of(path)
    assert run["steps"] == [["make_cam", 20], ["eval_cam", 3], ["pictures", 60]]
    assert run["machine"] == {"torch": "2.6"} and run["options"] == {"a": 1}
    assert runs_of(tmp_path / "none.log") == []
