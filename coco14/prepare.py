"""Make COCO's label maps, lists and image-level labels from the official annotations.

python -m coco14.prepare --coco14_root Dataset/coco_2017 --out_dir coco14
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coco14.dataset import CATEGORY_IDS, SPLITS, annotation_dir, describe
from coco14.instances import ADVICE, AnnotatedImage, read_instances
from coco14.masks import make_masks
from misc.data.dataset_info import DatasetInfo
from misc.data.preparation import command_line, save_prepared
from misc.errors import UserError, counted
from misc.labels import read_label_png
from misc.storage.manifest import make_writable
from misc.storage.outputs import State, output_state

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

    Masks that are missing in coco_seg_anno/ of the root are drawn first, `with_masks`. The lists
    have all images of the instances files, also those without objects or without a photograph.
    """
    paths = {f"{split}.txt": annotation_dir(info.root) / name for split, name in SPLITS.items()}
    for path in paths.values():  # before minutes are spent on the first one
        if not path.is_file():
            raise UserError(f"{path}: no such file; {ADVICE}")
    found = {name: _prepare_split(path, info, with_masks) for name, path in paths.items()}
    lists = {name: list(of_split) for name, of_split in found.items()}
    labels = {i: label for of_split in found.values() for i, label in of_split.items()}

    def labels_of(listed: set[str]) -> dict[str, np.ndarray]:
        return {image_id: label for image_id, label in labels.items() if image_id in listed}

    save_prepared(info, out_dir, lists, labels_of if with_labels else None, skip_mismatched)


def _prepare_split(path: Path, info: DatasetInfo, with_masks: bool) -> dict[str, np.ndarray]:
    start = time.perf_counter()
    log.info("reading %s ...", path)
    images = read_instances(path, info)
    _warn_of_missing_photographs(path, [image.image_id for image in images], info)
    _require_class_numbers(images, info)
    missing, masked = (State.MISSING, State.DAMAGED), images if with_masks else ()
    todo = [i for i in masked if output_state(info.mask_path(i.image_id)) in missing]
    if todo:
        try:
            make_writable(info.mask_dirs[0], "masks in")
        except UserError as error:
            links = f"links to {info.image_dir.name} and annotations of {info.root}"
            raise UserError(f"{error} as {info.root_flag}: one of your own with {links}") from None
        make_masks(todo, info.mask_dirs[0])
    done = counted({"image": len(images), "mask": len(todo)})
    log.info("%s: %s drawn, %.0f s", path.name, done, time.perf_counter() - start)
    labels = np.zeros((len(images), info.num_classes), dtype=np.float32)
    for label, image in zip(labels, images, strict=True):
        # Crowds count: they show objects of their class, though their pixels are not scored.
        label[[annotation.label - 1 for annotation in image.annotations]] = 1
    return dict(zip((image.image_id for image in images), labels, strict=True))


def _require_class_numbers(images: Sequence[AnnotatedImage], info: DatasetInfo) -> None:
    own, categories, folder = 0, 0, None
    for image in images[:: -(-len(images) // _LOOKED_AT)]:
        path = info.mask_path(image.image_id)
        if path.parent == info.mask_dirs[0] or not path.is_file():
            continue
        folder = path.parent
        shown = set(np.unique(read_label_png(path)).tolist()) - {0, 255}
        labels = {annotation.label for annotation in image.annotations}
        own += shown <= labels
        categories += shown <= {CATEGORY_IDS[label - 1] for label in labels}
    if categories > own:
        wrong = "the masks have COCO's category ids (1..90) as labels, and not class + 1 (1..80)"
        advice = "rename the folder to have masks drawn from the annotations"
        raise UserError(f"{folder}: {wrong}; {advice}")


def _warn_of_missing_photographs(path: Path, ids: Sequence[str], info: DatasetInfo) -> None:
    names = [name.rpartition("/")[::2] for name in info.image_names]
    there = {(f, name) for f in dict(names) for name in os.listdir(info.image_dir / f)}
    missing = [i for i in ids if not any((f, n.format(i)) in there for f, n in names)]
    if missing:
        log.warning("%s: %d of %d images of %s are missing, the first is %s",
                    info.image_dir, len(missing), len(ids), path.name, missing[0])  # fmt: skip


if __name__ == "__main__":
    command_line(describe, prepare, __doc__.split("\n")[0], "coco14")
