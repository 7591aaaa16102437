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


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return (Output("--result_dir", args.export_dir),)


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    if not args.export:
        raise UserError(f"--export: say what to write: {', '.join(EXPORTS)}, or all of them")
    ids, sources = args.image_ids("infer"), {FORMATS[name][0] for name in args.export}
    if "voc" in args.export and label_type(args.info.num_labels) is not np.uint8:
        raise UserError(
            f"--export voc: these masks have 8 bits, which hold {MOST_OF_8_BITS} "
            f"classes, and here are {args.info.num_classes}; export coco, yolo or soft, or take "
            f"the masks of 16 bits in {args.export_from}"
        )
    preflight.images(ids)
    if "masks" in sources:
        preflight.label_maps(ids, args.export_from, "give the folder of the masks: --export_from")
    if "maps" in sources:
        preflight.cams(ids, args.cam_out_dir)
    if "labels" in sources:
        preflight.labels(ids)


class ExportImage(ImageTask):
    """Writes one image in all formats; `finish` has its entries for COCO's JSON, by id."""

    name = "export_masks"
    on_gpu = False
    images_worth_a_process = 100

    def __init__(self, args: Options):
        self.args = args
        self.entries: dict[str, tuple[dict, list[dict]]] = {}

    def one(self, image_id: str) -> None:
        for name in self.args.export:
            write = FORMATS[name][1]
            if write and (entry := write(self.args, self.args.export_dir / name, image_id)):
                self.entries[image_id] = entry

    def finish(self) -> dict[str, tuple[dict, list[dict]]]:
        return self.entries


def run(args: Options) -> None:
    """Write the images of the inference list in the formats of --export."""
    entries = {}
    for of_process in run_over_images(ExportImage(args), args.image_ids("infer"), args.resources):
        entries |= of_process
    distributed.on_first_rank(lambda: _write_whole(args, entries))
    log.info("exported as %s: %s", ", ".join(args.export), args.export_dir)


def _write_whole(args: Options, entries: dict[str, tuple[dict, list[dict]]]) -> None:
    """Write the files that are of all images together."""
    root, ids = args.export_dir, args.image_ids("infer")
    if "voc" in args.export:
        text = "".join(f"{image_id}\n" for image_id in ids)
        write_new(root / "voc/ImageSets/Segmentation/train.txt", text.encode(), _ADVICE)
    if "yolo" in args.export:
        config = yolo_config(args.info, root / "yolo").encode()
        write_new(root / "yolo/data.yaml", config, _ADVICE)
    if "coco" in args.export:
        content = json.dumps(_coco_json(args, ids, entries)).encode()
        write_new(root / "coco/instances_train.json", content, _ADVICE)
    if "onehot" in args.export:
        labels = load_labels(args.cls_labels, ids, args.info)
        stems = [args.info.image_path(image_id).stem for image_id in ids]
        names = stems if len(set(stems)) == len(ids) else ids  # alike, in several folders
        content = dict(zip(names, labels.values(), strict=True))
        _write_npy(root / "cls_labels_onehot.npy", content)  # as AFA's and ToCo's
    if "irn" in args.export:
        _write_weights(args, root / "irn")


def _labels(args: Options, image_id: str) -> np.ndarray:
    return read_label_png(args.export_from / f"{image_id}.png")


def _photograph(args: Options, image_id: str, folder: Path) -> None:
    """Link a photograph under one suffix, as configurations have one; programs look into files.

    It fits the masks pixel by pixel: a photograph that is seen turned or shrunk is written so.
    """
    path, stream = folder / f"{image_id}.jpg", io.BytesIO()
    if args.info.photo_long is None:
        link_new(path, args.info.image_path(image_id), _ADVICE)
    else:
        Image.fromarray(image_of(args.info, image_id)).save(stream, format="JPEG", quality=95)
        write_new(path, stream.getvalue(), _ADVICE)


def _write_npy(path: Path, content: dict) -> None:
    stream = io.BytesIO()
    np.save(stream, content, allow_pickle=True)
    write_new(path, stream.getvalue(), _ADVICE)


def _voc(args: Options, folder: Path, image_id: str) -> None:
    image, stream = Image.fromarray(_labels(args, image_id)), io.BytesIO()
    image.putpalette(voc_palette().tobytes())
    image.save(stream, format="PNG")
    write_new(folder / "SegmentationClass" / f"{image_id}.png", stream.getvalue(), _ADVICE)
    _photograph(args, image_id, folder / "JPEGImages")


def _yolo(args: Options, folder: Path, image_id: str) -> None:
    text = yolo_text(_labels(args, image_id))
    write_new(folder / "labels/train" / f"{image_id}.txt", text.encode(), _ADVICE)
    _photograph(args, image_id, folder / "images/train")


def _coco(args: Options, folder: Path, image_id: str) -> tuple[dict, list[dict]]:
    _photograph(args, image_id, folder / "train")
    labels = _labels(args, image_id)
    image = dict(zip(("height", "width"), labels.shape, strict=True))
    found = [annotation(mask, label) for label, mask in regions(labels)]
    return {"file_name": f"{image_id}.jpg", **image}, found


def _coco_json(args: Options, ids: tuple[str, ...], entries: dict) -> dict:
    images, annotations, info = [], [], args.info
    for place, image_id in enumerate(ids, start=1):
        key, (image, found) = info.label_key(image_id), entries[image_id]
        number = key if isinstance(key, int) else place
        images.append({"id": number, **image})
        for region in found:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **region})
    description = f"pseudo masks of {info.name}"
    return coco_dataset(description, images, annotations, info.class_names)


def _soft(args: Options, folder: Path, image_id: str) -> None:
    """Write `keys` (K,) classes from 0 and `maps` K x H x W float32 in 0..1, as npz."""
    content, stream = load_cam(args.cam_out_dir / f"{image_id}.npy"), io.BytesIO()
    np.savez_compressed(stream, keys=content["keys"], maps=content["high_res"])
    write_new(folder / f"{image_id}.npz", stream.getvalue(), _ADVICE)


def _irn(args: Options, folder: Path, image_id: str) -> None:
    """Write maps as IRN and RIB do: `keys` and `cam` as tensors, `high_res` as an array.

    An image without classes has `keys` alone.
    """
    path, maps = folder / "cam" / f"{image_id}.npy", load_cam(args.cam_out_dir / f"{image_id}.npy")
    maps = maps if len(maps["keys"]) else {"keys": maps["keys"]}
    as_tensors = {name: torch.from_numpy(maps[name]) for name in ("keys", "cam") if name in maps}
    try:  # of tensors each pickle has other bytes
        found = read_arrays(path)
        same = found.keys() == maps.keys() and all(np.array_equal(found[n], maps[n]) for n in maps)
    except (UserError, AttributeError):
        same = False
    if not same:
        _write_npy(path, {**maps, **as_tensors})


def _write_weights(args: Options, folder: Path) -> None:
    """Write the networks that are there, under the names of the original code."""
    for name, path in (("res50_cam.pth", args.cam_weights_name),
                       ("res50_irn.pth", args.irn_weights_name),
                       ("deeplab_v2.pth", args.seg_weights_name)):  # fmt: skip
        if not path.is_file():
            log.info("%s: is not there, and not exported", path)
            continue
        try:
            state, stream = original_state(path), io.BytesIO()
        except UserError as error:
            log.warning("%s", error)
            continue
        torch.save(state, stream)
        write_new(folder / name, stream.getvalue(), _ADVICE)


# What a format is made from, and what writes an image of it; others are of all images together.
FORMATS: dict[str, tuple[str, Callable[[Options, Path, str], object] | None]] = {
    "voc": ("masks", _voc), "coco": ("masks", _coco), "yolo": ("masks", _yolo),
    "soft": ("maps", _soft), "onehot": ("labels", None), "irn": ("maps", _irn),
}  # fmt: skip
