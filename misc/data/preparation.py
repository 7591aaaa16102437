"""Lists, label file and command line, shared by the preparations of all datasets."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from misc.data.dataset_info import DatasetInfo
from misc.runtime.programs import said_plainly
from misc.storage.cam_files import save_label_dict
from misc.storage.outputs import require_own, write_output

log = logging.getLogger(__name__)


def matched(image_ids: Iterable[str], info: DatasetInfo) -> list[str]:
    """The images whose mask has their size, or is not here; the log names those left out."""
    image_ids = list(image_ids)
    kept = [i for i in image_ids if not info.mask_path(i).is_file() or info.mask_fits(i)]
    if left_out := sorted(set(image_ids) - set(kept)):
        log.warning("left out: %d of %d images, whose mask has another size: %s",
                    len(left_out), len(image_ids), ", ".join(left_out))  # fmt: skip
    return kept


def save_prepared(
    info: DatasetInfo,
    folder: Path,
    lists: Mapping[str, Sequence[str]],
    labels_of: Callable[[set[str]], Mapping[str, np.ndarray]] | None,
    skip_mismatched: bool,
) -> None:
    """Write lists of image ids by name and the label file, of labels by id, if `labels_of`."""
    if skip_mismatched:
        lists = {name: matched(image_ids, info) for name, image_ids in lists.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if labels_of:
        path = folder / info.label_file
        require_own(path, "give it with --cls_labels from another folder")
        labels = labels_of({image_id for image_ids in lists.values() for image_id in image_ids})
        save_label_dict(path, {info.label_key(i): label for i, label in labels.items()})
    save_lists(folder, lists)


def save_lists(folder: Path, lists: Mapping[str, Sequence[str]]) -> None:
    """Write each list of image ids under its name; UserError first where one is not ours."""
    contents = {folder / name: "\n".join(ids) + "\n" for name, ids in lists.items()}
    for path in contents:
        require_own(path, "give it with --train_list, --infer_list or --eval_list")
    for path, content in contents.items():
        write_output(path, content.encode("utf-8"))
    counts = (f"{Path(name).stem} {len(image_ids)}" for name, image_ids in lists.items())
    log.info("%s: images in %s", folder, ", ".join(counts))


def command_line(
    describe: Callable[[Path], DatasetInfo], prepare: Callable, description: str, out_dir: str
) -> None:
    """Run `python -m DATASET.prepare`."""
    flag = describe(Path()).root_flag
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(flag, required=True, type=Path, metavar="DIR", dest="root")
    parser.add_argument("--out_dir", default=Path(out_dir), type=Path, metavar="DIR")
    parser.add_argument("--skip_mismatched", action="store_true")
    args = parser.parse_args()

    def work() -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        (info := describe(args.root)).require_root()
        prepare(info, args.out_dir, args.skip_mismatched)

    sys.exit(said_plainly(work))
