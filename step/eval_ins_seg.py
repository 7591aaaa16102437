"""Score the instance labels: average precision at IoU 0.5 and 0.75 (PASCAL VOC's protocol)."""

import logging
import time
from functools import partial
from pathlib import Path

import numpy as np

from misc.cli.check import Preflight
from misc.cli.options import OBJECT_MASKS, ROW_ENDING, Options
from misc.data.datasets import mask_of
from misc.data.exports import LOWEST, annotation, coco_dataset
from misc.errors import UserError, counted
from misc.instance_metrics import InstanceScores, objects_of
from misc.labels import read_label_png
from misc.runtime import distributed
from misc.runtime.image_task import ImageTask, run_over_images
from misc.storage.cam_files import load_dict
from misc.storage.outputs import Output, write_json
from misc.storage.scores import save_score, scores_file
from step.eval_cam import check_scoring, scored_images

log = logging.getLogger(__name__)

LISTS = ("eval",)
ROW, FIX = "instances AP", "run --make_ins_seg_pass first"


def writes(args: Options) -> tuple[Output, ...]:
    file = args.ins_seg_json
    in_coco = (Output("--ins_seg_json", file, is_file=True),) if file else ()
    return (scores_file(args.result_dir), *in_coco)


def check(args: Options, preflight: Preflight) -> None:
    ids = args.scored_ids()
    check_scoring(args, preflight, ids)
    for file in writes(args)[1:]:
        preflight.file(file, in_manifest=True)
    preflight.collect(lambda: require_objects(args, ids))
    if not preflight.is_made(args.ins_seg_out_dir):
        preflight.collect(lambda: load_instances(args, ids[0]))


def object_path(args: Options, image_id: str) -> Path:
    return args.info.root / OBJECT_MASKS / f"{image_id}.png"


def require_objects(args: Options, ids: tuple[str, ...]) -> None:
    missing = [path for path in (object_path(args, i) for i in ids) if not path.is_file()]
    if missing:
        images = counted({"image": len(missing)})
        raise UserError(f"{missing[0]}: no mask of the objects, as of {images} in all; give "
                        "an --eval_list of others, or leave out --eval_ins_seg_pass")  # fmt: skip


def load_instances(args: Options, image_id: str) -> dict[str, np.ndarray]:
    """`score` (N,), `mask` N x H x W bool, `class` (N,) of an image."""
    path = args.ins_seg_out_dir / f"{image_id}.npy"
    content = load_dict(path, FIX)
    fits = set(content) == {"score", "mask", "class"} and content["mask"].ndim == 3
    if not fits or not len(content["score"]) == len(content["mask"]) == len(content["class"]):
        raise UserError(f"{path}: does not hold instance labels; {FIX}")
    return {**content, "mask": content["mask"].astype(bool)}


class ScoreInstances(ImageTask):
    """Adds the instances of one image to the scores."""

    on_gpu = False
    images_worth_a_process = 1 << 30  # ties go by the order of the images: one process

    def __init__(self, args: Options):
        self.name, self.args = f"eval_ins_seg of {args.ins_seg_out_dir}", args
        self.scores = InstanceScores()

    def one(self, image_id: str) -> None:
        found, path = load_instances(self.args, image_id), object_path(self.args, image_id)
        try:
            objects = objects_of(read_label_png(path), mask_of(self.args.info, image_id))
        except ValueError as error:
            raise UserError(f"{path}: {error}; correct it") from None
        self.scores.add(found["score"], found["mask"], found["class"], *objects)

    def finish(self) -> InstanceScores:
        return self.scores


def run(args: Options) -> None:
    start, ids = time.perf_counter(), args.scored_ids()
    scores, *others = run_over_images(ScoreInstances(args), ids, args.resources)
    for other in others:
        scores.merge(other)
    names = args.info.class_names
    for which, threshold in enumerate(scores.thresholds):
        found = scores.average_precisions(which)
        by_class = {n: ap for n, ap in zip(names, found.tolist(), strict=False) if ap == ap}
        mean = float(np.nanmean(found)) if by_class else float("nan")
        seconds = time.perf_counter() - start
        log.info("instances: AP at IoU %.2f: %.2f %%; %.1f s", threshold, 100 * mean, seconds)
        log.debug("AP: %s", ", ".join(f"{n} {100 * v:.1f}" for n, v in by_class.items()))
        curves = {names[k]: p.round(4).tolist() for k, p in scores.curves(which).items()}
        entry = {"thresholds": [threshold], "miou": [mean], "best": 0, "ap": by_class}
        entry |= {**scored_images(args), "precision_at_recall": curves}
        entry |= {"folder": str(args.ins_seg_out_dir), "seconds": seconds}
        row = f"{ROW}{round(100 * threshold)}{ROW_ENDING[args.recam]}"
        distributed.on_first_rank(partial(save_score, args.result_dir, row, entry))
    if args.ins_seg_json:
        distributed.on_first_rank(lambda: write_coco(args, args.image_ids("infer")))


def write_coco(args: Options, ids: tuple[str, ...]) -> None:
    """All instances but fragments as COCO's JSON; categories are class + 1."""
    info, images, annotations = args.info, [], []
    for image_id in ids:
        found = load_instances(args, image_id)
        height, width = info.image_size(image_id)
        image = {"id": info.label_key(image_id), "file_name": info.image_path(image_id).name}
        images.append({**image, "height": height, "width": width})
        for score, mask, kind in zip(found["score"], found["mask"], found["class"], strict=True):
            if score >= LOWEST and mask.any():
                named = {"id": len(annotations) + 1, "image_id": image["id"], "score": float(score)}
                annotations.append(annotation(mask, int(kind) + 1, **named))
    description = f"instance pseudo labels of {info.name}"
    content = coco_dataset(description, images, annotations, info.class_names)
    args.ins_seg_json.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.ins_seg_json, content, in_manifest=True)
    log.info("%s: %d instances of %d images", args.ins_seg_json, len(annotations), len(images))
