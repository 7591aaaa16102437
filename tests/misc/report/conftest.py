"""A result folder of the synthetic sample with maps that stand for those of a run."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from misc.cams import label_map, save_cam
from misc.cli.options import Options, parse
from misc.data.dataset_info import DatasetInfo
from misc.imutils import get_strided_size
from misc.labels import read_label_png, save_label_png
from misc.metrics import ThresholdScores, score_of
from misc.storage.scores import save_score

AT = (0.2, 0.3, 0.4)


class Result(NamedTuple):
    """A result folder, its options and images, and the options as the command line has them."""

    folder: Path
    args: Options
    ids: tuple[str, ...]
    given: tuple[str, ...]


def blurred_truth(info: DatasetInfo, image_id: str, sigma: float) -> dict[str, np.ndarray]:
    """Maps of an image: its ground truth, blurred; one class after the other, peak 1."""
    truth = read_label_png(info.mask_path(image_id))
    keys = np.setdiff1d(np.unique(truth), (0, 255)).astype(int) - 1
    maps = [cv2.GaussianBlur((truth == key + 1).astype(np.float32), (0, 0), sigma) for key in keys]
    maps = np.stack([one / one.max() for one in maps])
    size = get_strided_size(truth.shape, 4)[::-1]
    cam = np.stack([cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in maps])
    return {"keys": keys, "cam": cam, "high_res": maps}


@pytest.fixture
def result(sample, tmp_path) -> Result:
    folder = tmp_path / "result"
    given = ("--result_dir", str(folder), "--voc12_root", str(sample.root))
    lists = folder / "lists"
    lists.mkdir(parents=True)
    ids = tuple((sample.root / "ImageSets/Segmentation/train.txt").read_text().split())
    lists.joinpath("train_aug.txt").write_text("\n".join(ids))
    args = parse(list(given))
    for place in (args.plain_cam_out_dir, args.cam_out_dir, args.sem_seg_out_dir):
        place.mkdir(parents=True)
    scores = ThresholdScores(AT, sample.num_labels)
    for image_id in ids:
        for place, sigma in ((args.plain_cam_out_dir, 12), (args.cam_out_dir, 4)):
            save_cam(place / f"{image_id}.npy", **blurred_truth(sample, image_id, sigma))
        maps = blurred_truth(sample, image_id, 4)
        scores.add(maps["high_res"], maps["keys"], read_label_png(sample.mask_path(image_id)))
        mask = label_map(maps["high_res"], maps["keys"], 0.9)
        save_label_png(args.sem_seg_out_dir / f"{image_id}.png", mask)
    kept = score_of(scores.confusions, AT, sample.label_names)
    save_score(folder, "RIB seed", {**kept, "images": len(ids), "list": "train.txt"})
    return Result(folder, args, ids, given)
