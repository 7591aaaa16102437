"""Looks at everything that a run will read and write, before hours of computing."""

import logging
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from misc.cams import CAM_STRIDE, load_cam
from misc.cli.options import RECAM, STEPS, Options, chosen_steps
from misc.data.dataset_info import IMAGE_FORMATS, DatasetInfo
from misc.data.datasets import mask_of
from misc.data.folder.masks import Content, content_of, contradictions
from misc.data.folder.photographs import check_photograph
from misc.data.label_file import known_classes, load_labels
from misc.errors import Problems, UserError, counted, raise_problems
from misc.imutils import get_strided_size
from misc.labels import read_label_png
from misc.runtime.devices import check_device, pick_devices
from misc.runtime.processes import Resources, cpu_count, map_in_processes
from misc.runtime.programs import progress
from misc.runtime.training import check_target, smallest_part
from misc.storage.images import check_jpeg, is_rotated
from misc.storage.manifest import check_folder, read_manifest, require_writable, weights_name
from misc.storage.outputs import MANIFEST, Output, is_not_ours, not_ours_line, require_own
from net.checkpoint import load_backbone

log = logging.getLogger(__name__)

_ROTATED = "with an EXIF rotation, which is not applied: masks are of the stored pixels"
_WORTH_PROCESSES = 4_000  # fewer files, at a millisecond each, are sooner read by one process
_MOST_PROCESSES = 16  # each holds its own torch
_SAMPLED = 60  # images whose sizes and classes stand for all where disk is estimated
_MAP_BYTES = 4 * (1 + 1 / 16)  # of a pixel of a map: at full size and at stride 4, float32

Steps = Mapping[str, ModuleType]
Ids = Iterable[str]
Check = Callable[[str], object]  # of an image; returns what the judge needs, such as a warning
Judge = Callable[[dict[str, object]], tuple[list[str], list[str]]]  # problems and warnings of all


class Files(NamedTuple):
    """Files of one kind to look at: a check of each, and one of all together."""

    check: Check
    judge: Judge
    ids: dict[str, None]


def warned_together(found: dict[str, object]) -> tuple[list[str], list[str]]:
    """Judge without problems: a text that several images have is warned of in one line."""
    by_text: dict[str, list[str]] = {}
    for image_id, text in found.items():
        if isinstance(text, str):
            by_text.setdefault(text, []).append(image_id)
    return [], [f"{counted({'photograph': len(ids)})} {text}; the first: {', '.join(ids[:3])}"
                for text, ids in by_text.items()]  # fmt: skip


class Preflight:
    """Checks that the steps share, each made once. What a step of this run makes is not asked for.

    steps: those of this run, by name. known: all.
    """

    def __init__(self, args: Options, steps: Steps, known: Steps):
        self.args, self.info, self._known = args, args.info, known
        self._planned, self._problems = producers(args, steps), Problems()
        self._labelled: dict[str, None] = {}
        self._checkpoints: set[tuple] = set()
        # The photographs come first: a broken one is no problem of the mask or map beside it.
        check = partial(check_image, self.info, quick=args.check == "quick")
        self._files = {"image": Files(check, warned_together, {})}
        self._start = time.perf_counter()

    def collect(self, check: Callable[[], object], kind: str = "other") -> None:
        """Make a check now; its UserError is kept for `finish`."""
        try:
            check()
        except UserError as error:
            self._problems.add_error(kind, error)

    def is_made(self, path: Path) -> bool:
        """Return whether a step of this run writes a folder or file, so that it may be missing."""
        return path.resolve() in self._planned

    def each(self, kind: str, ids: Ids, check: Check, judge: Judge = warned_together) -> None:
        """A check of every image, and the judge of what these return."""
        self._files.setdefault(kind, Files(check, judge, {})).ids.update(dict.fromkeys(ids))

    def images(self, ids: Ids) -> None:
        """Images are there and can be decoded (under --check quick: their headers can)."""
        self._files["image"].ids.update(dict.fromkeys(ids))

    def labels(self, ids: Ids) -> None:
        """Images have image-level labels."""
        self._labelled.update(dict.fromkeys(ids))

    def masks(self, ids: Ids) -> None:
        """Ground truth masks are there, have their image's size and show classes of its labels."""
        info = self.info
        if self.args.check and info.draws_masks:  # a run would draw those that are missing
            ids = [i for i in ids if info.mask_path(i).is_file()]
        folders = [folder for folder in info.mask_dirs if folder.is_dir()]
        if info.mask_dirs and not folders and not info.draws_masks:
            lack = "no such folder; give the masks, or leave out scoring"
            self._problems.add("mask", [f"{info.mask_dirs[0]}: {lack}"])
            return
        flag = "--masks " if "masks" in self.args.given else ""
        where = f"{flag}{folders[0]}" if folders else "--masks"
        judge = partial(self._compared, where, True)
        self.each("mask", ids, partial(check_label_map, info), judge)

    def label_maps(
        self,
        ids: Ids,
        folder: Path,
        advice: str = "",
        role: str = "infer",
        trained_on: bool = False,
    ) -> None:
        """Label maps are there, or made by this run; if `trained_on`, of the labels' classes."""
        advice = self._advice(folder, advice)
        if self._is_there("label map", folder, ids, advice, role):
            judge = partial(self._compared, str(folder), trained_on)
            if not trained_on and (folder / MANIFEST).exists():
                judge = warned_together  # made by this program: numbered as it has to be
            check = partial(check_label_map, self.info, folder=folder, advice=advice)
            self.each(f"label map in {folder}", ids, check, judge)

    def cams(self, ids: Ids, folder: Path) -> None:
        """Saved maps are there and belong to these images, unless this run makes them."""
        if self._is_there("map", folder, ids, self._advice(folder), "infer"):
            self.each(f"map in {folder}", ids, partial(check_cam, self.info, folder))

    def checkpoint(self, path: Path, load: Callable, *more: object) -> None:
        """A network can be loaded by `load(path, *more)`, unless this run trains it."""
        if not self.is_made(path):
            self._load_once((load, path), partial(load, path, *more))

    def backbone(
        self, path: Path | None, network: str = "ResNet50", flag: str = "--imagenet_weights"
    ) -> None:
        """The weights that training starts from fit; under --check a download is only announced."""
        remote, key = self.args.check and (path is None or weights_name(path)), (network, path)
        if remote and key not in self._checkpoints:
            what = path or f"torchvision's {network}"
            log.info("%s: a run takes %s, from the network", flag, what)
        self._load_once(key, partial(load_backbone, path, flag, network, download=not remote))

    def output(self, folder: Output, options: dict, ids: Ids) -> None:
        """An output folder can be written, with nobody else's files, nor those of other options."""
        paths = (folder.path / f"{image_id}{folder.suffix}" for image_id in ids)
        self._problems.add("output", [not_ours_line(path) for path in paths if is_not_ours(path)])
        self.collect(lambda: check_folder(folder, options, self.args.overwrite), "output")
        self.collect(lambda: require_writable(folder.path, folder.flag), "output")

    def file(self, output: Output, in_manifest: bool = False) -> None:
        """A file can be written, and replaces none but this program's."""
        advice = f"move it away, or give another {output.flag}"
        self.collect(lambda: require_own(output.path, advice, in_manifest), "output")
        self.collect(lambda: require_writable(output.folder, output.flag), "output")

    def output_file(self, file: Output, options: dict) -> None:
        """A checkpoint can be written and replaces none that was trained otherwise."""
        self.collect(lambda: check_target(file, options, self.args.overwrite), "output")
        self.collect(lambda: require_writable(file.path.parent, file.flag), "output")

    def finish(self) -> None:
        """Look at the files; one UserError for all problems, or a line that says what is fine."""
        labelled = tuple(self._labelled)
        if labelled:
            self.collect(lambda: load_labels(self.args.cls_labels, labelled, self.info), "label")
        items = [(f.check, kind, i) for kind, f in self._files.items() for i in f.ids]
        processes = min(cpu_count(), _MOST_PROCESSES) if len(items) >= _WORTH_PROCESSES else 1
        messages, found = defaultdict(list), defaultdict(dict)
        with progress(len(items), "check", "file") as bar:
            results = map_in_processes(_look_at, items, processes)
            for (_, kind, image_id), (one, message) in zip(items, results, strict=True):
                messages[kind] += [message] if message else []
                found[kind] |= {} if one is None else {image_id: one}
                bar.update()
        for kind, files in self._files.items():
            judge = warned_together if messages[kind] else files.judge
            problems, warnings = judge(found[kind])
            self._problems.add(kind, [*messages[kind], *problems])
            for line in warnings:
                log.warning("%s", line)
        self._problems.raise_all()
        counts = {kind: len(files.ids) for kind, files in self._files.items()}
        seconds, files = time.perf_counter() - self._start, sum(counts.values())
        counts |= {"label": len(labelled), "checkpoint": len(self._checkpoints)}
        what = counted({kind: n for kind, n in counts.items() if n}) or "no file"
        log.info("checked: %s; no problem (%.1f s, %.0f files/s)", what, seconds, files / seconds)

    def _advice(self, folder: Path, otherwise: str = "") -> str:
        made_by = producers(self.args, self._known).get(folder.resolve())
        return f"run --{made_by}_pass first" if made_by else otherwise or "give another folder"

    def _is_there(self, kind: str, folder: Path, ids: Ids, advice: str, role: str) -> bool:
        if not self.is_made(folder):
            self.collect(lambda: read_manifest(folder))
            if not folder.is_dir():
                self._problems.add(f"{kind} in {folder}", [f"{folder}: no such folder; {advice}"])
            return folder.is_dir()
        missing = set(ids) - set(self.args.image_ids(role))
        if missing:
            lack = f"{counted({'image': len(missing)})} needed later, such as {min(missing)}"
            given = f"--{role}_list {getattr(self.args, f'{role}_list')}"
            advice = "give lists that agree (--eval_list, --train_list)"
            self._problems.add("list", [f"{given}: lacks {lack}; {advice}"])
        return False

    def _compared(
        self, where: str, follows_labels: bool, found: dict[str, Content]
    ) -> tuple[list[str], list[str]]:
        classes = known_classes(self.args.cls_labels, found, self.info)
        return contradictions(self.info.class_names, where, found, classes, follows_labels)

    def _load_once(self, key: tuple, load: Callable[[], object]) -> None:
        if key not in self._checkpoints:
            self._checkpoints.add(key)
            self.collect(load, "checkpoint")


def producers(args: Options, steps: Steps) -> dict[Path, str]:
    """Return the step that makes each folder and file that these steps would write."""
    # Of two the first counts, and that of --recam before others that make such maps.
    others = {producer for producer, _ in RECAM.values()} - {RECAM[args.recam][0]}
    found = {}
    for name in sorted(STEPS, key=lambda name: name in others):
        for output in steps[name].writes(args) if name in steps else ():
            found.setdefault(output.path.resolve(), name)
    return found


def check_image(info: DatasetInfo, image_id: str, quick: bool = False) -> str | None:
    """Raise UserError unless an image is there and can be decoded; quick: its header alone."""
    info.image_size(image_id)
    path = info.image_path(image_id)
    try:
        if info.photo_long is not None:
            return check_photograph(path, info.photo_long, quick)
        with open(path, "rb") as file:
            if file.read(2) != b"\xff\xd8":
                raise UserError(f"{path}: is not a JPEG file; convert it")
        if not quick:
            check_jpeg(path)
        return _ROTATED if is_rotated(path, IMAGE_FORMATS) else None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({error}); get it again or move it away") from None


def check_label_map(
    info: DatasetInfo, image_id: str, folder: Path | None = None, advice: str = ""
) -> Content:
    """Return what occurs in a label map that is there and fits; without a folder, ground truth."""
    path = folder / f"{image_id}.png" if folder else info.mask_path(image_id)
    if not path.is_file():
        other = f"no ground truth mask of {image_id}; give an --eval_list of images that have one"
        raise UserError(f"{path}: {f'missing; {advice}' if folder else other}")
    labels = read_label_png(path) if folder else mask_of(info, image_id)
    size = info.image_size(image_id)
    if labels.shape != size:
        sizes = f"is {labels.shape[1]}x{labels.shape[0]}, its image is {size[1]}x{size[0]}"
        other = f"{sizes}; leave such images out with --skip_mismatched"
        own = "has another size than its image; make it again"
        raise UserError(f"{path}: {own if folder else other}")
    content = content_of(path, labels)
    highest = max(content.classes, default=-1) + 1
    if highest > info.num_classes:
        raise UserError(
            f"{path}: has label {highest}, {info.name} ends at {info.num_classes}; use this "
            f"dataset's masks (0 is the background, {info.class_names[0]!r} is 1)"
        )
    return content


def check_cam(info: DatasetInfo, folder: Path, image_id: str) -> None:
    """Raise UserError unless the maps of an image are there and fit."""
    path = folder / f"{image_id}.npy"
    maps, size = load_cam(path), info.image_size(image_id)
    shapes = maps["high_res"].shape[1:], maps["cam"].shape[1:]
    keys = maps["keys"].tolist()
    fitting = size, get_strided_size(size, CAM_STRIDE)
    if keys and (max(keys) >= info.num_classes or shapes != fitting):
        raise UserError(
            f"{path}: holds maps of another image or dataset (classes {keys}, size {shapes[0]}, "
            f"image {size}); make the maps of {info.name} again or give another --cam_out_dir"
        )


def _look_at(item: tuple[Callable, str, str]) -> tuple[object, str]:
    check, _, image_id = item
    try:
        return check(image_id), ""
    except UserError as error:
        return None, str(error)


def check_places(args: Options, outputs: Sequence[Output]) -> None:
    """Raise UserError where an output lies in the dataset, over an input, or over another one."""
    root, messages, inside, taken = args.info.root.resolve(), [], set(), {}
    flags = {"--result_dir", *(output.flag for output in outputs)}
    read = {f"--{name}": getattr(args, name) for name in args.brought}
    read = {f: path for f, path in read.items() if f not in flags and path.resolve() != root}
    for output in (Output("--result_dir", args.result_dir), *outputs):
        where, place = f"{output.flag} {output.path}", output.path.resolve()
        around = {place, *place.parents}
        if root in around and not inside & around:  # of several in each other, the first
            inside.add(place)
            messages.append(f"{where}: lies in the dataset's folder {root}; give a place outside")
        if output not in outputs:
            continue
        for flag, path in read.items():
            if path.resolve() == place:
                kind = "folder" if path.is_dir() else "file"
                messages.append(f"{where}: is the {kind} of {flag}; give another place")
            elif path.is_dir() and path.resolve() in around:
                messages.append(f"{where}: lies in the folder of {flag}; give another place")
        other = taken.setdefault(place, output)
        if other is not output:
            messages.append(f"{where}: is written by {other.flag} too; give another one")
    raise_problems("output", messages)


def processes_to_start(args: Options) -> int:
    """Return the processes that a script starts: one per GPU, if all get a part of every batch."""
    check_device(args.device)
    devices = pick_devices(Resources("cpu" if args.report else args.device), 1 << 30)
    most, parts = len(set(devices)), args.seg_settings.accumulate
    images = len(args.image_ids("train")) if args.train_list.is_file() else args.limit or 1 << 30
    for step in (name for name in chosen_steps(args) if name.startswith("train_")):
        batch = getattr(args, f"{step.removeprefix('train_')}_batch_size")
        most = min(most, smallest_part(batch, images, parts if step == "train_seg" else 1))
    return most


def say_disk(args: Options, steps: Iterable[str]) -> None:
    """Log the disk that maps need and what is free; a warning where that is too little."""
    folders = sum(name.startswith(("make_cam", "make_recam", "import_maps")) for name in steps)
    if not folders:
        return
    try:
        ids = args.image_ids("infer")
        sampled = random.Random(0).sample(ids, min(_SAMPLED, len(ids)))
        classes = load_labels(args.cls_labels, sampled, args.info).rows.sum() / len(sampled)
        height, width = np.mean([args.info.image_size(i) for i in sampled], axis=0)
    except UserError as error:  # labels, which these steps may not need
        log.info("the disk that maps need cannot be estimated: %s", error)
        return
    needed = folders * len(ids) * _MAP_BYTES * classes * height * width
    there = next(p for p in (args.result_dir, *args.result_dir.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    say = log.warning if needed > free else log.info
    say("maps need about %.2f GB of disk, %.2f GB are free in %s", needed / 1e9, free / 1e9,
        args.result_dir)  # fmt: skip
