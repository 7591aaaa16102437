"""Make the lists and image-level labels of a folder of photographs."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from misc.data.dataset_info import read_image_list
from misc.data.folder import names, own_size
from misc.data.folder.copies import warn_of_copies
from misc.data.folder.dataset import HELD_OUT, FolderInfo
from misc.data.folder.masks import masked
from misc.data.label_file import row_classes, rows_of, save_label_rows
from misc.data.preparation import matched, save_lists
from misc.errors import UserError, counted
from misc.storage.files import ignores_case
from misc.storage.outputs import require_own, write_output

LISTS = ("all.txt", "train.txt", "val.txt", "eval.txt", "unlabelled.txt", "classes.txt",
         "photographs.txt")  # fmt: skip
MASKS = own_size  # follows the step that makes pseudo masks

log = logging.getLogger(__name__)


def prepare(
    info: FolderInfo,
    out_dir: Path,
    skip_mismatched: bool = False,
    with_labels: bool = True,
    with_masks: bool = True,
) -> None:
    """Write the lists and, `with_labels`, the label file into `out_dir`.

    all.txt has the images with labels, val.txt those held out of the trainings (all, where no class
    has images to spare), train.txt the others. With ground truth, eval.txt has the images that are
    scored: those of val, and where that has none, all. photographs.txt says which file an id stands
    for. skip_mismatched leaves images out of eval whose mask has another size.
    """
    scan = info.scan()
    image_ids = {path: names.id_of(path) for path in sorted(scan.labels.of)}
    rows = rows_of([scan.labels.of[path] for path in image_ids], info.num_classes)
    ids = list(image_ids.values())
    val = set(_val(info, ids, rows))
    train = [i for i in ids if i not in val]
    if not train:
        raise UserError(f"--val_list {info.source.val_list}: has every image that has a label, so "
                        "that none is left to train on; take some out")  # fmt: skip
    warn_of_copies(info, scan.labels.of)
    with_mask = masked(info, ids)
    if skip_mismatched:
        with_mask = matched(with_mask, info)
    scored = [i for i in with_mask if i in val] or with_mask
    lists = {
        "all": ids,
        "train": train,
        "val": [i for i in ids if i in val] or ids,
        "eval": scored,
        "unlabelled": [names.id_of(path) for path in scan.unlabelled],
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    _require_cases_apart(out_dir, ids)
    if with_labels:
        path = out_dir / info.label_file
        require_own(path, "give it with --cls_labels from another folder")
        save_label_rows(path, ids, rows)
    table = (f"{i}\t{os.fsencode(p).decode(errors='replace')}" for p, i in image_ids.items())
    _save_text(out_dir / "photographs.txt", "\n".join(table) + "\n")
    _save_text(out_dir / "classes.txt", "\n".join(info.class_names) + "\n")
    save_lists(out_dir, {f"{name}.txt": of_list for name, of_list in lists.items()})
    log.info("%s", f"{len(val)} held out of the trainings" if val else
             "none held out of the trainings: no class has ten images")  # fmt: skip


def _val(info: FolderInfo, image_ids: list[str], rows: csr_array) -> list[str]:
    if not info.source.val_list:
        return held_out(image_ids, rows)
    given = read_image_list(info.source.val_list, info)
    known = set(image_ids)
    if unknown := [i for i in given if i not in known]:
        lack = counted({"photograph": len(unknown)})
        raise UserError(
            f"--val_list {info.source.val_list}: has {lack} without a label, such as "
            f"{info.image_path(unknown[0])}; take them out, or add them to --labels"
        )
    return list(given)


def held_out(image_ids: Sequence[str], rows: csr_array) -> list[str]:
    """A tenth of the images of every class that has ten or more, the same ones every time.

    An image with several classes is held out where each of them has one to spare. The order in
    which images are looked at is that of a digest of their ids, so that it does not depend on how
    they are called or which others there are.
    """
    counts = rows.sum(axis=0)
    spare = counts // HELD_OUT
    without = int((np.diff(rows.indptr) == 0).sum()) // HELD_OUT
    order = sorted(range(len(image_ids)), key=lambda row: _digest(image_ids[row]))
    chosen = []
    for row in order:
        classes = row_classes(rows, row)
        if not len(classes):
            if without:
                chosen.append(image_ids[row])
            without = max(0, without - 1)
        elif spare[classes].min() > 0:
            spare[classes] -= 1
            chosen.append(image_ids[row])
    return chosen


def _digest(image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode()).digest()


def _require_cases_apart(folder: Path, image_ids: list[str]) -> None:
    """Raise UserError where files would replace each other, as a file system ignores case."""
    alike: dict[str, str] = {}
    for image_id in image_ids:
        other = alike.setdefault(names.normalised(image_id).casefold(), image_id)
        if other == image_id:
            continue
        if ignores_case(folder):
            raise UserError(
                f"{names.path_of(other)} and {names.path_of(image_id)} differ in case only, and "
                f"the file system of {folder} takes them for one; rename one, or give a "
                "--result_dir elsewhere"
            )
        return


def _save_text(path: Path, text: str) -> None:
    write_output(path, text.encode(errors="replace"))
