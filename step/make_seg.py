"""Predict with the segmentation network: whole images, all scales, with and without a dense CRF."""

import io
import logging
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.crf import dense_crf, wrapped_image
from misc.data.datasets import image_of
from misc.data.image_keys import photograph_keys
from misc.errors import UserError
from misc.labels import label_type, read_label_png, save_label_png, save_palette_png
from misc.runtime import distributed
from misc.runtime.image_task import ImageTask, prepare_output, run_over_images
from misc.storage.manifest import Sources, file_hash
from misc.storage.outputs import Output, open_output, write_output
from net.checkpoint import load_segmentation
from net.deeplab_v2 import COLOURS, probabilities

log = logging.getLogger(__name__)

LISTS = ("seg",)
SUBMISSION = "results/VOC2012/Segmentation/comp6_test_cls"
TEST_IMAGES = 1456  # of VOC 2012's test list


def folders(args: Options) -> dict[str, Path]:
    """Where the predictions go: plain, and with the CRF where there is one."""
    plain = args.seg_out_dir
    crf = {"crf": plain.with_name(f"{plain.name}_crf")} if args.seg_crf != "none" else {}
    return {"plain": plain, **crf}


def settings(args: Options, kind: str = "plain") -> dict:
    """The options that predictions depend on, plain ones or those with the CRF."""
    names = ("dataset", "seg_flip", "seg_scores", "precision")
    own = {"seg_crf": args.seg_crf if kind == "crf" else "none"}
    own["seg_scale_by"] = args.seg_settings.scale_by
    return {"step": "make_seg", "version": 1, **args.settings(*names), **own}


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    both = [place for path in folders(args).values() for place in (path, path / "palette")]
    archive = args.seg_submission
    packed = (Output("--seg_submission", archive, is_file=True),) if archive else ()
    return (*(Output("--seg_out_dir", path) for path in both), *packed)


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    for kind, path in folders(args).items():
        for place in (path, path / "palette"):
            out = Output("--seg_out_dir", place, suffix=".png")
            preflight.output(out, settings(args, kind), args.image_ids("seg"))
    preflight.segmentation(args.seg_weights_name)
    preflight.images(args.image_ids("seg"))
    if args.seg_submission:
        preflight.file(Output("--seg_submission", args.seg_submission, True), in_manifest=True)


class MakeSegmentation(ImageTask):
    """Predicts one image."""

    name = "make_seg"

    def __init__(self, args: Options):
        self.args, self.folders = args, folders(args)

    def outputs(self, image_id: str) -> list[Path]:
        names = [f"{image_id}.png", f"palette/{image_id}.png"]
        paths = [folder / name for folder in self.folders.values() for name in names]
        scores = [self.folders["plain"] / f"{image_id}.npz"] if self.args.seg_scores else []
        return [*paths, *scores]

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        args = self.args
        scale_by = args.seg_settings.scale_by
        model = load_segmentation(args.seg_weights_name, args.info.num_labels, scale_by=scale_by)
        self.model = model.to(device, memory_format=torch.channels_last)
        self.bf16 = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")

    def one(self, image_id: str) -> None:
        image = image_of(self.args.info, image_id)
        with self.bf16:
            scores = probabilities(self.model, image, self.args.seg_flip).float().cpu().numpy()
        save_prediction(self.folders, image_id, image, scores, self.args)


def save_prediction(
    folders: dict[str, Path], image_id: str, image: np.ndarray, scores: np.ndarray, args: Options
) -> None:
    """Labels, and what was asked for besides, of an image's probabilities L x H x W."""
    _save_labels(folders["plain"], image_id, scores)
    if "crf" in folders:
        wrapped = args.seg_crf == "wrapped"
        shown = wrapped_image(image[..., ::-1], COLOURS["caffe"].mean) if wrapped else image
        _save_labels(folders["crf"], image_id, dense_crf(shown, scores))
    if args.seg_scores:
        stream = io.BytesIO()
        np.savez_compressed(stream, probabilities=scores.astype(np.float16))
        write_output(folders["plain"] / f"{image_id}.npz", stream.getvalue())


def _save_labels(folder: Path, image_id: str, scores: np.ndarray) -> None:
    labels = scores.argmax(axis=0).astype(label_type(len(scores)))
    save_palette_png(folder / "palette" / f"{image_id}.png", labels)
    save_label_png(folder / f"{image_id}.png", labels)


def sources(args: Options) -> Sources:
    """What the prediction of each image is made from: its photograph."""
    return Sources(photograph_keys(args, args.image_ids("seg")))


def run(args: Options) -> None:
    """Predict every image of --seg_list."""
    ids, inputs = args.image_ids("seg"), {"network": file_hash(args.seg_weights_name)}
    for kind, path in folders(args).items():
        for place in (path, path / "palette"):
            folder = Output("--seg_out_dir", place, suffix=".png")
            prepare_output(
                folder, settings(args, kind), inputs, args.overwrite, partial(sources, args)
            )
    run_over_images(MakeSegmentation(args), ids, args.resources)
    if args.seg_submission:
        distributed.on_first_rank(lambda: pack(args, ids))


def pack(args: Options, ids: tuple[str, ...]) -> None:
    """The predictions as the archive that the VOC test server takes."""
    folder = list(folders(args).values())[-1]
    args.seg_submission.parent.mkdir(parents=True, exist_ok=True)
    packed = open_output(args.seg_submission, in_manifest=True)
    with packed as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for image_id in ids:
            if read_label_png(folder / f"{image_id}.png").max() > args.info.num_classes:
                raise UserError(f"{folder / image_id}.png: has a label beyond the classes")
            archive.add(folder / "palette" / f"{image_id}.png", f"{SUBMISSION}/{image_id}.png")
    log.info("%s: %d files of %s", args.seg_submission, len(ids), folder)
    if len(ids) != TEST_IMAGES:
        log.warning("the test server of VOC 2012 asks for %d images", TEST_IMAGES)
