"""Looks at everything that the chosen steps will read and write, before hours of computing."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from misc.cams import CAM_STRIDE, load_cam
from misc.cli.options import RECAM, STEPS, Options
from misc.data.dataset_info import IMAGE_FORMATS, DatasetInfo
from misc.data.datasets import mask_of
from misc.data.folder.photographs import check_photograph
from misc.data.label_file import Labels, known_classes, load_labels
from misc.data.mask_content import Compared, Content, content_of
from misc.data.rib_batches import disjoint
from misc.errors import Problems, UserError, counted, raise_problems
from misc.imutils import get_strided_size
from misc.labels import read_label_png
from misc.runtime.processes import cpu_count, map_in_processes
from misc.runtime.programs import progress
from misc.runtime.training import check_target
from misc.storage.images import check_jpeg, is_rotated
from misc.storage.manifest import NAME, check_folder, read_manifest, require_writable, weights_name
from misc.storage.outputs import Output, is_not_ours, not_ours_line, require_own
from net.checkpoint import (
    backbone_arch,
    load_backbone,
    load_boundary_net,
    load_classifier,
    load_segmentation,
)

log = logging.getLogger(__name__)

# Masks belong to the pixels as they are stored, so these are what the networks see.
_ROTATED = "with an EXIF rotation, which is not applied: masks are of the stored pixels"
_CHUNK = 64  # files that a process looks at before it reports
# Below this many files, at a millisecond each, one process is faster than the start of others.
_WORTH_PROCESSES = 4_000
_MOST_PROCESSES = 16  # each holds its own torch

# What is found in a file of an image, for the judge of its kind: such as a text to warn of.
ImageCheck = Callable[[str], object]
# What was found, by image -> problems of all together, and warnings.
Judge = Callable[[dict[str, object]], tuple[list[str], list[str]]]


class Files(NamedTuple):
    """Files of one kind to look at: one check of each, and one of all together."""

    check: ImageCheck
    judge: Judge
    image_ids: dict[str, None]


class Preflight:
    """Checks shared by the steps' `check` functions; each is made once, problems are collected.

    steps: those of this run, by name; what one of them will make is not asked for. known: all.
    """

    def __init__(
        self, args: Options, steps: Mapping[str, ModuleType], known: Mapping[str, ModuleType]
    ):
        self.args, self.info, self._known = args, args.info, known
        self._planned = makers(args, steps)
        self._problems = Problems()
        self._looked_at: dict[str, set] = {"label": set(), "checkpoint": set()}
        # Kind of file -> check of one image and the images, for `finish`. The photographs come
        # first, so that a broken one is not reported as a problem of the mask or map beside it.
        check = partial(check_image, self.info, quick=args.check == "quick")
        self._files = {"image": Files(check, warned_together, {})}
        self._start = time.perf_counter()

    def collect(self, check: Callable[[], object], kind: str = "other") -> None:
        """Make a check now; its UserError is kept for `finish`."""
        try:
            check()
        except UserError as error:
            self._problems.add_error(kind, error)

    def images(self, image_ids: Iterable[str]) -> None:
        """Images are there and are whole JPEG files (under --check quick: their headers are)."""
        self._files["image"].image_ids.update(dict.fromkeys(image_ids))

    def labels(self, image_ids: Iterable[str]) -> None:
        """Images have image-level labels."""
        new = tuple(i for i in dict.fromkeys(image_ids) if i not in self._looked_at["label"])
        if new:
            self._looked_at["label"].update(new)
            self.collect(lambda: load_labels(self.args.cls_labels, new, self.info), "label")

    def masks(self, image_ids: Iterable[str]) -> None:
        """Ground truth masks are there, have their image's size and show classes of its labels.

        Under --check those that a run would draw from annotations first are left out.
        """
        if self.args.check and self.info.draws_masks:
            image_ids = [i for i in image_ids if self.info.mask_path(i).is_file()]
            if not image_ids:
                return
        folders = [folder for folder in self.info.mask_dirs if folder.is_dir()]
        if self.info.mask_dirs and not folders and not self.info.draws_masks:
            self._no_folder("mask", self.info.mask_dirs[0], "give the masks, or leave out scoring")
            return
        flag = "--masks " if "masks" in self.args.given else ""
        judge = partial(self._compared, f"{flag}{folders[0]}" if folders else "--masks", True)
        self._later("mask", image_ids, partial(check_mask, self.info), judge)

    def each(
        self, kind: str, image_ids: Iterable[str], check: ImageCheck, judge: Judge | None = None
    ) -> None:
        """A check of a step's own, of every image.

        It returns what the judge looks at; without a judge that is a text to warn of.
        """
        self._later(kind, image_ids, check, judge or warned_together)

    def is_made(self, path: Path) -> bool:
        """Whether a planned step writes a folder or file, so that it need not be there yet."""
        return path.resolve() in self._planned

    def label_maps(
        self,
        image_ids: Iterable[str],
        folder: Path,
        advice: str = "",
        role: str = "infer",
        trained_on: bool = False,
    ) -> None:
        """Label maps of an earlier step are there, unless this run makes them for a list.

        trained_on: of a network's training, for which they have to show classes of the labels.
        """
        if self._made_here(folder, image_ids, role):
            return
        kind = f"label map in {folder}"
        self.collect(lambda: read_manifest(folder))
        advice = self._advice(folder, advice or "give another folder")
        if not folder.is_dir():
            self._no_folder(kind, folder, advice)
            return
        judge = partial(self._compared, str(folder), trained_on)
        if not trained_on and (folder / NAME).exists():
            judge = warned_together  # made by this program: numbered as it has to be
        self._later(kind, image_ids, partial(check_label_map, self.info, folder, advice), judge)

    def cams(self, image_ids: Iterable[str], folder: Path) -> None:
        """Saved maps are there and belong to these images, unless this run makes them."""
        if self._made_here(folder, image_ids):
            return
        self.collect(lambda: read_manifest(folder))
        if not folder.is_dir():
            self._no_folder(f"map in {folder}", folder, self._advice(folder, "give another folder"))
            return
        check = partial(check_cam, self.info, folder)
        self._later(f"map in {folder}", image_ids, check, warned_together)

    def classifier(self, path: Path) -> None:
        """The classifier's checkpoint fits, unless this run trains it."""
        if not self.is_made(path):
            self._checkpoint(("classifier", path), partial(_load_classifier, path, self.info))

    def boundary_net(self, path: Path) -> None:
        """IRN's checkpoint fits, unless this run trains it."""
        if not self.is_made(path):
            self._checkpoint(("boundary net", path), partial(load_boundary_net, path))

    def segmentation(self, path: Path) -> None:
        """The segmentation network's checkpoint fits, unless this run trains it."""
        if not self.is_made(path):
            load = partial(load_segmentation, path, self.info.num_labels)
            self._checkpoint(("segmentation", path), load)

    def backbone(
        self, path: Path | None, network: str = "ResNet50", flag: str = "--imagenet_weights"
    ) -> None:
        """What training starts from fits; a download is tried here.

        Not under --check, which writes nothing: there it is only said.
        """
        if self.args.check and (path is None or weights_name(path)):
            self._checkpoint((flag, path), lambda: _announce_download(path, flag))
            return
        self._checkpoint((network, path), partial(load_backbone, path, flag, network))

    def disjoint_images(self) -> None:
        """Every image to fine-tune on has others without its classes to draw batches from."""
        drawn, targets = self.args.image_ids("train", limited=False), self.args.image_ids("infer")
        self.labels((*drawn, *targets))
        self.collect(lambda: self._check_disjoint(drawn, targets), "label")

    def output(self, folder: Output, options: dict, image_ids: Iterable[str] | None = None) -> None:
        """An output folder can be written and does not hold foreign files, or of other options."""
        self.collect(lambda: check_folder(folder, options, self.args.overwrite), "output")
        ids = self.args.image_ids("infer") if image_ids is None else image_ids
        self.collect(lambda: self._check_own(folder, ids), "output")
        self.collect(lambda: require_writable(folder.path, folder.flag), "output")

    def file(self, output: Output, in_manifest: bool = False) -> None:
        """A file can be written, replacing none but this program's; see `require_own`."""
        advice = f"move it away, or give another {output.flag}"
        self.collect(lambda: require_own(output.path, advice, in_manifest), "output")
        self.collect(lambda: require_writable(output.folder, output.flag), "output")

    def _check_own(self, folder: Output, image_ids: Iterable[str]) -> None:
        paths = [folder.path / f"{i}{folder.suffix}" for i in image_ids]
        raise_problems("output", [not_ours_line(path) for path in paths if is_not_ours(path)])

    def output_file(self, file: Output, options: dict) -> None:
        """A checkpoint can be written and replaces none that was trained otherwise."""
        self.collect(lambda: check_target(file, options, self.args.overwrite), "output")
        self.collect(lambda: require_writable(file.path.parent, file.flag), "output")

    def finish(self) -> None:
        """Look at the files; one UserError for all problems, or a line that says what is fine."""
        found: dict[str, dict[str, object]] = {kind: {} for kind in self._files}
        broken = set()
        for kind, messages, of_chunk in _look_at(self._files):
            self._problems.add(kind, messages)
            broken.update([kind] if messages else [])
            found[kind].update(of_chunk)
        for kind, files in self._files.items():
            judge = warned_together if kind in broken else files.judge
            problems, warnings = judge(found[kind])
            self._problems.add(kind, problems)
            for line in warnings:
                log.warning("%s", line)
        self._problems.raise_all()
        looked_at = {kind: files.image_ids for kind, files in self._files.items()} | self._looked_at
        counts = {kind: len(keys) for kind, keys in looked_at.items() if keys}
        seconds = time.perf_counter() - self._start
        rate = sum(len(files.image_ids) for files in self._files.values()) / seconds
        what = counted(counts) or "no file"
        log.info("checked: %s; no problem (%.1f s, %.0f files/s)", what, seconds, rate)

    def _later(self, kind: str, image_ids: Iterable[str], check: ImageCheck, judge: Judge) -> None:
        files = self._files.setdefault(kind, Files(check, judge, {}))
        files.image_ids.update(dict.fromkeys(image_ids))

    def _advice(self, folder: Path, otherwise: str) -> str:
        """What to do where the files of a folder are not there."""
        made_by = makers(self.args, self._known).get(folder.resolve())
        return f"run --{made_by}_pass first" if made_by else otherwise

    def _no_folder(self, kind: str, folder: Path, advice: str) -> None:
        self._problems.add(kind, [f"{folder}: no such folder; {advice}"])

    def _compared(
        self, where: str, follows_labels: bool, found: dict[str, Content]
    ) -> tuple[list[str], list[str]]:
        """Label maps beside the image-level labels, where these are known."""
        classes = known_classes(self.args.cls_labels, found, self.info)
        compared = Compared(self.info, where, found, classes, follows_labels)
        problems = compared.problems()
        return problems, [] if problems else compared.warnings()

    def _checkpoint(self, key: tuple, load: Callable[[], object]) -> None:
        if key not in self._looked_at["checkpoint"]:
            self._looked_at["checkpoint"].add(key)
            self.collect(load, "checkpoint")

    def _made_here(self, folder: Path, image_ids: Iterable[str], role: str = "infer") -> bool:
        """Whether a planned step fills a folder; the images that it leaves out are noted."""
        if not self.is_made(folder):
            return False
        missing = set(image_ids) - set(self.args.image_ids(role))
        if missing:
            message = (
                f"--{role}_list {getattr(self.args, f'{role}_list')}: lacks "
                f"{counted({'image': len(missing)})} needed later, such as {min(missing)}; give "
                "lists that agree (--eval_list, --train_list)"
            )
            self._problems.add("list", [message])
        return True

    def _check_disjoint(self, drawn: tuple[str, ...], targets: tuple[str, ...]) -> None:
        known = load_labels(self.args.cls_labels, (*drawn, *targets), self.info)
        labels, alike = known.of(drawn), {}
        self._require_no_common_class(labels)
        for image_id in targets:  # images of the same classes together
            alike.setdefault(tuple(known.classes_of(image_id).tolist()), []).append(image_id)
        messages = [
            f"{self.args.train_list}: every image shares a class with {image_id}, so RIB can draw "
            f"no batches for it; give a --train_list with other classes too"
            for ids in alike.values()
            if known[ids[0]].any() and not disjoint(labels.rows, known[ids[0]]).size
            for image_id in ids
        ]
        raise_problems("RIB target", messages)

    def _require_no_common_class(self, labels: Labels) -> None:
        """Raise UserError where all training images show one class: none of them has a batch."""
        counts = labels.rows.sum(axis=0)
        if len(labels) and counts.max() == len(labels):
            name = self.info.class_names[int(counts.argmax())]
            raise UserError(
                f"{self.args.train_list}: all {len(labels)} images show {name!r}, so RIB can draw "
                f"no batches without it; add {self.args.RIB_batch_size} or more images of anything "
                "else (without any class is fine, also for a classifier that has to tell "
                f"{name!r} from the rest), or give --recam none"
            )


def makers(args: Options, steps: Mapping[str, ModuleType]) -> dict[Path, str]:
    """The step that makes each folder and file that these steps would write with these options."""
    # Of two the first counts, and that of --recam before others that make such maps.
    others = {maker for maker, _ in RECAM.values()} - {RECAM[args.recam][0]}
    found = {}
    for name in sorted(STEPS, key=lambda name: name in others):
        for output in steps[name].writes(args) if name in steps else ():
            found.setdefault(output.path.resolve(), name)
    return found


def check_image(info: DatasetInfo, image_id: str, quick: bool = False) -> str | None:
    """Raise UserError unless an image is there and is a JPEG file that can be decoded to its end.

    quick: of what the header says alone. Returns a warning for a photograph to be shown rotated.
    """
    info.image_size(image_id)
    path = info.image_path(image_id)
    if info.photo_long is not None:
        try:
            return check_photograph(path, info.photo_long, quick)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: is damaged ({error}); get it again or move it away") from None
    with open(path, "rb") as file:
        if file.read(2) != b"\xff\xd8":
            raise UserError(f"{path}: is not a JPEG file; convert it")
    try:
        if not quick:
            check_jpeg(path)
        return _ROTATED if is_rotated(path, IMAGE_FORMATS) else None
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error}); get it again") from None


def warned_together(found: dict[str, object]) -> tuple[list[str], list[str]]:
    """The usual judge: texts that several images have are warned of in one line."""
    by_text: dict[str, list[str]] = {}
    for image_id, text in found.items():
        if isinstance(text, str):
            by_text.setdefault(text, []).append(image_id)
    lines = (
        f"{counted({'photograph': len(ids)})} {text}; the first: {', '.join(ids[:3])}"
        for text, ids in by_text.items()
    )
    return [], list(lines)


def _announce_download(path: Path | None, flag: str) -> None:
    asked = f"{flag} {path}" if path else f"{flag} is not given"
    log.info("%s: a run takes %s, from the network", asked, path or "torchvision's")
    backbone_arch(path, flag)


def check_mask(info: DatasetInfo, image_id: str) -> Content:
    """What occurs in the ground truth of an image; UserError unless it is there and fits."""
    path = info.mask_path(image_id)
    if not path.is_file():
        raise UserError(
            f"{path}: no ground truth mask of {image_id}; give an --eval_list of "
            f"images that have one"
        )
    mask = mask_of(info, image_id)
    size = info.image_size(image_id)
    if mask.shape != size:
        raise UserError(
            f"{path}: is {mask.shape[1]}x{mask.shape[0]}, its image is "
            f"{size[1]}x{size[0]}; it is of another image: leave such images out with "
            "--skip_mismatched"
        )
    return _fitting_content(info, path, mask)


def check_label_map(info: DatasetInfo, folder: Path, advice: str, image_id: str) -> Content:
    """What occurs in the label map of an image; UserError unless it is there and fits."""
    path = folder / f"{image_id}.png"
    if not path.is_file():
        raise UserError(f"{path}: missing; {advice}")
    labels = read_label_png(path)
    if labels.shape != info.image_size(image_id):
        raise UserError(f"{path}: has another size than its image; make it again")
    return _fitting_content(info, path, labels)


def check_cam(info: DatasetInfo, folder: Path, image_id: str) -> None:
    """Raise UserError unless the maps of an image are there and fit."""
    path = folder / f"{image_id}.npy"
    maps = load_cam(path)
    keys, size = maps["keys"], info.image_size(image_id)
    fits = len(keys) == 0 or (
        keys.max() < info.num_classes
        and maps["high_res"].shape[1:] == size
        and maps["cam"].shape[1:] == get_strided_size(size, CAM_STRIDE)
    )
    if not fits:
        raise UserError(
            f"{path}: holds maps of another image or dataset (classes {keys.tolist()}, size "
            f"{maps['high_res'].shape[1:]}, image {size}); make the maps of {info.name} "
            f"again or give another --cam_out_dir"
        )


def _fitting_content(info: DatasetInfo, path: Path, labels: np.ndarray) -> Content:
    content = content_of(path, labels)
    highest = max(content.classes, default=-1) + 1
    if highest > info.num_classes:
        raise UserError(
            f"{path}: has label {highest}, {info.name} ends at {info.num_classes}; use this "
            f"dataset's masks (0 is the background, {info.class_names[0]!r} is 1)"
        )
    return content


def _load_classifier(path: Path, info: DatasetInfo) -> None:
    load_classifier(path, info.num_classes)


Found = tuple[list[str], dict[str, object]]  # what is wrong, and what was found by image


def _look_at(files: dict[str, Files]) -> Iterator[tuple[str, list[str], dict[str, object]]]:
    """Kind, problems and what is found of each chunk, in several processes where that is faster."""
    total = sum(len(of_kind.image_ids) for of_kind in files.values())
    chunks = [
        (kind, of_kind.check, list(of_kind.image_ids)[start : start + _CHUNK])
        for kind, of_kind in files.items()
        for start in range(0, len(of_kind.image_ids), _CHUNK)
    ]
    processes = min(cpu_count(), _MOST_PROCESSES) if total >= _WORTH_PROCESSES else 1
    with progress(total, "check", "file") as bar:
        work = map_in_processes(_found_in, chunks, processes)
        for (kind, _, ids), found in zip(chunks, work, strict=True):
            yield kind, *found
            bar.update(len(ids))


def _found_in(chunk: tuple[str, ImageCheck, list[str]]) -> Found:
    """What is to be said of some files."""
    _, check, image_ids = chunk
    messages, found = [], {}
    for image_id in image_ids:
        try:
            if (one := check(image_id)) is not None:
                found[image_id] = one
        except UserError as error:
            messages.append(str(error))
    return messages, found
