"""Looks at everything that the chosen steps will read and write, before hours of computing."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from misc.cams import CAM_STRIDE, load_cam
from misc.datasets import load_labels, read_image
from misc.disjoint import DisjointIndex
from misc.errors import UserError, raise_first
from misc.imutils import get_strided_size
from misc.manifest import OutputFolder, check_folder, make_writable
from misc.options import Options, check_device
from misc.palette import read_label_png
from net.checkpoint import load_backbone, load_boundary_net, load_classifier


class Preflight:
    """Checks shared by the steps' `check` functions; each check is made once.

    planned: names of the steps of this run. What one of them will make is not asked for.
    """

    def __init__(self, args: Options, planned: list[str]):
        self.args, self.info, self.planned = args, args.info, planned
        self._done: set[tuple] = set()
        check_device(args.device)
        make_writable(args.result_dir, "--result_dir")

    def images(self, image_ids: Iterable[str]) -> None:
        """Images are there and are whole JPEG files."""
        self._all(image_ids, self._check_image, "image")

    def labels(self, image_ids: tuple[str, ...]) -> None:
        """Images have image-level labels."""
        self._once(
            ("labels", image_ids),
            lambda: load_labels(self.args.cls_labels, image_ids, self.info),
        )

    def masks(self, image_ids: Iterable[str]) -> None:
        """Ground truth masks are there, have their image's size and no label beyond the classes."""
        self._all(image_ids, self._check_mask, "mask")

    def label_maps(self, image_ids: Iterable[str], folder: Path, made_by: str) -> None:
        """Label maps of an earlier step are there, unless this run makes them."""
        if self._made_here(made_by, image_ids):
            return
        self._all(
            image_ids,
            lambda i: self._check_label_map(folder / f"{i}.png", i, made_by),
            f"label map in {folder}",
        )

    def cams(self, image_ids: Iterable[str], folder: Path, made_by: str) -> None:
        """Saved maps are there and belong to these images, unless this run makes them."""
        if self._made_here(made_by, image_ids):
            return
        self._all(image_ids, lambda i: self._check_cam(folder / f"{i}.npy", i), f"map in {folder}")

    def classifier(self, path: Path) -> None:
        """The classifier's checkpoint fits, unless this run trains it."""
        if "train_cam" not in self.planned:
            self._once(("classifier", path), lambda: load_classifier(path, self.info.num_classes))

    def boundary_net(self, path: Path) -> None:
        """IRN's checkpoint fits, unless this run trains it."""
        if "train_irn" not in self.planned:
            self._once(("boundary net", path), lambda: load_boundary_net(path))

    def backbone(self, path: Path | None) -> None:
        """The file that training starts from fits; torchvision's download is tried here."""
        self._once(("backbone", path), lambda: load_backbone(path))

    def disjoint_images(self) -> None:
        """Every image to fine-tune on has others without its classes to draw batches from."""
        args, targets = self.args, self.args.image_ids("infer")
        drawn = load_labels(args.cls_labels, args.image_ids("train", limited=False), self.info)
        index = DisjointIndex(drawn)
        labels = load_labels(args.cls_labels, targets, self.info)
        raise_first(
            [
                f"{args.train_list}: every image shares a class with {image_id}, so RIB can draw "
                f"no batches for it; give a --train_list with other classes too"
                for image_id, label in zip(targets, labels, strict=True)
                if label.any() and not index.disjoint(label).size
            ]
        )

    def output(self, folder: OutputFolder, options: dict) -> None:
        """An output folder can be written and does not hold results of other options."""
        if not self.args.overwrite:
            check_folder(folder, options)
        make_writable(folder.path, folder.flag)

    def _made_here(self, step: str, image_ids: Iterable[str]) -> bool:
        if step not in self.planned:
            return False
        missing = set(image_ids) - set(self.args.image_ids("infer"))
        if missing:
            raise UserError(
                f"--infer_list {self.args.infer_list}: has no {min(missing)}, nor "
                f"{len(missing) - 1} more images that are needed later; give lists that agree "
                f"(--eval_list, --train_list)"
            )
        return True

    def _once(self, key: tuple, check: Callable[[], object]) -> None:
        """Make a check unless it was made for another step; it raises UserError."""
        if key not in self._done:
            check()
            self._done.add(key)

    def _all(self, image_ids: Iterable[str], check: Callable[[str], None], what: str) -> None:
        """Run a check on all images, side by side; one UserError for all that fail."""
        todo = [i for i in image_ids if (what, i) not in self._done]
        with ThreadPoolExecutor() as pool:
            raise_first([p for p in pool.map(lambda i: _problem(check, i), todo) if p])
        self._done.update((what, i) for i in todo)

    def _check_image(self, image_id: str) -> None:
        self.info.image_size(image_id)
        path = self.info.image_path(image_id)
        with open(path, "rb") as file:
            start = file.read(2)
            file.seek(-min(64, os.path.getsize(path)), os.SEEK_END)
            end = file.read()
        if start != b"\xff\xd8":
            raise UserError(f"{path}: is no JPEG file; restore the file")
        if b"\xff\xd9" not in end:  # cut off, or bytes behind the end marker: decoding tells
            read_image(path)

    def _check_mask(self, image_id: str) -> None:
        path = self.info.mask_path(image_id)
        if not path.is_file():
            raise UserError(
                f"{path}: no ground truth mask of {image_id}; give an --eval_list of "
                f"images that have one"
            )
        mask = read_label_png(path)
        size = self.info.image_size(image_id)
        if mask.shape != size:
            raise UserError(
                f"{path}: is {mask.shape[1]}x{mask.shape[0]}, its image is "
                f"{size[1]}x{size[0]}; restore it, or leave such images out with "
                "--skip_mismatched"
            )
        self._check_values(path, mask)

    def _check_label_map(self, path: Path, image_id: str, made_by: str) -> None:
        if not path.is_file():
            raise UserError(f"{path}: missing; run --{made_by}_pass first or give its folder")
        labels = read_label_png(path)
        if labels.shape != self.info.image_size(image_id):
            raise UserError(f"{path}: has another size than its image; run --{made_by}_pass again")
        self._check_values(path, labels)

    def _check_values(self, path: Path, labels: np.ndarray) -> None:
        highest = labels[labels < 255].max(initial=0)
        if highest > self.info.num_classes:
            raise UserError(
                f"{path}: has label {highest}, {self.info.name} ends at "
                f"{self.info.num_classes}; use this dataset's masks"
            )

    def _check_cam(self, path: Path, image_id: str) -> None:
        maps = load_cam(path)
        keys, size = maps["keys"], self.info.image_size(image_id)
        fits = len(keys) == 0 or (
            keys.max() < self.info.num_classes
            and maps["high_res"].shape[1:] == size
            and maps["cam"].shape[1:] == get_strided_size(size, CAM_STRIDE)
        )
        if not fits:
            raise UserError(
                f"{path}: holds maps of another image or dataset (classes {keys.tolist()}, size "
                f"{maps['high_res'].shape[1:]}, image {size}); make the maps of {self.info.name} "
                f"again or give another --cam_out_dir"
            )


def _problem(check: Callable[[str], None], image_id: str) -> str:
    try:
        check(image_id)
    except UserError as error:
        return str(error)
    return ""
