"""Pseudo masks, maps and labels in the forms that other programs of the field read."""

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
from misc.data import exports
from misc.data.coco_json import dataset
from misc.data.datasets import image_of
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
    ids, num_labels = args.image_ids("infer"), args.info.num_labels
    if "voc" in args.export and label_type(num_labels) is not np.uint8:
        raise UserError(
            f"--export voc: these masks have 8 bits, which hold {MOST_OF_8_BITS} "
            f"classes, and here are {args.info.num_classes}; export coco, yolo or soft, or take "
            f"the masks of 16 bits in {args.export_from}"
        )
    preflight.images(ids)
    if set(args.export) & set(_OF_MASKS):
        preflight.label_maps(ids, args.export_from, "give the folder of the masks: --export_from")
    if {"soft", "irn"} & set(args.export):
        preflight.cams(ids, args.cam_out_dir)
    if "onehot" in args.export:
        preflight.labels(ids)


def _write(path: Path, content: bytes) -> None:
    write_new(path, content, _ADVICE)


def _voc(args: Options, image_id: str, labels: np.ndarray) -> None:
    folder = args.export_dir / "voc"
    _write(folder / "SegmentationClass" / f"{image_id}.png", _png(labels, True))
    _photograph(args, image_id, folder / "JPEGImages")


def _yolo(args: Options, image_id: str, labels: np.ndarray) -> None:
    folder, text = args.export_dir / "yolo", exports.yolo_text(labels)
    _write(folder / "labels" / "train" / f"{image_id}.txt", text.encode())
    _photograph(args, image_id, folder / "images" / "train")


def _coco(args: Options, image_id: str, labels: np.ndarray) -> tuple[dict, list[dict]]:
    """The entry of an image in COCO's JSON, and those of its regions; none has its ids yet."""
    _photograph(args, image_id, args.export_dir / "coco" / "train")
    height, width = labels.shape
    image = {"file_name": f"{image_id}.jpg", "height": height, "width": width}
    return image, exports.coco_annotations(labels)


_OF_MASKS: dict[str, Callable] = {"voc": _voc, "coco": _coco, "yolo": _yolo}


def _soft(args: Options, image_id: str) -> None:
    """`keys` (K,) classes from 0 and `maps` K x H x W float32 in 0..1, as npz."""
    content, stream = load_cam(args.cam_out_dir / f"{image_id}.npy"), io.BytesIO()
    np.savez_compressed(stream, keys=content["keys"], maps=content["high_res"])
    _write(args.export_dir / "soft" / f"{image_id}.npz", stream.getvalue())


def _irn(args: Options, image_id: str) -> None:
    """Maps as IRN and RIB save them: `keys` and `cam` as tensors, `high_res` as an array.

    An image without classes has `keys` alone.
    """
    path = args.export_dir / "irn" / "cam" / f"{image_id}.npy"
    maps = load_cam(args.cam_out_dir / f"{image_id}.npy")
    if not len(maps["keys"]):
        maps = {"keys": maps["keys"]}
    if not _holds(path, maps):  # of tensors each pickle has other bytes
        as_tensors = {n: torch.from_numpy(maps[n]) for n in ("keys", "cam") if n in maps}
        _write(path, _npy({**maps, **as_tensors}))


def _holds(path: Path, arrays: dict[str, np.ndarray]) -> bool:
    """Whether a file is there with these arrays or tensors."""
    try:
        found = read_arrays(path)
    except UserError:
        return False
    same = isinstance(found, dict) and found.keys() == arrays.keys()
    return same and all(np.array_equal(found[name], arrays[name]) for name in arrays)


def _weights(args: Options) -> None:
    """The networks that are there, under the names of the original code."""
    files = {"res50_cam.pth": args.cam_weights_name, "res50_irn.pth": args.irn_weights_name,
             "deeplab_v2.pth": args.seg_weights_name}  # fmt: skip
    for name, path in files.items():
        if not path.is_file():
            log.info("%s: is not there, and not exported", path)
            continue
        try:
            state = original_state(path)
        except UserError as error:
            log.warning("%s", error)
            continue
        stream = io.BytesIO()
        torch.save(state, stream)
        _write(args.export_dir / "irn" / name, stream.getvalue())


def _npy(content: dict) -> bytes:
    stream = io.BytesIO()
    np.save(stream, content, allow_pickle=True)
    return stream.getvalue()


def _png(labels: np.ndarray, palette: bool = False) -> bytes:
    image, stream = Image.fromarray(labels), io.BytesIO()
    if palette:
        image.putpalette(voc_palette().tobytes())
    image.save(stream, format="PNG")
    return stream.getvalue()


def _photograph(args: Options, image_id: str, folder: Path) -> None:
    """Under one ending, as configurations have one; programs look at what a file holds.

    It fits the masks pixel by pixel: a photograph that is seen turned or shrunk is written so.
    """
    path, photograph = folder / f"{image_id}.jpg", args.info.image_path(image_id)
    if args.info.photo_long is None:
        link_new(path, photograph, _ADVICE)
        return
    stream = io.BytesIO()
    Image.fromarray(image_of(args.info, image_id)).save(stream, format="JPEG", quality=95)
    _write(path, stream.getvalue())


class ExportImage(ImageTask):
    """Writes one image in all forms; `finish` has its entries for COCO's JSON, by id."""

    name = "export_masks"
    on_gpu = False
    images_worth_a_process = 100

    def __init__(self, args: Options):
        self.args = args
        self.entries: dict[str, tuple[dict, list[dict]]] = {}

    def one(self, image_id: str) -> None:
        args = self.args
        wanted = [name for name in _OF_MASKS if name in args.export]
        if wanted:
            labels = read_label_png(args.export_from / f"{image_id}.png")
        for name in wanted:
            entry = _OF_MASKS[name](args, image_id, labels)
            if entry:
                self.entries[image_id] = entry
        if "soft" in args.export:
            _soft(args, image_id)
        if "irn" in args.export:
            _irn(args, image_id)

    def finish(self) -> dict[str, tuple[dict, list[dict]]]:
        return self.entries


def run(args: Options) -> None:
    """Write the images of the inference list in the forms of --export."""
    ids = args.image_ids("infer")
    entries = {}
    for of_process in run_over_images(ExportImage(args), ids, args.resources):
        entries |= of_process
    distributed.on_first_rank(lambda: _write_whole(args, ids, entries))
    log.info("exported as %s: %s", ", ".join(args.export), args.export_dir)


def _write_whole(args: Options, ids: tuple[str, ...], entries: dict[str, tuple]) -> None:
    """The files that are of all images together."""
    info, root = args.info, args.export_dir
    files = {
        "voc": (root / "voc/ImageSets/Segmentation/train.txt", lambda: "\n".join(ids) + "\n"),
        "yolo": (root / "yolo/data.yaml", lambda: exports.yolo_config(info, root / "yolo")),
        "coco": (root / "coco/instances_train.json", lambda: _coco_json(args, ids, entries)),
    }
    for name, (path, content) in files.items():
        if name in args.export:
            _write(path, content().encode())
    if "onehot" in args.export:
        _write(root / "cls_labels_onehot.npy", _onehot(args, ids))
    if "irn" in args.export:
        _weights(args)


def _coco_json(args: Options, ids: tuple[str, ...], entries: dict[str, tuple]) -> str:
    images, annotations = [], []
    numbers = [args.info.label_key(image_id) for image_id in ids]
    if not all(isinstance(number, int) for number in numbers):
        numbers = range(1, len(ids) + 1)
    for number, (image, regions) in zip(numbers, map(entries.get, ids), strict=True):
        images.append({"id": number, **image})
        for region in regions:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **region})
    description = f"pseudo masks of {args.info.name}"
    return json.dumps(dataset(description, images, annotations, args.info.class_names))


def _onehot(args: Options, ids: tuple[str, ...]) -> bytes:
    """A dict as AFA's and ToCo's: stem of the photograph's file to multi-hot vector (C,).

    Where stems are alike, in several folders, the ids stand for them.
    """
    labels = load_labels(args.cls_labels, ids, args.info)
    stems = [args.info.image_path(image_id).stem for image_id in ids]
    stems = stems if len(set(stems)) == len(stems) else ids
    return _npy(dict(zip(stems, labels.values(), strict=True)))
