"""Make COCO's label maps, lists and image-level labels from the official annotations.

    python -m coco14.prepare --coco14_root Dataset/coco_2017 --out_dir coco14

`run_sample.py` does the same by itself where no list is given.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from coco14.dataset import CATEGORY_IDS, SPLITS, annotation_dir, describe
from coco14.instances import ADVICE, AnnotatedImage, read_instances
from coco14.masks import make_masks
from misc.data.dataset_info import DatasetInfo
from misc.data.preparation import command_line, matched, save_labels, save_lists
from misc.errors import UserError, counted
from misc.labels import read_label_png
from misc.storage.images import is_whole_png
from misc.storage.manifest import make_writable

_LOOKED_AT = 100  # masks whose labels are compared with the annotations
LISTS = tuple(f"{split}.txt" for split in SPLITS)

log = logging.getLogger(__name__)


def prepare(
    info: DatasetInfo,
    out_dir: Path,
    skip_mismatched: bool = False,
    with_labels: bool = True,
    with_masks: bool = True,
) -> None:
    """Write train14.txt, val14.txt and, `with_labels`, the label file into `out_dir`.

    Masks that are missing in coco_seg_anno/ of the root are drawn first, `with_masks`; those that
    are there, be they the published ones or of an earlier run, stay. The lists have all images of
    the instances files, ascending by id, those without objects and those whose photograph is
    missing too: the scores are those of the official lists or none. skip_mismatched leaves out
    images whose mask has another size.
    """
    paths = {split: annotation_dir(info.root) / name for split, name in SPLITS.items()}
    for path in paths.values():  # before minutes are spent on the first one
        if not path.is_file():
            raise UserError(f"{path}: no such file; {ADVICE}")
    labels = {split: _prepare_split(split, path, info, with_masks) for split, path in paths.items()}
    lists = {f"{split}.txt": list(by_id) for split, by_id in labels.items()}
    if skip_mismatched:
        lists = {split: matched(image_ids, info) for split, image_ids in lists.items()}
    out_dir.mkdir(parents=True, exist_ok=True)
    if with_labels:
        kept = {i for image_ids in lists.values() for i in image_ids}
        by_id = {i: label for of_split in labels.values() for i, label in of_split.items()}
        save_labels(out_dir, info, {i: label for i, label in by_id.items() if i in kept})
    save_lists(out_dir, lists)


def _prepare_split(
    split: str, path: Path, info: DatasetInfo, with_masks: bool
) -> dict[str, np.ndarray]:
    """Draw the missing masks of an instances file; returns multi-hot labels (C,) by image id."""
    start = time.perf_counter()
    log.info("reading %s ...", path)
    images, class_index = read_instances(path, info)
    _warn_of_missing_photographs(split, [image.image_id for image in images], info)
    _require_class_numbers(images, class_index, info)
    todo = [i for i in images if with_masks and not is_whole_png(info.mask_path(i.image_id))]
    if todo:
        _make_mask_folder(info)
        make_masks(todo, class_index, info.mask_dirs[0])
    seconds = time.perf_counter() - start
    done = counted({"image": len(images), "mask": len(todo)})
    log.info("%s: %s drawn, %.0f s", split, done, seconds)
    labels = np.zeros((len(images), info.num_classes), dtype=np.float32)
    for label, image in zip(labels, images, strict=True):
        # Crowds count: they show objects of their class, though their pixels are not scored.
        label[[class_index[annotation.category] for annotation in image.annotations]] = 1
    return dict(zip((image.image_id for image in images), labels, strict=True))


def _require_class_numbers(
    images: Sequence[AnnotatedImage], class_index: Mapping[int, int], info: DatasetInfo
) -> None:
    """Raise UserError where masks of others have category ids (1..90) in place of class + 1."""
    own, categories, folder = 0, 0, None
    for image in images[:: -(-len(images) // _LOOKED_AT)]:
        path = info.mask_path(image.image_id)
        if path.parent == info.mask_dirs[0] or not path.is_file():
            continue
        folder = path.parent
        labels = set(np.unique(read_label_png(path)).tolist()) - {0, 255}
        classes = {class_index[annotation.category] for annotation in image.annotations}
        own += labels <= {index + 1 for index in classes}
        categories += labels <= {CATEGORY_IDS[index] for index in classes}
    if categories > own:
        raise UserError(
            f"{folder}: the masks have COCO's category ids (1..90) as labels, and not class + "
            "1 (1..80); rename the folder to have masks drawn from the annotations"
        )


def _make_mask_folder(info: DatasetInfo) -> None:
    """Create the folder of the masks where there is none and see that it can be written."""
    try:
        make_writable(info.mask_dirs[0], "masks in")
    except UserError as error:
        raise UserError(
            f"{error} as {info.root_flag}: one of your own with links to {info.image_dir.name} and "
            f"annotations of {info.root}"
        ) from None


def _warn_of_missing_photographs(split: str, image_ids: Sequence[str], info: DatasetInfo) -> None:
    folders = {name.rpartition("/")[0] for name in info.image_names}
    there = {(f, name) for f in folders for name in os.listdir(info.image_dir / f)}
    names = [name.rpartition("/")[::2] for name in info.image_names]
    missing = [i for i in image_ids if not any((f, n.format(i)) in there for f, n in names)]
    if missing:
        log.warning(
            "%s: %d of %d images of %s are missing, the first is %s",
            info.image_dir,
            len(missing),
            len(image_ids),
            split,
            missing[0],
        )


def main() -> None:
    """Command line of this module."""
    command_line(describe, prepare, __doc__.split("\n")[0], "coco14")


if __name__ == "__main__":
    main()
