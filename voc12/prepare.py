"""Make VOC's lists and image-level labels from the official distribution.

python -m voc12.prepare --voc12_root Dataset/VOC2012_SEG_AUG --out_dir voc12
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from defusedxml import ElementTree

from misc.data.dataset_info import DatasetInfo, read_image_list
from misc.data.preparation import command_line, save_prepared
from misc.errors import UserError, raise_problems
from misc.labels import classes_in, read_label_png
from misc.storage.files import read_bytes, reason
from voc12.dataset import describe

_MAX_XML = 1 << 20  # bytes; the largest official annotation has 10 KiB
LISTS = ("train.txt", "val.txt", "train_aug.txt")

log = logging.getLogger(__name__)


def prepare(
    info: DatasetInfo,
    out_dir: Path,
    skip_mismatched: bool = False,
    with_labels: bool = True,
    with_masks: bool = True,
) -> None:
    """Write train.txt, val.txt, train_aug.txt and, `with_labels`, cls_labels.npy into `out_dir`.

    train_aug has the images of train first, then the others that have an augmented mask and are not
    in val. Labels are the object names of Annotations/, difficult objects too, or without it those
    in the masks. with_masks is for datasets whose masks have to be drawn.
    """
    splits = info.root / "ImageSets" / "Segmentation"
    train, val = (read_image_list(splits / name, info) for name in LISTS[:2])
    extra = set(train) | set(val)
    train_aug = (*train, *(image_id for image_id in _augmented(info) if image_id not in extra))
    lists = dict(zip(LISTS, (train, val, train_aug), strict=True))
    labels_of = partial(_labels, info) if with_labels else None
    save_prepared(info, out_dir, lists, labels_of, skip_mismatched)


def _augmented(info: DatasetInfo) -> list[str]:
    folder = info.root / "SegmentationClassAug"
    found = sorted(path.stem for path in folder.glob("*.png") if info.is_id(path.stem))
    if found:
        return found
    official = info.official_ids("train_aug")
    here = [image_id for image_id in official if info.image_path(image_id).is_file()]
    log.warning(
        "%s has no masks: train_aug is the official list, of whose %d images %d are in %s",
        folder, len(official), len(here), info.image_dir,
    )  # fmt: skip
    return here


def _labels(info: DatasetInfo, listed: set[str]) -> dict[str, np.ndarray]:
    folder = info.root / "Annotations"
    if folder.is_dir():
        others = {path.stem for path in folder.glob("*.xml") if info.is_id(path.stem)}
        paths, read = {i: folder / f"{i}.xml" for i in sorted(listed | others)}, label_from_xml
    else:
        log.warning("%s is missing: image-level labels are read off the masks", folder)
        paths, read = {i: info.mask_path(i) for i in sorted(listed)}, label_from_mask
    with ThreadPoolExecutor() as pool:
        found = {i: pool.submit(read, path, info) for i, path in paths.items()}
    errors = {image_id: future.exception() for image_id, future in found.items()}
    raise_problems("label", [str(error) for i, error in errors.items() if error and i in listed])
    return {image_id: future.result() for image_id, future in found.items() if not errors[image_id]}


def label_from_xml(path: Path, info: DatasetInfo) -> np.ndarray:
    """Multi-hot float32 vector (C,) of the object names in an annotation file."""
    try:
        # No DTD: entities of a few lines can stand for gigabytes, or for other files.
        root = ElementTree.fromstring(read_bytes(path, _MAX_XML), forbid_dtd=True)
        names = [str(node.text).strip() for node in root.iterfind("./object/name")]
    except OSError as error:
        problem = f"missing label for an image ({error.strerror})"
        raise UserError(f"{path}: {problem}; get the annotation, or give --cls_labels") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last: its encoding
        problem = f"annotation cannot be read ({reason(error)})"
        raise UserError(f"{path}: {problem}; get it again") from None
    label = np.zeros(info.num_classes, dtype=np.float32)
    for name in names:
        if name.lower() not in info.class_names:
            known = f"{info.name} ({', '.join(info.class_names)})"
            raise UserError(f"{path}: {name[:40]!r} is not a class of {known}; correct the name")
        label[info.class_names.index(name.lower())] = 1
    return label


def label_from_mask(path: Path, info: DatasetInfo) -> np.ndarray:
    """Multi-hot float32 vector (C,) of the classes that a mask shows."""
    labels, count = classes_in(read_label_png(path)), info.num_classes
    if max(labels, default=0) > count:
        problem = f"has label {max(labels)}, {info.name} ends at {count}"
        raise UserError(f"{path}: {problem}; use the dataset's own masks")
    label = np.zeros(count, dtype=np.float32)
    label[np.array(labels, int) - 1] = 1
    return label


if __name__ == "__main__":
    command_line(describe, prepare, __doc__.split("\n")[0], "voc12")
