"""The disk that the maps of a run need, which --check compares with what is free."""

import logging
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from misc.cli.options import Options
from misc.data.label_file import load_labels
from misc.errors import UserError

log = logging.getLogger(__name__)

_LOOKED_AT = 60  # images whose sizes and classes stand for all
_MAP_BYTES = 4 * (1 + 1 / 16)  # of a pixel of a map: at full size and at stride 4, float32


def say_disk(args: Options, steps: Iterable[str]) -> None:
    """Log the disk that maps need and what is free; a warning where that is too little."""
    folders = sum(name.startswith(("make_cam", "make_recam", "import_maps")) for name in steps)
    if not folders:
        return
    try:
        needed = folders * len(args.image_ids("infer")) * _bytes_of_image(args)
    except UserError as error:  # labels, which these steps may not need
        log.info("the disk that maps need cannot be estimated: %s", error)
        return
    free = shutil.disk_usage(_existing(args.result_dir)).free
    say = log.warning if needed > free else log.info
    say("maps need about %.2f GB of disk, %.2f GB are free in %s", needed / 1e9, free / 1e9,
        args.result_dir)  # fmt: skip


def _bytes_of_image(args: Options) -> float:
    """Bytes of the maps of an image, a mean of some; its masks take a hundredth of that."""
    ids = args.image_ids("infer")
    ids = random.Random(0).sample(ids, min(_LOOKED_AT, len(ids)))
    labels = load_labels(args.cls_labels, ids, args.info)
    sizes = [args.info.image_size(image_id) for image_id in ids]
    height, width = np.mean(sizes, axis=0)
    return _MAP_BYTES * (labels.rows.nnz / len(ids)) * height * width


def _existing(path: Path) -> Path:
    """The nearest folder above a path that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
