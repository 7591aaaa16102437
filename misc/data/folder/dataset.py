"""Photographs of your own: any folder tree, with image-level labels from a table or from names."""

import functools
import logging
import random
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from misc.data.dataset_info import DatasetInfo
from misc.data.folder import names
from misc.data.folder.annotations import read_coco, read_xml_folder
from misc.data.folder.classes import read_classes
from misc.data.folder.labels import Found, Labels, Places, from_sub_folders, settled
from misc.data.folder.photographs import own_size, size_as_shown
from misc.data.folder.scan import Tree, look_into, require_names
from misc.data.folder.summary import log_contents
from misc.data.folder.table import read_table
from misc.errors import UserError
from misc.storage.manifest import file_hash, ids_hash, state_hash

log = logging.getLogger(__name__)

DEFAULT_ROOT = None  # there is none: --root has to be given
# Options that the description depends on, beside the root.
OPTIONS = ("labels", "classes", "masks", "val_list", "unlabelled", "photo_long")
SUB_FOLDERS = "folders"  # what --labels says for classes from the names of sub-folders

DEFAULTS = {
    "RIB_lr": 8e-6,
    "RIB_batch_size": 20,
    "score_th": 0.4,
    "stop_th": 600.0,
    "explode_th": 0.3,
    "explode_ratio": 0.7,
    "cam_eval_thres": (0.05, 0.60),
    "sem_seg_bg_thres": 0.27,
    "irn_pad_size": 0,
    "conf_bg_thres": 0.17,
    "seed_power": 1.3,
}
ADVCAM_DEFAULTS = {"conf_bg_thres": 0.15, "seed_power": 1.5, "sem_seg_bg_thres": 0.25}  # VOC's
_NO_MASKS = ".no_masks"  # a folder that is not there: without --masks no image has one
HELD_OUT = 10  # every so many images of a class one is held out of the trainings
_LOOKED_AT = 60  # photographs whose sizes stand for all
_SMALLEST_IRN_CROP = 96  # smaller ones hold no pixel pair of the usual radius
_SEG_EPOCHS = 28  # 30,000 batches of 10 from VOC's 10,582 images
_FEW, _SMALLER = 500, 0.75  # sets of fewer images have crops whose sides are this part
_TRAINED_LONG = 500  # usual longer side of the images for which the sizes of the paper were chosen


@dataclass(frozen=True)
class Source:
    """Where the labels of a folder come from, and what is done with images without any."""

    labels: Path | None = None  # a file or folder; None or "folders": names of sub-folders
    classes: Path | None = None
    masks: Path | None = None
    val_list: Path | None = None
    unlabelled: str = "error"
    photo_long: int = 0  # longer side that photographs are shrunk to; 0: their own


@dataclass(frozen=True)
class Scan:
    """What is in a folder."""

    tree: Tree
    labels: Labels
    unlabelled: tuple[str, ...]  # photographs without a row
    repeated: int  # rows that are there twice
    notes: tuple[str, ...]  # what the log says of how the labels were read


@dataclass(frozen=True)
class FolderInfo(DatasetInfo):
    """A folder tree; ids stand for paths below the root (`misc.data.folder.names`)."""

    source: Source = field(default_factory=Source)

    def scan(self) -> Scan:
        """Photographs and labels; of one process only the first call reads them."""
        return _scan(self.root, self.source)

    def image_path(self, image_id: str) -> Path:
        if names.is_cut(image_id):
            path = _cut_paths(self.root, self.source).get(image_id, image_id)
        else:
            path = names.path_of(image_id)
        return self.root / path

    def mask_path(self, image_id: str) -> Path:
        paths = self.mask_paths(image_id)
        return next((path for path in paths if path.is_file()), paths[0])

    def mask_paths(self, image_id: str) -> list[Path]:
        """Where the ground truth of a photograph may be: in the same folders, or in none."""
        path = self.image_path(image_id).relative_to(self.root)
        if not self.mask_dirs:
            return [self.root / _NO_MASKS / path.with_suffix(".png")]
        near = (path.with_suffix(".png"), path.with_name(f"{path.name}.png"))
        return [self.mask_dirs[0] / p for p in (*near, near[0].name, f"{image_id}.png")]

    def image_size(self, image_id: str) -> tuple[int, int]:
        path = self.image_path(image_id)
        try:
            return size_as_shown(path, self.source.photo_long)
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such photograph, but it is in the list; check the list, or --root"
            ) from None
        except ValueError as error:
            raise UserError(
                f"{path}: is not a readable photograph ({error}); get it again, shrink it, or move "
                "it away"
            ) from None

    def mask_fits(self, image_id: str) -> bool:
        return self._header_size(self.mask_path(image_id)) == own_size(self.image_path(image_id))

    def is_id(self, text: str) -> bool:
        return names.is_id(text)

    def id_in(self, entry: str) -> str:
        """The id of a photograph from its id, or from a path by the rule of `Places`.

        ValueError says why there is none.
        """
        text = entry.strip()
        if names.is_id(text) and self.image_path(text).is_file():
            return text
        places = _places(self.root, self.source)
        before = len(places.by_end)
        try:
            path = places.find(text)
        except ValueError:
            if names.is_id(text):
                return text  # of a photograph that is not there any more
            raise
        if places.by_end and not before:
            log.info("%r is found by the end of its path: %s; others may be too", text, path)
        return names.id_of(path)

    def columns_of(self, line: str) -> list[str]:
        text = line.strip()
        return [] if text.startswith("#") or not text else [text]

    @staticmethod
    def label_key(image_id: str) -> str:
        return image_id

    @property
    def photo_long(self) -> int | None:
        return self.source.photo_long

    @property
    def result_name(self) -> str:
        name = re.sub(r"[^\w.-]+", "_", self.root.resolve().name).strip("._")
        return f"folder_{name}" if name else "folder"

    def made_from(self) -> dict[str, object]:
        scan, val_list = self.scan(), self.source.val_list
        return {
            "photographs": ids_hash((*scan.tree.photographs, "", *scan.unlabelled)),
            "labels": scan.labels.digest(),
            "masks": state_hash(self.mask_dirs),
            "val_list": file_hash(val_list) if val_list and val_list.is_file() else None,
        }

    def read_as(self) -> dict[str, object]:
        return {"photo_long": self.photo_long}

    def require_root(self) -> None:
        _require_folder(self.root)

    def log_contents(self) -> None:
        log_contents(self.root, self.source.labels, self.scan())


def describe(root: str | Path | None, **options: object) -> FolderInfo:
    """The description of a folder; UserError for what is wrong with it or with its labels.

    options: OPTIONS by name. Without any the classes are not looked up.
    """
    source = Source(**{name: value for name, value in options.items() if value is not None})
    root = Path(root) if root else Path()
    classes: tuple[str, ...] = ()
    replaced: dict[str, object] = {}
    if options:
        _require_folder(root)
        for cached in (_tree, _places, _cut_paths, _scan):
            cached.cache_clear()  # an earlier run in this process may have seen other files
        scan = _scan(root, source)
        classes = scan.labels.classes
        usual_long = _usual_long(root, scan, source)
        replaced = defaults_for(len(scan.labels.of), usual_long, len(classes))
    return FolderInfo(
        name="folder",
        root=root,
        root_flag="--root",
        class_names=classes,
        image_dir=root,
        mask_dirs=(source.masks,) if source.masks else (),
        id_pattern="",
        defaults=DEFAULTS,
        recam_defaults={"advcam": ADVCAM_DEFAULTS},
        paper_scores={},
        official_sizes={},
        train_split="train",
        infer_split="all",
        eval_split="eval",
        seg_split="val",
        label_file="cls_labels.npz",
        source=source,
        replaced_defaults=replaced,
    )


def defaults_for(images: int, usual_long: int, classes: int) -> dict[str, object]:
    """Options that suit a number of images, their usual longer side and a number of classes.

    Trainings of small sets get as many steps as their batches need to learn anything, batches are
    not larger than a part of the set, and crops not larger than the photographs. Of few images,
    which are those of a laptop, crops are smaller: half of the time, a third in the segmentation
    network, which sees every image as often as with VOC. The classifier's
    loss is a mean over the classes: with fewer of them than VOC has, each one's gradient is larger,
    so the rate falls in proportion, and with the batch.
    """
    scale = seg_scale = min(1.0, usual_long / _TRAINED_LONG)
    if images < _FEW:
        scale, seg_scale = scale * _SMALLER, scale * _SMALLER**2
    crop = max(64, round(512 * scale / 16) * 16)
    batch = max(1, min(16, images // 3))
    irn_batch = max(1, min(32, images // 6))
    seg_batch = max(1, min(10, images // 3))
    return {
        "cam_batch_size": batch,
        "cam_num_epoches": _epochs(400, images // batch, 5, 40),
        "cam_learning_rate": round(0.1 * batch / 16 * min(1.0, classes / 20), 6),
        "cam_crop_size": crop,
        "cam_long": (max(32, round(320 * scale)), max(32, round(640 * scale))),
        "irn_crop_size": max(_SMALLEST_IRN_CROP, crop),
        "irn_batch_size": irn_batch,
        "irn_num_epoches": _epochs(180, images // irn_batch, 3, 30),
        "RIB_batch_size": max(1, min(20, images // 3)),
        "seg_crop_size": max(65, round(320 * seg_scale / 8) * 8 + 1),
        "seg_batch_size": seg_batch,
        "seg_iterations": min(30_000, max(60, _SEG_EPOCHS * images // seg_batch)),
        "seg_learning_rate": 2.5e-4 * seg_batch / 10,
    }


def _epochs(steps: int, per_epoch: int, fewest: int, most: int) -> int:
    return min(most, max(fewest, -(-steps // max(1, per_epoch))))


def _usual_long(root: Path, scan: Scan, source: Source) -> int:
    """Median of the longer sides of some photographs; those that cannot be read do not count."""
    paths = sorted(scan.labels.of)
    sides = []
    for path in random.Random(0).sample(paths, min(_LOOKED_AT, len(paths))):
        try:
            sides.append(max(size_as_shown(root / path, source.photo_long)))
        except (OSError, ValueError):
            continue
    return round(statistics.median(sides)) if sides else _TRAINED_LONG


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder; give the folder of the photographs")
    require_names(root, [root.resolve().name])


@functools.lru_cache(maxsize=4)
def _tree(root: Path, source: Source) -> Tree:
    return look_into(root, (source.masks,) if source.masks else ())


@functools.lru_cache(maxsize=4)
def _places(root: Path, source: Source) -> Places:
    return Places(root, _tree(root, source).photographs)


@functools.lru_cache(maxsize=4)
def _cut_paths(root: Path, source: Source) -> dict[str, str]:
    ids = ((names.id_of(path), path) for path in _tree(root, source).photographs)
    return {image_id: path for image_id, path in ids if names.is_cut(image_id)}


@functools.lru_cache(maxsize=4)
def _scan(root: Path, source: Source) -> Scan:
    if source.masks and not source.masks.is_dir():
        raise UserError(f"--masks {source.masks}: no such folder; give the folder of the masks")
    tree = _tree(root, source)
    if not tree.photographs:
        found = tree.left_out()
        raise UserError(
            f"--root {root}: has no photographs (JPEG, PNG, WebP or TIFF)"
            f"{'; there are ' + found if found else ''}; give the folder that holds them"
        )
    found, where = _found(root, source, tree)
    unlabelled = tuple(path for path in tree.photographs if path not in found.names)
    if source.unlabelled == "error" and found.names and not found.unread:
        lacks = f"has no row in {where}; add one (with an empty label where it shows no class)"
        if where.startswith("--root "):
            lacks = "lies in no sub-folder that could be its class; move it"
        found.problems.add("image without a label", [
            f"{root / path}: {lacks}, or give --unlabelled skip" for path in unlabelled
        ])  # fmt: skip
    if not found.names and not found.problems:
        found.problems.add("label", [f"{where}: has no row of any photograph in {root}; check "
                                     "--labels and --root"])  # fmt: skip
    file = source.classes or (root / "classes.txt")
    given = read_classes(file) if source.classes or file.is_file() else None
    labels = settled(found, given, where, file)
    order = (f"the classes are in the order of {file}",) if given else ()
    return Scan(tree, labels, unlabelled, found.repeated, (*found.notes, *order))


def _found(root: Path, source: Source, tree: Tree) -> tuple[Found, str]:
    """Labels of the source, and what it is called in messages."""
    path = source.labels
    if path is None or str(path) == SUB_FOLDERS:
        return from_sub_folders(root, tree.photographs), f"--root {root}"
    places = Places(root, tree.photographs)
    if path.is_dir():
        return read_xml_folder(path, places), str(path)
    if not path.is_file():
        raise UserError(f"--labels {path}: no such file or folder; give a table, COCO's JSON, a "
                        "folder of XML files, or the word folders")  # fmt: skip
    if path.suffix.lower() == ".json":
        return read_coco(path, places), str(path)
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise UserError(f"--labels {path}: is not of a form that is read ({path.suffix or 'no'} "
                        "suffix); give .csv, .tsv, .txt or .json")  # fmt: skip
    return read_table(path, places), str(path)
