"""Writes a small drawn data set in the layout of PASCAL VOC 2012.

    python -m Dataset.make_sample --out DIR [--train 24] [--val 12] [--seed 0]

It lets every step run on a machine without the real data. The same options give the same bytes;
another seed gives other images of the same classes, for training a classifier.
"""

import argparse
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from scipy import ndimage

from Dataset.objects import OBJECT_CLASSES, ObjectClass, with_body_of
from Dataset.scene import Scene, draw_scene
from misc.errors import UserError
from misc.manifest import read_manifest, settings_difference, write_manifest
from misc.palette import save_palette_png
from voc12.dataset import CLASS_NAMES

VERSION = 1  # to be raised when the drawing changes, so that an older sample is not taken for new
TRAIN_IMAGES, VAL_IMAGES, SEED = 24, 12, 0
LIST_FOLDER = "ImageSets/Segmentation"
FOLDERS = ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationClassAug", LIST_FOLDER)
SPLITS = ("train", "val")
MAX_IMAGES = 99_999  # of a split: an id is 2012_ and the split's digit and five more
OBJECT_COUNTS = (0.62, 0.28, 0.10)  # probabilities of 1, 2 and 3 objects in an image
MAX_SEED = 2**32 - 1
VOID = 255


def make_sample(
    out_dir: Path,
    num_train: int = TRAIN_IMAGES,
    num_val: int = VAL_IMAGES,
    seed: int = SEED,
    borrowed: float = 0.0,
) -> bool:
    """Write the sample to `out_dir`; False where it is there already.

    borrowed: share of objects whose body looks like that of a class drawn at random. A classifier
    trained on such images trusts heads more than bodies.

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
    if _is_complete(out_dir, settings):
        return False
    with _folder_when_complete(out_dir) as folder:
        for name in FOLDERS:
            (folder / name).mkdir(parents=True)
        for split, count in zip(SPLITS, (num_train, num_val), strict=True):
            image_ids = [_write_image(folder, split, i, seed, borrowed) for i in range(count)]
            text = "".join(f"{image_id}\n" for image_id in image_ids)
            (folder / LIST_FOLDER / f"{split}.txt").write_text(text, newline="\n")
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


def label_map(scene: Scene, class_names: Sequence[str] = CLASS_NAMES) -> np.ndarray:
    """Mask of a scene, H x W uint8: 0 background, class + 1, and a ring of 255 round each object.

    The ring is the outermost pixel of the object and one pixel outside; it also parts two objects
    that touch.
    """
    labels = np.zeros(scene.image.shape[:2], np.uint8)
    ring = np.zeros(labels.shape, bool)
    for instance in scene.instances:
        labels[instance.mask] = class_names.index(instance.name) + 1
        inner = ndimage.binary_erosion(instance.mask, border_value=1)
        ring |= ndimage.binary_dilation(instance.mask) & ~inner
    labels[ring] = VOID
    return labels


def annotation(image_id: str, scene: Scene) -> ElementTree.Element:
    """Annotation of a scene as in the official files: boxes are 1-based and include both ends."""
    height, width = scene.image.shape[:2]
    root = ElementTree.Element("annotation")
    _add(root, folder="VOC2012", filename=f"{image_id}.jpg")
    _add(ElementTree.SubElement(root, "source"), database="Drawn sample", annotation="Drawn sample")
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=1)
    for instance in scene.instances:
        rows, columns = ndimage.find_objects(instance.mask.astype(np.uint8))[0]
        cut = rows.start == 0 or columns.start == 0 or rows.stop == height or columns.stop == width
        element = ElementTree.SubElement(root, "object")
        _add(element, name=instance.name, pose="Unspecified", truncated=int(cut), difficult=0)
        box = ElementTree.SubElement(element, "bndbox")
        _add(box, xmin=columns.start + 1, ymin=rows.start + 1, xmax=columns.stop, ymax=rows.stop)
    ElementTree.indent(root, "\t")
    return root


def _add(parent: ElementTree.Element, **children: str | int) -> None:
    for tag, value in children.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def _dressed(rng: np.random.Generator, kind: ObjectClass, borrowed: float) -> ObjectClass:
    if borrowed and rng.random() < borrowed:
        return with_body_of(kind, OBJECT_CLASSES[rng.integers(len(OBJECT_CLASSES))])
    return kind


def _write_image(folder: Path, split: str, index: int, seed: int, borrowed: float) -> str:
    """Draws and writes one image; returns its id. An image does not depend on the other ones."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    objects = [_dressed(rng, kind, borrowed) for kind in choose_objects(rng, index)]
    scene = draw_scene(rng, objects)
    image_id = f"2012_{SPLITS.index(split)}{index + 1:05d}"
    Image.fromarray(scene.image).save(folder / "JPEGImages" / f"{image_id}.jpg", quality=92)
    tree = ElementTree.ElementTree(annotation(image_id, scene))
    tree.write(folder / "Annotations" / f"{image_id}.xml", encoding="utf-8")
    labels = label_map(scene)
    save_palette_png(folder / "SegmentationClass" / f"{image_id}.png", labels)
    if split == "train":
        save_palette_png(folder / "SegmentationClassAug" / f"{image_id}.png", labels)
    return image_id


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
        description="Draws a small data set in the layout of PASCAL VOC 2012.",
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="new folder for the sample")
    add("--train", type=int, default=TRAIN_IMAGES, help="training images (%(default)s)")
    add("--val", type=int, default=VAL_IMAGES, help="validation images (%(default)s)")
    add("--seed", type=int, default=SEED, help="0 or more; other images (%(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code, which is 2 for bad input."""
    args = _parser().parse_args(arguments)
    try:
        written = make_sample(args.out, args.train, args.val, args.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    state = "written" if written else "there already"
    print(f"{args.out}: {args.train} train and {args.val} val images, {state}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
