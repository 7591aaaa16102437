"""Score the seeds after a dense CRF: the column "+ CRF" of the paper's table."""

import time
from pathlib import Path

import numpy as np

from misc.cams import key_labels, label_map, load_cam
from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.crf import refine_label_maps
from misc.data.datasets import image_of, mask_of
from misc.metrics import confusion_matrix
from misc.runtime.image_task import ImageTask, run_over_images
from misc.storage.outputs import Output
from misc.storage.scores import scores_file
from step.eval_cam import check as check_seeds
from step.eval_cam import save_row, score, seed_folders

LISTS = ("eval",)
GT_PROB = 0.7  # of a label of the seed, the others share the rest


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return (scores_file(args.result_dir),)


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    check_seeds(args, preflight)


def crf_labels(
    image: np.ndarray, cams: np.ndarray, keys: np.ndarray, threshold: float
) -> np.ndarray:
    """The seed's label map of an image, H x W, after IRN's dense CRF.

    image: H x W x 3 uint8. cams: K x H x W. keys: (K,). The unary terms trust the seed's labels
    with 0.7.
    """
    local = label_map(cams, np.arange(len(keys)), threshold)
    if len(keys) == 0:
        return np.zeros(image.shape[:2], dtype=np.uint8)
    refined = refine_label_maps(image, local[None], len(keys) + 1, gt_prob=GT_PROB)[0]
    return key_labels(keys)[refined]


class ScoreCRF(ImageTask):
    """Adds the refined seed of one image to the confusion matrix."""

    on_gpu = False

    def __init__(self, args: Options, cam_dir: Path, threshold: float):
        self.name = f"eval_seed_crf of {cam_dir}"
        self.info, self.cam_dir, self.threshold = args.info, cam_dir, threshold
        self.confusion = np.zeros((self.info.num_labels,) * 2, dtype=np.int64)

    def one(self, image_id: str) -> None:
        image = image_of(self.info, image_id)
        maps = load_cam(self.cam_dir / f"{image_id}.npy")
        labels = crf_labels(image, maps["high_res"], maps["keys"], self.threshold)
        truth = mask_of(self.info, image_id)
        self.confusion += confusion_matrix(truth, labels, self.info.num_labels)

    def finish(self) -> np.ndarray:
        return self.confusion


def run(args: Options) -> None:
    """Score every seed after the CRF, at the background threshold that suits the seed best."""
    for row, cam_dir in seed_folders(args).items():
        start, seed = time.perf_counter(), score(args, cam_dir)
        threshold = float(seed.thresholds[seed.best()])
        task = ScoreCRF(args, cam_dir, threshold)
        confusion = sum(run_over_images(task, args.scored_ids(), args.resources))
        entry = {"folder": str(cam_dir), "crf": "irn"}
        save_row(args, f"{row} + CRF", confusion[None], [threshold], start, entry)
