"""Writes a small drawn data set in the layout of PASCAL VOC 2012 or MS COCO 2014.

    python -m Dataset.make_sample --out DIR [--layout voc] [--train 24] [--val 12] [--seed 0]

It lets every step run on a machine without the real data. The same options give the same bytes;
another seed gives other images of the same classes, for training a classifier.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import argparse
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from Dataset import coco_layout, voc_layout
from Dataset.objects import COCO_OBJECT_CLASSES, OBJECT_CLASSES, ObjectClass, with_body_of
from Dataset.scene import Scene, draw_scene
from misc.errors import UserError
from misc.runtime.programs import said_plainly
from misc.storage.manifest import read_manifest, settings_difference, write_manifest

VERSION = 2  # to be raised when the drawing changes, so that an older sample is not taken for new
TRAIN_IMAGES, VAL_IMAGES, SEED = 24, 12, 0
SPLITS = ("train", "val")
MAX_IMAGES = 99_999  # of a split: an id of VOC is 2012_ and the split's digit and five more
OBJECT_COUNTS = (0.62, 0.28, 0.10)  # probabilities of 1, 2 and 3 objects in an image
COCO_OBJECT_COUNTS = (0.3, 0.4, 0.3)
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Layout:
    """What the images of a sample show, and how they are written.

    choose: objects of the image with an index, from a random generator. write_split: writes the
    scenes of a split, "train" or "val", into a folder.
    """

    classes: tuple[ObjectClass, ...]
    choose: Callable[[np.random.Generator, int], list[ObjectClass]]
    write_split: Callable[[Path, str, Iterable[Scene]], None]


def make_sample(
    out_dir: Path,
    num_train: int = TRAIN_IMAGES,
    num_val: int = VAL_IMAGES,
    seed: int = SEED,
    borrowed: float = 0.0,
    layout: str = "voc",
) -> bool:
    """Write the sample to `out_dir`; False where it is there already.

    layout: one of LAYOUTS. borrowed: share of objects whose body looks like that of a class drawn
    at random. A classifier trained on such images trusts heads more than bodies.

    The folder appears under its name only when it is complete. Raises UserError where a number is
    out of range and where `out_dir` holds anything else, or a sample drawn with other options.
    """
    out_dir = out_dir.resolve()
    for flag, number, low, high in (
        ("--train", num_train, 1, MAX_IMAGES),
        ("--val", num_val, 1, MAX_IMAGES),
        ("--seed", seed, 0, MAX_SEED),
    ):
        if not low <= number <= high:
            raise UserError(f"{flag} {number} is out of range: it must be in {low}..{high}")
    settings = {"version": VERSION, "train": num_train, "val": num_val, "seed": seed}
    settings["borrowed"] = borrowed
    if layout != "voc":
        settings["layout"] = layout
    if _is_complete(out_dir, settings):
        return False
    with _folder_when_complete(out_dir) as folder:
        for split, count in zip(SPLITS, (num_train, num_val), strict=True):
            scenes = (_scene(LAYOUTS[layout], split, i, seed, borrowed) for i in range(count))
            LAYOUTS[layout].write_split(folder, split, scenes)
        write_manifest(folder, settings)
    return True


def choose_objects(
    rng: np.random.Generator, index: int, classes: Sequence[ObjectClass] = OBJECT_CLASSES
) -> list[ObjectClass]:
    """Objects of the image with this index: at most two classes, and the first one goes round.

    So all classes are about equally frequent, and most images share no class with a given one: RIB
    fills its batches with such images.
    """
    count = 1 + int(rng.choice(len(OBJECT_COUNTS), p=OBJECT_COUNTS))
    first = classes[index % len(classes)]
    pair = (first, classes[rng.integers(len(classes))])
    return [first, *(pair[i] for i in rng.integers(len(pair), size=count - 1))]


def choose_coco_objects(
    rng: np.random.Generator, index: int, classes: Sequence[ObjectClass] = COCO_OBJECT_CLASSES
) -> list[ObjectClass]:
    """Objects of an image of the COCO sample: mostly two classes, at times none, or a crowd.

    As in `choose_objects` the first class goes round.
    """
    if index % 12 == 7:
        return []
    first = index % len(classes)
    other = (first + rng.integers(1, len(classes))) % len(classes)
    if index % 8 == 5:
        return [*[classes[first]] * coco_layout.CROWD, classes[other]]
    count = 1 + int(rng.choice(len(COCO_OBJECT_COUNTS), p=COCO_OBJECT_COUNTS))
    chosen = [first, other, rng.choice((first, other))][:count]
    return [classes[chosen[i]] for i in rng.permutation(count)]


LAYOUTS = {
    "voc": Layout(OBJECT_CLASSES, choose_objects, voc_layout.write_split),
    "coco": Layout(COCO_OBJECT_CLASSES, choose_coco_objects, coco_layout.write_split),
}


def _scene(layout: Layout, split: str, index: int, seed: int, borrowed: float) -> Scene:
    """Draws one image, which does not depend on the other ones."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    objects = layout.choose(rng, index)
    return draw_scene(rng, [_dressed(rng, kind, borrowed, layout.classes) for kind in objects])


def _dressed(
    rng: np.random.Generator, kind: ObjectClass, borrowed: float, classes: Sequence[ObjectClass]
) -> ObjectClass:
    if borrowed and rng.random() < borrowed:
        return with_body_of(kind, classes[rng.integers(len(classes))])
    return kind


def _is_complete(out_dir: Path, settings: dict[str, float]) -> bool:
    """Whether the sample is there; UserError where `out_dir` is taken by something else."""
    if not out_dir.exists():
        return False
    if not out_dir.is_dir():
        raise UserError(f"--out {out_dir}: is a file; give a folder")
    noted = read_manifest(out_dir)
    if noted is None:
        if any(out_dir.iterdir()):
            raise UserError(f"--out {out_dir}: holds other files; give a new or an empty folder")
        return False
    if difference := settings_difference(noted, settings):
        raise UserError(
            f"--out {out_dir}: holds another sample ({difference}); remove it or give another --out"
        )
    return True


@contextmanager
def _folder_when_complete(folder: Path) -> Iterator[Path]:
    """Yields a new sibling of `folder`, which takes its name when the block ends well."""
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():  # an empty folder, which os.replace accepts on some systems only
            folder.rmdir()
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(
            f"--out {folder}: cannot be written ({error}); give another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
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
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code, which is 2 for bad input."""
    args = _parser().parse_args(arguments)

    def draw() -> None:
        written = make_sample(args.out, args.train, args.val, args.seed, layout=args.layout)
        state = "written" if written else "there already"
        print(f"{args.out}: {args.train} train and {args.val} val images, {state}")

    return said_plainly(draw)


if __name__ == "__main__":
    sys.exit(main())
