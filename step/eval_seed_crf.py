"""Score the seeds after a dense CRF: the column "+ CRF" of the paper's table."""

from pathlib import Path

import numpy as np

from misc.cams import key_labels, label_map, load_cam
from misc.cli.options import Options
from misc.crf import refine_label_maps
from misc.data.datasets import image_of
from step import eval_cam
from step.eval_sem_seg import ScoreMasks, score_masks

LISTS, writes, check = eval_cam.LISTS, eval_cam.writes, eval_cam.check
GT_PROB = 0.7  # of a label of the seed, the others share the rest


def crf_labels(
    image: np.ndarray, cams: np.ndarray, keys: np.ndarray, threshold: float
) -> np.ndarray:
    """The seed's label map H x W after IRN's dense CRF, whose unary terms trust it with GT_PROB.

    image: H x W x 3 uint8. cams: K x H x W. keys: (K,).
    """
    local = label_map(cams, np.arange(len(keys)), threshold)
    if len(keys) == 0:
        return np.zeros(image.shape[:2], dtype=np.uint8)
    refined = refine_label_maps(image, local[None], len(keys) + 1, gt_prob=GT_PROB)[0]
    return key_labels(keys)[refined]


class ScoreCRF(ScoreMasks):
    """Adds the refined seed of one image to the confusion matrix."""

    images_worth_a_process = 4

    def __init__(self, args: Options, folder: Path, threshold: float):
        super().__init__(args, folder, "eval_seed_crf")
        self.threshold = threshold

    def labels(self, image_id: str) -> np.ndarray:
        maps = load_cam(self.folder / f"{image_id}.npy")
        image = image_of(self.info, image_id)
        return crf_labels(image, maps["high_res"], maps["keys"], self.threshold)


def run(args: Options) -> None:
    """Score every seed after the CRF, at the background threshold that suits the seed best."""
    for row, folder in eval_cam.seed_folders(args).items():
        seed = eval_cam.score(args, folder)
        best = float(seed.thresholds[seed.best()])
        score_masks(args, ScoreCRF(args, folder, best), f"{row} + CRF", best, {"crf": "irn"})
