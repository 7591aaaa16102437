"""Score the instance labels: average precision at IoU 0.5 and 0.75 (PASCAL VOC's protocol)."""

import logging
import time
from pathlib import Path

import numpy as np

from misc.cli.check import Preflight
from misc.cli.options import OBJECT_MASKS, ROW_ENDING, Options
from misc.data.coco_json import LOWEST, annotation, dataset
from misc.data.datasets import mask_folders, mask_of
from misc.errors import UserError, counted
from misc.instance_metrics import InstanceScores, objects_of
from misc.labels import read_label_png
from misc.runtime import distributed
from misc.runtime.image_task import ImageTask, run_over_images
from misc.storage.cam_files import load_dict
from misc.storage.outputs import Output, write_json
from misc.storage.scores import save_score, scores_file
from step.eval_cam import scored_images

log = logging.getLogger(__name__)

LISTS = ("eval",)
ROW, FIX = "instances AP", "run --make_ins_seg_pass first"


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    file = args.ins_seg_json
    in_coco = (Output("--ins_seg_json", file, is_file=True),) if file else ()
    return (scores_file(args.result_dir), *in_coco)


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    ids = args.scored_ids()
    preflight.file(scores_file(args.result_dir))
    if args.ins_seg_json:
        preflight.file(Output("--ins_seg_json", args.ins_seg_json, True), in_manifest=True)
    preflight.masks(ids)
    preflight.collect(lambda: require_objects(args, ids))
    if not preflight.is_made(args.ins_seg_out_dir):
        preflight.collect(lambda: load_instances(args, ids[0]))


def require_objects(args: Options, ids: tuple[str, ...]) -> None:
    """Raise UserError unless every image has a mask of its objects."""
    missing = [i for i in ids if not object_path(args, i).is_file()]
    if missing:
        raise UserError(
            f"{object_path(args, missing[0])}: no mask of the objects, as of "
            f"{counted({'image': len(missing)})} in all; give an --eval_list of images that have "
            f"one in {OBJECT_MASKS}/, or leave out --eval_ins_seg_pass: instance labels are made "
            "without it"
        )


def object_path(args: Options, image_id: str) -> Path:
    """Where the mask of the objects of an image is."""
    return args.info.root / OBJECT_MASKS / f"{image_id}.png"


def load_instances(args: Options, image_id: str) -> dict[str, np.ndarray]:
    """`score` (N,), `mask` N x H x W bool, `class` (N,) of an image; UserError otherwise."""
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
        found = load_instances(self.args, image_id)
        truth = read_label_png(object_path(self.args, image_id))
        labels = mask_of(self.args.info, image_id)
        try:
            masks, kinds = objects_of(truth, labels)
        except ValueError as error:
            raise UserError(f"{object_path(self.args, image_id)}: {error}; correct it") from None
        self.scores.add(found["score"], found["mask"], found["class"], masks, kinds)

    def finish(self) -> InstanceScores:
        return self.scores


def run(args: Options) -> None:
    """Log and keep the average precisions; write the COCO file that is asked for."""
    start, ids = time.perf_counter(), args.scored_ids()
    first, *others = run_over_images(ScoreInstances(args), ids, args.resources)
    for other in others:
        first.merge(other)
    for which, threshold in enumerate(first.thresholds):
        found = first.average_precisions(which)
        mean = float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
        names = zip(args.info.class_names, found.tolist(), strict=False)
        by_class = {name: value for name, value in names if value == value}
        log.info("instances: AP at IoU %.2f: %.2f %%", threshold, 100 * mean)
        log.info("AP: %s", ", ".join(f"{n} {100 * v:.1f}" for n, v in by_class.items()))
        entry = {"thresholds": [threshold], "miou": [mean], "best": 0, "ap": by_class}
        entry |= scored_images(args)
        kinds = first.curves(which).items()
        entry["precision_at_recall"] = {
            args.info.class_names[k]: p.round(4).tolist() for k, p in kinds
        }
        entry |= {"folder": str(args.ins_seg_out_dir), "seconds": time.perf_counter() - start}
        row = f"{ROW}{round(100 * threshold)}{ROW_ENDING[args.recam]}"
        distributed.on_first_rank(lambda r=row, e=entry: save_score(args.result_dir, r, e))
    log.info("scored with the objects in %s and the classes in %s",
             object_path(args, ids[0]).parent, mask_folders(args.info, ids))  # fmt: skip
    if args.ins_seg_json:
        distributed.on_first_rank(lambda: write_coco(args, args.image_ids("infer")))


def write_coco(args: Options, ids: tuple[str, ...]) -> None:
    """All instances but fragments as COCO's JSON; categories are class + 1."""
    info, images, annotations = args.info, [], []
    for image_id in ids:
        found = load_instances(args, image_id)
        height, width = info.image_size(image_id)
        number = info.label_key(image_id)
        file = info.image_path(image_id).name
        images.append({"id": number, "file_name": file, "height": height, "width": width})
        for score, mask, kind in zip(*(found[n] for n in ("score", "mask", "class")), strict=True):
            if score >= LOWEST and mask.any():
                about = {"id": len(annotations) + 1, "image_id": number, "score": float(score)}
                annotations.append(annotation(mask, int(kind) + 1, **about))
    description = f"instance pseudo labels of {info.name}"
    content = dataset(description, images, annotations, info.class_names)
    args.ins_seg_json.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.ins_seg_json, content, in_manifest=True)
    log.info("%s: %d instances of %d images", args.ins_seg_json, len(annotations), len(images))
