"""Pseudo masks, maps and labels in the formats that other programs of the field read."""

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from misc.cams import load_cam
from misc.cli.check import Preflight
from misc.cli.flags import EXPORTS
from misc.cli.options import Options
from misc.data.datasets import image_of
from misc.data.exports import annotation, coco_dataset, regions, yolo_config, yolo_text
from misc.data.label_file import load_labels
from misc.errors import UserError
from misc.labels import MOST_OF_8_BITS, label_type, read_label_png, voc_palette
from misc.runtime import distributed
from misc.runtime.image_task import ImageTask, run_over_images
from misc.storage.outputs import Output, link_new, write_new
from misc.storage.torch_files import read_arrays
from net.checkpoint import original_state

log = logging.getLogger(__name__)

LISTS = ("infer", "labels")
_ADVICE = "move it away, or give another --result_dir"
Entries = dict[str, tuple[dict, list[dict]]]  # of images and their regions in COCO's JSON


def writes(args: Options) -> tuple[Output, ...]:
    return (Output("--result_dir", args.export_dir),)


def check(args: Options, preflight: Preflight) -> None:
    if not args.export:
        raise UserError(f"--export: say what to write: {', '.join(EXPORTS)}, or all of them")
    ids, asked = args.image_ids("infer"), set(args.export)
    if "voc" in asked and label_type(args.info.num_labels) is not np.uint8:
        raise UserError(f"--export voc: these masks have 8 bits, which hold {MOST_OF_8_BITS} "
                        f"classes, and here are {args.info.num_classes}; export coco, yolo or soft,"
                        f" or take the masks of 16 bits in {args.export_from}")  # fmt: skip
    preflight.images(ids)
    if asked & {*OF_MASKS}:
        preflight.label_maps(ids, args.export_from, "give the folder of the masks: --export_from")
    if asked & {*OF_MAPS}:
        preflight.cams(ids, args.cam_out_dir)
    if "onehot" in asked:
        preflight.labels(ids)


class ExportImage(ImageTask):
    """Writes one image in all formats; `finish` returns entries for COCO's JSON."""

    name = "export_masks"
    on_gpu = False
    images_worth_a_process = 100

    def __init__(self, args: Options):
        self.args, self.entries = args, {}

    def one(self, image_id: str) -> None:
        args, asked = self.args, self.args.export
        for name in [name for name in OF_MASKS if name in asked]:
            photographs, write = OF_MASKS[name]
            _write_photograph(args, image_id, args.export_dir / name / photographs)
            labels = read_label_png(args.export_from / f"{image_id}.png")
            if entry := write(args.export_dir / name, image_id, labels):
                self.entries[image_id] = entry
        for name in [name for name in OF_MAPS if name in asked]:
            maps = load_cam(args.cam_out_dir / f"{image_id}.npy")
            OF_MAPS[name](args.export_dir / name, image_id, maps)

    def finish(self) -> Entries:
        return self.entries


def run(args: Options) -> None:
    entries: Entries = {}
    for of_process in run_over_images(ExportImage(args), args.image_ids("infer"), args.resources):
        entries |= of_process
    distributed.on_first_rank(lambda: _write_whole(args, entries))
    log.info("exported as %s: %s", ", ".join(args.export), args.export_dir)


def _write_whole(args: Options, entries: Entries) -> None:
    root, ids, info = args.export_dir, args.image_ids("infer"), args.info
    files = {
        "voc": ("voc/ImageSets/Segmentation/train.txt", lambda: "\n".join(ids) + "\n"),
        "yolo": ("yolo/data.yaml", lambda: yolo_config(info, root / "yolo")),
        "coco": ("coco/instances_train.json", lambda: _coco_json(args, ids, entries)),
    }
    for name in [name for name in files if name in args.export]:
        path, content = files[name]
        write_new(root / path, content().encode(), _ADVICE)
    if "onehot" in args.export:  # a dict as AFA's and ToCo's
        labels = load_labels(args.cls_labels, ids, info)
        stems = [info.image_path(image_id).stem for image_id in ids]
        names = stems if len(set(stems)) == len(ids) else ids  # alike, in several folders
        by_name = dict(zip(names, labels.values(), strict=True))
        _write(root / "cls_labels_onehot.npy", np.save, by_name)
    if "irn" in args.export:
        _write_weights(args, root / "irn")


def _write_photograph(args: Options, image_id: str, folder: Path) -> None:
    path = folder / f"{image_id}.jpg"
    if args.info.photo_long is None:
        link_new(path, args.info.image_path(image_id), _ADVICE)
    else:
        _write(path, Image.fromarray(image_of(args.info, image_id)).save, format="JPEG", quality=95)


def _write(path: Path, save: Callable[..., None], *content: object, **options: object) -> None:
    stream = io.BytesIO()
    save(stream, *content, **options)
    write_new(path, stream.getvalue(), _ADVICE)


def _voc(folder: Path, image_id: str, labels: np.ndarray) -> None:
    image = Image.fromarray(labels)
    image.putpalette(voc_palette().tobytes())
    _write(folder / "SegmentationClass" / f"{image_id}.png", image.save, format="PNG")


def _yolo(folder: Path, image_id: str, labels: np.ndarray) -> None:
    write_new(folder / "labels/train" / f"{image_id}.txt", yolo_text(labels).encode(), _ADVICE)


def _coco(folder: Path, image_id: str, labels: np.ndarray) -> tuple[dict, list[dict]]:
    found = [annotation(mask, label) for label, mask in regions(labels)]
    height, width = labels.shape
    return {"file_name": f"{image_id}.jpg", "height": height, "width": width}, found


def _coco_json(args: Options, ids: tuple[str, ...], entries: Entries) -> str:
    images, annotations, info = [], [], args.info
    for place, image_id in enumerate(ids, start=1):
        key, (image, found) = info.label_key(image_id), entries[image_id]
        number = key if isinstance(key, int) else place
        images.append({"id": number, **image})
        for region in found:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **region})
    description = f"pseudo masks of {info.name}"
    return json.dumps(coco_dataset(description, images, annotations, info.class_names))


def _soft(folder: Path, image_id: str, maps: dict[str, np.ndarray]) -> None:
    """Write `keys` (K,) classes from 0 and `maps` K x H x W float32 in 0..1, as npz."""
    content = {"keys": maps["keys"], "maps": maps["high_res"]}
    _write(folder / f"{image_id}.npz", np.savez_compressed, **content)


def _irn(folder: Path, image_id: str, maps: dict[str, np.ndarray]) -> None:
    """Write `keys` and `cam` as tensors, `high_res` as an array; `keys` alone of no class."""
    path, keys = folder / "cam" / f"{image_id}.npy", maps["keys"]
    maps = maps if len(keys) else {"keys": keys}
    try:  # of tensors each pickle has other bytes
        found = read_arrays(path)
    except UserError:
        found = {}
    same = isinstance(found, dict) and found.keys() == maps.keys()
    if not same or not all(np.array_equal(found[name], maps[name]) for name in maps):
        tensors = {name: torch.from_numpy(maps[name]) for name in ("keys", "cam") if name in maps}
        _write(path, np.save, {**maps, **tensors})


def _write_weights(args: Options, folder: Path) -> None:
    for name, path in (("res50_cam.pth", args.cam_weights_name),
                       ("res50_irn.pth", args.irn_weights_name),
                       ("deeplab_v2.pth", args.seg_weights_name)):  # fmt: skip
        if not path.is_file():
            log.info("%s: is not there, and not exported", path)
            continue
        stream = io.BytesIO()
        try:
            torch.save(original_state(path), stream)
        except UserError as error:
            log.warning("%s", error)
        else:
            write_new(folder / name, stream.getvalue(), _ADVICE)


# Formats of label maps, each with the folder of its photographs, and of maps.
OF_MASKS = {"voc": ("JPEGImages", _voc), "coco": ("train", _coco), "yolo": ("images/train", _yolo)}
OF_MAPS = {"soft": _soft, "irn": _irn}
