"""Writes a small synthetic data set in the layout of PASCAL VOC 2012 or MS COCO 2014.

    python -m Dataset.make_sample --out DIR [--layout voc] [--train 24] [--val 12] [--seed 0]

The same options give the same bytes; another seed gives other images of the same classes.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import argparse
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from Dataset import coco_layout, voc_layout
from Dataset.objects import COCO_OBJECT_CLASSES, OBJECT_CLASSES, ObjectClass, with_body_of
from Dataset.scene import Scene, draw_scene
from misc.errors import UserError
from misc.runtime.programs import said_plainly
from misc.storage.manifest import read_manifest, settings_difference, write_manifest

VERSION = 2  # of the drawing
TRAIN_IMAGES, VAL_IMAGES, SEED = 24, 12, 0
SPLITS = ("train", "val")
MAX_IMAGES = 99_999  # of a split: an id of VOC is 2012_ and the split's digit and five more
MAX_SEED = 2**32 - 1
VOC_COUNTS, COCO_COUNTS = (0.62, 0.28, 0.10), (0.3, 0.4, 0.3)  # probabilities of 1, 2, 3 objects


def choose_objects(rng: Generator, index: int) -> list[ObjectClass]:
    """Objects of the image with this index: at most two classes, and the first one goes round.

    So most images share no class with a given one: RIB fills its batches with such images.
    """
    count = 1 + int(rng.choice(3, p=VOC_COUNTS))
    first = OBJECT_CLASSES[index % len(OBJECT_CLASSES)]
    pair = (first, OBJECT_CLASSES[rng.integers(len(OBJECT_CLASSES))])
    return [first, *(pair[i] for i in rng.integers(len(pair), size=count - 1))]


def choose_coco_objects(rng: Generator, index: int) -> list[ObjectClass]:
    """Objects of an image of the COCO sample: mostly two classes, at times none, or a crowd."""
    classes = COCO_OBJECT_CLASSES
    if index % 12 == 7:
        return []
    first = index % len(classes)
    other = (first + rng.integers(1, len(classes))) % len(classes)
    if index % 8 == 5:
        return [*[classes[first]] * coco_layout.CROWD, classes[other]]
    count = 1 + int(rng.choice(3, p=COCO_COUNTS))
    chosen = [first, other, rng.choice((first, other))][:count]
    return [classes[chosen[i]] for i in rng.permutation(count)]


class Layout(NamedTuple):
    """Classes of a sample, the objects of an image by its index, and the writer of a split."""

    classes: tuple[ObjectClass, ...]
    choose: Callable[[Generator, int], list[ObjectClass]]
    write_split: Callable[[Path, str, Iterable[Scene]], None]


LAYOUTS = {
    "voc": Layout(OBJECT_CLASSES, choose_objects, voc_layout.write_split),
    "coco": Layout(COCO_OBJECT_CLASSES, choose_coco_objects, coco_layout.write_split),
}


def make_sample(
    out_dir: Path,
    num_train: int = TRAIN_IMAGES,
    num_val: int = VAL_IMAGES,
    seed: int = SEED,
    borrowed: float = 0.0,
    layout: str = "voc",
) -> bool:
    """Write the sample to `out_dir`, which appears complete; False where it is there already.

    borrowed: fraction of objects whose body looks like that of a class drawn at random.
    """
    out_dir = out_dir.resolve()
    numbers = {"train": num_train, "val": num_val, "seed": seed}
    for flag, number in numbers.items():
        low, high = (0, MAX_SEED) if flag == "seed" else (1, MAX_IMAGES)
        if not low <= number <= high:
            raise UserError(f"--{flag} {number} is out of range: it must be in {low}..{high}")
    settings = {"version": VERSION, **numbers, "borrowed": borrowed}
    settings |= {"layout": layout} if layout != "voc" else {}
    if _is_complete(out_dir, settings):
        return False
    temporary = out_dir.with_name(f".{out_dir.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        for split, count in zip(SPLITS, (num_train, num_val), strict=True):
            scenes = (_scene(LAYOUTS[layout], split, i, seed, borrowed) for i in range(count))
            LAYOUTS[layout].write_split(temporary, split, scenes)
        write_manifest(temporary, settings)
        if out_dir.exists():  # an empty folder, which os.replace accepts on some systems only
            out_dir.rmdir()
        os.replace(temporary, out_dir)
    except OSError as error:
        raise UserError(f"--out {out_dir}: cannot be written ({error}); give another") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _scene(layout: Layout, split: str, index: int, seed: int, borrowed: float) -> Scene:
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    objects = layout.choose(rng, index)
    for i, kind in enumerate(objects):
        if borrowed and rng.random() < borrowed:
            objects[i] = with_body_of(kind, layout.classes[rng.integers(len(layout.classes))])
    return draw_scene(rng, objects)


def _is_complete(out_dir: Path, settings: dict[str, float]) -> bool:
    if out_dir.is_file():
        raise UserError(f"--out {out_dir}: is a file; give a folder")
    if not out_dir.is_dir() or not any(out_dir.iterdir()):
        return False
    recorded = read_manifest(out_dir)
    if recorded is None:
        raise UserError(f"--out {out_dir}: holds other files; give a new or an empty folder")
    if difference := settings_difference(recorded, settings):
        raise UserError(
            f"--out {out_dir}: holds another sample ({difference}); remove it or give another --out"
        )
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code, which is 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m Dataset.make_sample",
        description="Draws a small data set in the layout of PASCAL VOC 2012 or MS COCO 2014.",
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="new folder for the sample")
    add("--layout", choices=tuple(LAYOUTS), default="voc", help="(%(default)s)")
    add("--train", type=int, default=TRAIN_IMAGES, help="training images (%(default)s)")
    add("--val", type=int, default=VAL_IMAGES, help="validation images (%(default)s)")
    add("--seed", type=int, default=SEED, help="0 or more; other images (%(default)s)")
    args = parser.parse_args(arguments)

    def draw() -> None:
        written = make_sample(args.out, args.train, args.val, args.seed, layout=args.layout)
        state = "written" if written else "there already"
        print(f"{args.out}: {args.train} train and {args.val} val images, {state}")

    return said_plainly(draw)


if __name__ == "__main__":
    sys.exit(main())
