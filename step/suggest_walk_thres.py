"""Choose the background threshold of the random walk, by ground truth or by the walked maps."""

import json
import logging
import random
from pathlib import Path

import numpy as np
import torch

from misc.cams import load_cam, strongest_class
from misc.cli.options import Options
from misc.cli.preflight import Preflight
from misc.data.datasets import image_of, mask_of
from misc.indexing import walked_scores
from misc.metrics import ThresholdScores
from misc.runtime import distributed
from misc.runtime.image_task import ImageTask, run_over_images
from misc.storage.files import atomic_path
from misc.storage.manifest import file_digest, folder_digest, ids_digest
from misc.storage.outputs import Output
from net.checkpoint import load_boundary_net
from net.inference import boundaries
from step.eval_cam import thresholds
from step.make_sem_seg_labels import chosen_threshold, walk_settings
from step.suggest_thres import suggested

log = logging.getLogger(__name__)

LISTS = ("infer",)
WALKS_LOOKED_AT = 200  # images on which the threshold is chosen
_BINS = 256
_OPTIONS = ("dataset", "beta", "exp_times", "walk_radius", "seed_power", "walk_norm",
            "irn_pad_size", "cam_eval_thres")  # fmt: skip


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return (Output("--walk_thres_name", args.walk_thres_name, is_file=True),)


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    ids = looked_at(args)
    preflight.boundary_net(args.irn_weights_name)
    preflight.images(ids)
    preflight.cams(ids, args.cam_out_dir)
    if tuning_ids(args):
        preflight.masks(ids)


def tuning_ids(args: Options) -> tuple[str, ...]:
    """Images with ground truth that are not scored; () where there is none to choose on."""
    return args.tuning_ids() if args.info.mask_dirs else ()


def looked_at(args: Options) -> tuple[str, ...]:
    """The images whose walked maps decide: those with ground truth where there are some."""
    ids = tuning_ids(args) or args.image_ids("infer")
    return tuple(random.Random(0).sample(ids, min(WALKS_LOOKED_AT, len(ids))))


class LookAtWalks(ImageTask):
    """Walks the maps of images and scores them at all thresholds, or counts their values."""

    name = "suggest_walk_thres"

    def __init__(self, args: Options, with_truth: bool):
        self.args, self.settings, self.with_truth = args, walk_settings(args), with_truth
        num_labels = args.info.num_labels if with_truth else 1  # counts grow with its square
        self.scores = ThresholdScores(thresholds(args), num_labels)
        self.counts = np.zeros(_BINS, dtype=np.int64)

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        self.model = load_boundary_net(self.args.irn_weights_name).to(device).eval()
        self.model.fold_backbone()

    def one(self, image_id: str) -> None:
        maps = load_cam(self.args.cam_out_dir / f"{image_id}.npy")
        walked = self._walked(image_of(self.args.info, image_id), maps)
        if self.with_truth:
            self.scores.add(walked, maps["keys"], mask_of(self.args.info, image_id))
        elif len(walked):
            self.counts += np.histogram(strongest_class(walked)[1], _BINS, (0, 1))[0]

    @torch.no_grad()
    def _walked(self, image: np.ndarray, maps: dict[str, np.ndarray]) -> np.ndarray:
        """Scores of an image after the walk, K x H x W in 0..1."""
        if not len(maps["keys"]):
            return np.zeros((0, *image.shape[:2]), dtype=np.float32)
        edge, _ = boundaries(self.model, image, self.args.irn_pad_size)
        cam = torch.from_numpy(maps["cam"]).to(edge.device)
        return walked_scores(cam, edge, image.shape[:2], self.settings).cpu().numpy()

    def finish(self) -> tuple[ThresholdScores, np.ndarray]:
        return self.scores, self.counts


def run(args: Options) -> float | None:
    """The threshold, which --walk_thres_name keeps; None where no image has maps.

    Where there is ground truth of images that are not scored it is the one with their highest mean
    IoU, otherwise Otsu's of the strongest score of every pixel.
    """
    with_truth, ids = bool(tuning_ids(args)), looked_at(args)
    made_from = {
        "maps": folder_digest(args.cam_out_dir),
        "IRN": file_digest(args.irn_weights_name),
        "images": ids_digest(ids),
        "settings": json.loads(json.dumps(args.settings(*_OPTIONS))),
        "ground truth": with_truth,
    }
    known = chosen_threshold(args.walk_thres_name)
    if known and known.get("made_from") == made_from:
        log.info("%s is complete already", args.walk_thres_name)
        return known["threshold"]
    found = run_over_images(LookAtWalks(args, with_truth), ids, args.resources)
    threshold = by_truth(found) if with_truth else by_maps(found)
    if threshold is None:
        log.warning("no image has a class, so there is no threshold of the walk to suggest")
        return None
    how = "ground truth of" if with_truth else "the maps alone of"
    how = f"{how} {len(ids)} images{' that are not scored' * with_truth}"
    log.info("random walk: background threshold %.2f by %s; --sem_seg_bg_thres is %s",
             threshold, how, args.sem_seg_bg_thres)  # fmt: skip
    kept = {"threshold": threshold, "by": how, "made_from": made_from}
    distributed.on_first_rank(lambda: _keep(args.walk_thres_name, kept))
    return threshold


def by_truth(found: list[tuple[ThresholdScores, np.ndarray]]) -> float:
    """The threshold with the highest mean IoU, of what the processes have counted."""
    first, *others = (scores for scores, _ in found)
    for other in others:
        first.merge(other)
    return float(first.thresholds[first.best()])


def by_maps(found: list[tuple[ThresholdScores, np.ndarray]]) -> float | None:
    """Otsu's threshold of what the processes have counted; None of nothing."""
    counts = sum(of_process for _, of_process in found)
    return round(suggested(counts), 2) if np.any(counts) else None


def _keep(path: Path, content: dict) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
