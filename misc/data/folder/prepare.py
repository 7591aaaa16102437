"""Make the lists and image-level labels of a folder of photographs."""

import contextlib
import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from misc.data.dataset_info import read_image_list
from misc.data.folder import masks, names
from misc.data.folder.dataset import FolderInfo
from misc.data.label_file import labels_from, save_labels
from misc.data.preparation import matched, save_lists
from misc.errors import UserError, counted, some
from misc.storage.files import ignores_case
from misc.storage.manifest import file_hash
from misc.storage.outputs import require_own, write_output

LISTS = ("all.txt", "train.txt", "val.txt", "eval.txt", "unlabelled.txt", "classes.txt",
         "photographs.txt")  # fmt: skip
MASKS = masks  # follows the step that makes pseudo masks
_VAL_EVERY = 10  # every so many images of a class one is of the validation split

log = logging.getLogger(__name__)


def prepare(
    info: FolderInfo,
    out_dir: Path,
    skip_mismatched: bool = False,
    with_labels: bool = True,
    with_masks: bool = True,
) -> None:
    """Write the lists and, `with_labels`, the label file into `out_dir`.

    val.txt has the validation split (or all, where there is none), eval.txt those of it with ground
    truth (or all with ground truth), for skip_mismatched of the image's size.
    """
    scan = info.scan()
    paths = {names.id_of(path): path for path in sorted(scan.labels.of)}
    ids, classes = list(paths), {i: scan.labels.of[path] for i, path in paths.items()}
    val = set(_val(info, classes))
    warn_of_copies(info, scan.labels.of)
    with_mask = masks.masked(info, ids)
    if skip_mismatched:
        with_mask = matched(with_mask, info)
    lists = {
        "all": ids,
        "train": [i for i in ids if i not in val],
        "val": [i for i in ids if i in val] or ids,
        "eval": [i for i in with_mask if i in val] or with_mask,
        "unlabelled": [names.id_of(path) for path in scan.unlabelled],
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    _require_cases_apart(out_dir, ids)
    if with_labels:
        path = out_dir / info.label_file
        require_own(path, "give it with --cls_labels from another folder")
        save_labels(path, labels_from(classes, info.num_classes))
    table = (f"{i}\t{os.fsencode(path).decode(errors='replace')}" for i, path in paths.items())
    for name, lines in (("photographs", table), ("classes", info.class_names)):
        text = "\n".join(lines) + "\n"
        write_output(out_dir / f"{name}.txt", text.encode(errors="replace"))
    save_lists(out_dir, {f"{name}.txt": of_list for name, of_list in lists.items()})
    log.info("%s", f"{len(val)} in the validation split, not trained on" if val else
             "no validation split: no class has ten images")  # fmt: skip


def _val(info: FolderInfo, classes: Mapping[str, tuple[int, ...]]) -> list[str]:
    path = info.source.val_list
    given = list(read_image_list(path, info)) if path else validation_split(classes)
    if unknown := [i for i in given if i not in classes]:
        lack = f"{counted({'photograph': len(unknown)})} without a label, such as {unknown[0]}"
        raise UserError(f"--val_list {path}: has {lack}; take them out, or add them to --labels")
    if len(set(given)) == len(classes):
        raise UserError(f"--val_list {path}: leaves no image to train on; take some out")
    return given


def validation_split(classes: Mapping[str, Sequence[int]]) -> list[str]:
    """A tenth of the images of every class (`classes`: of each image) that has ten or more.

    In the order of a hash of the ids, an image is taken where all of its classes have one to spare.
    """
    of_image = {i: of or (-1,) for i, of in classes.items()}  # -1: without any class
    counts = Counter(index for of in of_image.values() for index in of)
    spare = Counter({index: count // _VAL_EVERY for index, count in counts.items()})
    chosen = []
    for image_id in sorted(of_image, key=lambda i: hashlib.sha256(i.encode()).digest()):
        if all(spare[index] > 0 for index in of_image[image_id]):
            spare.subtract(of_image[image_id])
            chosen.append(image_id)
    return chosen


def warn_of_copies(info: FolderInfo, labels: Mapping[str, tuple[int, ...]]) -> None:
    """Log photographs of the same bytes and other labels (class indices by path below the root)."""
    groups = [list(labels)]
    for key_of in (os.path.getsize, file_hash):
        parts = defaultdict(list)
        for number, group in enumerate(groups):
            for path in group:
                with contextlib.suppress(OSError):  # said where the photographs are checked
                    parts[number, key_of(info.root / path)].append(path)
        groups = [part for part in parts.values() if len({labels[path] for path in part}) > 1]
    lines = []
    for first, *others in groups:
        other = next(path for path in others if labels[path] != labels[first])
        here, there = (some([info.class_names[c] for c in labels[path]]) or "none"
                       for path in (first, other))  # fmt: skip
        lines.append(f"{first} and {other} are the same photograph with other labels: {here} and "
                     f"{there}; correct one")  # fmt: skip
    if lines:
        log.warning("%s: %s", info.root, some(lines))


def _require_cases_apart(folder: Path, image_ids: list[str]) -> None:
    alike: dict[str, str] = {}
    pairs = ((alike.setdefault(names.normalised(i).casefold(), i), i) for i in image_ids)
    two = next((map(names.path_of, pair) for pair in pairs if pair[0] != pair[1]), None)
    if two and ignores_case(folder):
        same = f"differ in case only, and the file system of {folder} takes them for one"
        raise UserError(f"{' and '.join(two)} {same}; rename one, or give a --result_dir elsewhere")
