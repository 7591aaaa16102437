"""Scenes in the layout of PASCAL VOC 2012."""

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from scipy import ndimage

from Dataset.scene import Scene
from misc.labels import save_palette_png
from voc12.dataset import CLASS_NAMES

SPLITS = ("train", "val")
LIST_FOLDER = "ImageSets/Segmentation"
FOLDERS = ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationClassAug",
           "SegmentationObject", LIST_FOLDER)  # fmt: skip
VOID = 255


def write_split(folder: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write images, masks, annotations and the list of a split."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    image_ids = []
    for number, scene in enumerate(scenes, start=1):
        image_ids.append(f"2012_{SPLITS.index(split)}{number:05d}")
        _write_image(folder, split, image_ids[-1], scene)
    text = "".join(f"{image_id}\n" for image_id in image_ids)
    (folder / LIST_FOLDER / f"{split}.txt").write_text(text, newline="\n")


def _write_image(folder: Path, split: str, image_id: str, scene: Scene) -> None:
    Image.fromarray(scene.image).save(folder / "JPEGImages" / f"{image_id}.jpg", quality=92)
    tree = ElementTree.ElementTree(annotation(image_id, scene))
    tree.write(folder / "Annotations" / f"{image_id}.xml", encoding="utf-8")
    labels = label_map(scene)
    save_palette_png(folder / "SegmentationClass" / f"{image_id}.png", labels)
    save_palette_png(folder / "SegmentationObject" / f"{image_id}.png", object_map(scene, labels))
    if split == "train":
        save_palette_png(folder / "SegmentationClassAug" / f"{image_id}.png", labels)


def label_map(scene: Scene) -> np.ndarray:
    """Mask of a scene, H x W uint8: 0, class + 1, and a ring of 255, one pixel in and one out."""
    labels = np.zeros(scene.image.shape[:2], np.uint8)
    ring = np.zeros(labels.shape, bool)
    for instance in scene.instances:
        labels[instance.mask] = CLASS_NAMES.index(instance.name) + 1
        inner = ndimage.binary_erosion(instance.mask, border_value=1)
        ring |= ndimage.binary_dilation(instance.mask) & ~inner
    labels[ring] = VOID
    return labels


def object_map(scene: Scene, labels: np.ndarray) -> np.ndarray:
    """Mask of the objects of a scene, H x W uint8: 1, 2, ... and 255 where `labels` has that."""
    objects = np.zeros(labels.shape, np.uint8)
    for number, instance in enumerate(scene.instances, start=1):
        objects[instance.mask] = number
    objects[labels == VOID] = VOID
    return objects


def annotation(image_id: str, scene: Scene) -> ElementTree.Element:
    """Annotation of a scene as in the official files: boxes are 1-based and include both ends."""
    height, width = scene.image.shape[:2]
    root = ElementTree.Element("annotation")
    _add(root, folder="VOC2012", filename=f"{image_id}.jpg")
    _add(ElementTree.SubElement(root, "source"), database="synthetic", annotation="synthetic")
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
