"""Make VOC's lists and image-level labels from the official distribution.

    python -m voc12.prepare --voc12_root Dataset/VOC2012_SEG_AUG --out_dir voc12

`run_sample.py` does the same by itself where no list is given.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from defusedxml import ElementTree

from misc.data.dataset_info import DatasetInfo, read_image_list
from misc.data.preparation import command_line, matched, save_labels, save_lists
from misc.errors import UserError, raise_problems
from misc.labels import read_label_png
from misc.storage.files import read_bytes, reason
from voc12.dataset import describe

_MAX_XML = 1 << 20  # bytes; the largest official annotation has 10 KiB
LISTS = ("train.txt", "val.txt", "train_aug.txt")


def prepare(
    info: DatasetInfo,
    out_dir: Path,
    skip_mismatched: bool = False,
    with_labels: bool = True,
    with_masks: bool = True,
) -> None:
    """Write train.txt, val.txt, train_aug.txt and, `with_labels`, cls_labels.npy into `out_dir`.

    skip_mismatched leaves out images whose mask has another size (it is that of another image).
    train_aug has the images of train first, then every image that has an augmented mask and is not
    in val: so the first images of any run can be scored. Where there are no augmented masks the
    official list, which comes with the project, stands in. Labels come from the object names of
    Annotations/ (difficult objects included), or from the masks where there are no annotations.
    with_masks is for datasets whose masks have to be drawn.
    """
    log = logging.getLogger(__name__)
    split_dir = info.root / "ImageSets" / "Segmentation"
    train = read_image_list(split_dir / "train.txt", info)
    val = read_image_list(split_dir / "val.txt", info)
    augmented = _augmented(info, log)
    if skip_mismatched:
        train, val, augmented = (matched(ids, info) for ids in (train, val, augmented))
    extra = set(augmented) - set(train) - set(val)
    train_aug = (*train, *(image_id for image_id in augmented if image_id in extra))
    out_dir.mkdir(parents=True, exist_ok=True)
    if with_labels:
        save_labels(out_dir, info, _labels({*train_aug, *val}, info, log))
    save_lists(out_dir, dict(zip(LISTS, (train, val, train_aug), strict=True)))


def _augmented(info: DatasetInfo, log: logging.Logger) -> list[str]:
    """Images with an augmented mask; where none has, those of the official list that are here."""
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


def _labels(listed: set[str], info: DatasetInfo, log: logging.Logger) -> dict[str, np.ndarray]:
    """Multi-hot vectors (C,) of the listed images, and of all others that have an annotation."""
    annotation_dir = info.root / "Annotations"
    if annotation_dir.is_dir():
        others = {path.stem for path in annotation_dir.glob("*.xml") if info.is_id(path.stem)}
        ids, read = sorted(listed | others), label_from_xml
        paths = [annotation_dir / f"{i}.xml" for i in ids]
    else:
        log.warning("%s is missing: image-level labels are read off the masks", annotation_dir)
        ids, read = sorted(listed), label_from_mask
        paths = [info.mask_path(i) for i in ids]

    def label_or_problem(path: Path) -> np.ndarray | str:
        try:
            return read(path, info)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        results = dict(zip(ids, pool.map(label_or_problem, paths), strict=True))
    raise_problems("label", [r for i, r in results.items() if isinstance(r, str) and i in listed])
    return {image_id: label for image_id, label in results.items() if not isinstance(label, str)}


def label_from_xml(path: Path, info: DatasetInfo) -> np.ndarray:
    """Multi-hot float32 vector (C,) of the object names in an annotation file."""
    label = np.zeros(info.num_classes, dtype=np.float32)
    try:
        # No DTD: entities of a few lines can stand for gigabytes, or for other files.
        root = ElementTree.fromstring(read_bytes(path, _MAX_XML), forbid_dtd=True)
        names = [str(node.text).strip() for node in root.iterfind("./object/name")]
    except OSError as error:
        raise UserError(
            f"{path}: missing label for an image ({error.strerror}); get the "
            "annotation, or give --cls_labels"
        ) from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last: its encoding
        raise UserError(
            f"{path}: annotation cannot be read ({reason(error)}); get it again"
        ) from None
    for name in names:
        if name.lower() not in info.class_names:
            raise UserError(
                f"{path}: {name[:40]!r} is not a class of {info.name} "
                f"({', '.join(info.class_names)}); correct the name"
            )
        label[info.class_names.index(name.lower())] = 1
    return label


def label_from_mask(path: Path, info: DatasetInfo) -> np.ndarray:
    """Multi-hot float32 vector (C,) of the classes that a mask shows."""
    values = np.unique(read_label_png(path)).astype(int)
    values = values[(values > 0) & (values < 255)]
    if values.size and values.max() > info.num_classes:
        raise UserError(
            f"{path}: has label {values.max()}, {info.name} ends at "
            f"{info.num_classes}; use the dataset's own masks"
        )
    label = np.zeros(info.num_classes, dtype=np.float32)
    label[values - 1] = 1
    return label


def main() -> None:
    """Command line of this module."""
    command_line(describe, prepare, __doc__.split("\n")[0], "voc12")


if __name__ == "__main__":
    main()
