"""Predict with the segmentation network: whole images, all scales, with and without a dense CRF."""

import logging
import tarfile
from pathlib import Path

import torch

from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.crf import dense_crf, wrapped_image
from misc.data.dataset_info import photograph_keys
from misc.data.datasets import image_of
from misc.errors import UserError
from misc.labels import label_type, read_label_png, save_label_png, save_palette_png
from misc.runtime import distributed
from misc.storage.manifest import Sources
from misc.storage.outputs import Output, open_output
from net.backbones import fold_norms
from net.checkpoint import load_segmentation
from net.deeplab_v2 import COLOURS, probabilities
from step.base import FolderStep

log = logging.getLogger(__name__)

SUBMISSION = "results/VOC2012/Segmentation/comp6_test_cls"
TEST_IMAGES = 1456  # of VOC 2012's test list


class MakeSegmentation(FolderStep):
    """Predicts one image."""

    name, flag = "make_seg", "--seg_out_dir"
    options = ("dataset", "precision")
    lists, subfolders, reads = ("seg",), (".", "palette"), ("network",)

    @classmethod
    def settings(cls, args: Options) -> dict:
        own = {"seg_crf": "none", "seg_scale_by": args.seg_settings.scale_by}
        return {**super().settings(args), **own}

    @classmethod
    def folders(cls, args: Options) -> list[tuple[Output, dict]]:
        found = super().folders(args)
        if crf := folders(args).get("crf"):
            settings = {**cls.settings(args), "seg_crf": args.seg_crf}
            places = [crf / name for name in cls.subfolders]
            found += [(Output(cls.flag, place, suffix=cls.suffix), settings) for place in places]
        return found

    @classmethod
    def writes(cls, args: Options) -> tuple[Output, ...]:
        packed = Output("--seg_submission", args.seg_submission, is_file=True)
        return (*super().writes(args), *([packed] if args.seg_submission else []))

    @classmethod
    def sources(cls, args: Options) -> Sources:
        return Sources(photograph_keys(args, cls.ids(args)))

    @classmethod
    def check(cls, args: Options, preflight: Preflight) -> None:
        super().check(args, preflight)
        for packed in (output for output in cls.writes(args) if output.is_file):
            preflight.file(packed, in_manifest=True)

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        args, scale_by = self.args, self.args.seg_settings.scale_by
        model = load_segmentation(args.seg_weights_name, args.info.num_labels, scale_by=scale_by)
        self.model = model.to(device, memory_format=torch.channels_last)
        fold_norms(self.model.requires_grad_(False))
        self.bf16 = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")

    def one(self, image_id: str) -> None:
        args, image = self.args, image_of(self.args.info, image_id)
        with self.bf16:
            scores = probabilities(self.model, image).float().cpu().numpy()  # L x H x W
        found = {"plain": scores}
        if args.seg_crf != "none":
            wrapped = args.seg_crf == "wrapped"
            shown = wrapped_image(image[..., ::-1], COLOURS["caffe"].mean) if wrapped else image
            found["crf"] = dense_crf(shown, scores)
        for kind, folder in folders(args).items():
            labels = found[kind].argmax(axis=0).astype(label_type(len(scores)))
            save_palette_png(folder / "palette" / f"{image_id}.png", labels)
            save_label_png(folder / f"{image_id}.png", labels)

    @classmethod
    def run(cls, args: Options) -> None:
        super().run(args)
        if args.seg_submission:
            distributed.on_first_rank(lambda: pack(args, cls.ids(args)))


def folders(args: Options) -> dict[str, Path]:
    """The folders of the predictions: plain, and with the CRF where there is one."""
    plain = args.seg_out_dir
    crf = {"crf": plain.with_name(f"{plain.name}_crf")} if args.seg_crf != "none" else {}
    return {"plain": plain, **crf}


def pack(args: Options, ids: tuple[str, ...]) -> None:
    """Write the archive that the VOC test server takes."""
    folder = list(folders(args).values())[-1]
    packed = open_output(args.seg_submission, in_manifest=True)
    with packed as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for image_id in ids:
            if read_label_png(folder / f"{image_id}.png").max() > args.info.num_classes:
                raise UserError(f"{folder / image_id}.png: has a label beyond the classes")
            archive.add(folder / "palette" / f"{image_id}.png", f"{SUBMISSION}/{image_id}.png")
    log.info("%s: %d files of %s", args.seg_submission, len(ids), folder)
    if len(ids) != TEST_IMAGES:
        log.warning("the test server of VOC 2012 asks for %d images", TEST_IMAGES)


LISTS, settings, writes, check, run = MakeSegmentation.as_step()
