"""Photographs of your own: any folder tree, with image-level labels from a table or from names."""

import contextlib
import functools
import hashlib
import logging
import math
import random
import re
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path

from misc.data.dataset_info import DatasetInfo
from misc.data.folder import names
from misc.data.folder.annotations import read_coco, read_xml_folder
from misc.data.folder.labels import Found, Scan, from_sub_folders, log_contents, settled
from misc.data.folder.photographs import Tree, own_size, require_names, size_as_shown
from misc.data.folder.table import read_table
from misc.errors import UserError, counted
from misc.storage.files import reason
from misc.storage.manifest import file_hash, ids_hash, state_hash

log = logging.getLogger(__name__)

DEFAULT_ROOT = None  # there is none: --root has to be given
# Options that the description depends on, beside the root.
OPTIONS = ("labels", "classes", "masks", "val_list", "unlabelled", "photo_long")
DEFAULTS = {
    "RIB_lr": 8e-6, "RIB_batch_size": 20, "score_th": 0.4, "stop_th": 600.0,
    "explode_ratio": 0.7, "cam_eval_thres": (0.05, 0.60), "sem_seg_bg_thres": 0.27,
    "irn_pad_size": 0, "conf_bg_thres": 0.17, "seed_power": 1.3,
}  # fmt: skip
ADVCAM_DEFAULTS = {"conf_bg_thres": 0.15, "seed_power": 1.5, "sem_seg_bg_thres": 0.25}  # VOC's
_LOOKED_AT = 60  # photographs whose sizes stand for all
_SMALLEST_IRN_CROP = 96  # smaller ones hold no pixel pair of the usual radius
_SEG_EPOCHS = 28  # 30,000 batches of 10 from VOC's 10,582 images
_FEW, _SMALLER = 500, 0.75  # sets of fewer images have crops whose sides are this part
_TRAINED_LONG = 500  # usual longer side of the images for which the sizes of the paper were chosen


@dataclass(frozen=True)
class Source:
    """The options of a folder's labels."""

    labels: Path | None = None  # a file or folder; None or "folders": names of sub-folders
    classes: Path | None = None
    masks: Path | None = None
    val_list: Path | None = None
    unlabelled: str = "error"
    photo_long: int = 0  # longer side that photographs are shrunk to; 0: their own


@dataclass(frozen=True)
class FolderInfo(DatasetInfo):
    """A folder tree; ids stand for paths below the root (`misc.data.folder.names`)."""

    source: Source = field(default_factory=Source)

    def scan(self) -> Scan:
        """Photographs and labels; of one process only the first call reads them."""
        return _scan(self.root, self.source)

    def image_path(self, image_id: str) -> Path:
        if names.is_cut(image_id):
            return self.root / _tree(self.root, self.source.masks).cut.get(image_id, image_id)
        return self.root / names.path_of(image_id)

    def mask_path(self, image_id: str) -> Path:
        paths = self.mask_paths(image_id)
        return next((path for path in paths if path.is_file()), paths[0])

    def mask_paths(self, image_id: str) -> list[Path]:
        """Places of the ground truth of a photograph: in the same folders, or in none."""
        path = self.image_path(image_id).relative_to(self.root)
        names = path.with_suffix(".png"), f"{path}.png", f"{path.stem}.png", f"{image_id}.png"
        # Without --masks a folder that is not there: no photograph has any.
        return [(*self.mask_dirs, self.root / ".no_masks")[0] / name for name in names]

    def image_size(self, image_id: str) -> tuple[int, int]:
        path = self.image_path(image_id)
        try:
            return size_as_shown(path, self.source.photo_long)
        except FileNotFoundError:
            raise UserError(f"{path}: no such photograph; check the list, or --root") from None
        except ValueError as error:
            what = (
                f"is not a readable photograph ({error}); shrink it, get it again, or move it away"
            )
            raise UserError(f"{path}: {what}") from None

    def mask_fits(self, image_id: str) -> bool:
        return self._header_size(self.mask_path(image_id)) == own_size(self.image_path(image_id))

    def is_id(self, text: str) -> bool:
        return names.is_id(text)

    def id_in(self, entry: str) -> str:
        """The id of a photograph from its id, or by the rule of `Tree`; ValueError says why not."""
        text, is_id = entry.strip(), names.is_id(entry.strip())
        if is_id and self.image_path(text).is_file():
            return text
        tree = _tree(self.root, self.source.masks)
        known = len(tree.by_end)
        try:
            path = tree.find(text)
        except ValueError:
            if is_id:
                return text  # of a photograph that is not there any more
            raise
        if len(tree.by_end) > known == 0:
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
        labels = "\n".join(scan.labels.classes)
        labels += "".join(f"\n{path!r}{of}" for path, of in sorted(scan.labels.of.items()))
        return {
            "photographs": ids_hash((*scan.tree.photographs, "", *scan.unlabelled)),
            "labels": hashlib.sha256(labels.encode()).hexdigest()[:16],
            "masks": state_hash(self.mask_dirs),
            "val_list": file_hash(val_list) if val_list and val_list.is_file() else None,
        }

    def read_as(self) -> dict[str, object]:
        return {"photo_long": self.photo_long}

    def require_root(self) -> None:
        if not self.root.is_dir():
            raise UserError(f"--root {self.root}: no such folder; give that of the photographs")
        require_names(self.root, [self.root.resolve().name])

    def log_contents(self) -> None:
        log_contents(self.scan())


def describe(root: str | Path | None, **options: object) -> FolderInfo:
    """The description of a folder. options: OPTIONS by name; without any, it has no classes."""
    source = Source(**{name: value for name, value in options.items() if value is not None})
    root = Path(root) if root else Path()
    info = FolderInfo(
        name="folder", root=root, root_flag="--root", class_names=(), image_dir=root,
        mask_dirs=(source.masks,) if source.masks else (), id_pattern="", defaults=DEFAULTS,
        recam_defaults={"advcam": ADVCAM_DEFAULTS}, paper_scores={}, official_sizes={},
        train_split="train", infer_split="all", eval_split="eval", seg_split="val",
        label_file="cls_labels.npz", source=source,
    )  # fmt: skip
    if not options:
        return info
    info.require_root()
    _tree.cache_clear()  # an earlier run in this process may have seen other files
    _scan.cache_clear()
    classes, of = info.scan().labels
    usual_long = _usual_long(root, sorted(of), source.photo_long)
    fitting = defaults_for(len(of), usual_long, len(classes))
    return replace(info, class_names=classes, replaced_defaults=fitting)


def defaults_for(images: int, usual_long: int, classes: int) -> dict[str, object]:
    """Options that suit a number of images, their usual longer side and a number of classes.

    Small sets get as many steps as their batches need. The classifier's loss is a mean over the
    classes: with fewer than VOC's gradients are larger, so its learning rate falls in proportion.
    """
    scale = min(1.0, usual_long / _TRAINED_LONG)
    smaller = _SMALLER if images < _FEW else 1.0
    scale, seg_scale = scale * smaller, scale * smaller**2
    crop = max(64, round(512 * scale / 16) * 16)
    batch, irn_batch, seg_batch = (max(1, min(most, images // parts))
                                   for most, parts in ((16, 3), (32, 6), (10, 3)))  # fmt: skip
    return {
        "cam_batch_size": batch,
        "cam_num_epoches": min(40, max(5, math.ceil(400 / max(1, images // batch)))),
        "cam_learning_rate": round(0.1 * batch / 16 * min(1.0, classes / 20), 6),
        "cam_crop_size": crop,
        "cam_long": (max(32, round(320 * scale)), max(32, round(640 * scale))),
        "irn_crop_size": max(_SMALLEST_IRN_CROP, crop),
        "irn_batch_size": irn_batch,
        "irn_num_epoches": min(30, max(3, math.ceil(180 / max(1, images // irn_batch)))),
        "RIB_batch_size": max(1, min(20, images // 3)),
        "seg_crop_size": max(65, round(320 * seg_scale / 8) * 8 + 1),
        "seg_batch_size": seg_batch,
        "seg_iterations": min(30_000, max(60, _SEG_EPOCHS * images // seg_batch)),
        "seg_learning_rate": 2.5e-4 * seg_batch / 10,
    }


def _usual_long(root: Path, paths: list[str], photo_long: int) -> int:
    sides = []
    for path in random.Random(0).sample(paths, min(_LOOKED_AT, len(paths))):
        with contextlib.suppress(OSError, ValueError):
            sides.append(max(size_as_shown(root / path, photo_long)))
    return round(statistics.median(sides)) if sides else _TRAINED_LONG


@functools.lru_cache(maxsize=4)
def _tree(root: Path, masks: Path | None) -> Tree:
    return Tree(root, (masks,) if masks else ())


@functools.lru_cache(maxsize=4)
def _scan(root: Path, source: Source) -> Scan:
    if source.masks and not source.masks.is_dir():
        raise UserError(f"--masks {source.masks}: no such folder; give the folder of the masks")
    tree = _tree(root, source.masks)
    if not tree.photographs:
        there = f"; there are {tree.left_out()}" if tree.left_out() else ""
        raise UserError(f"--root {root}: has no photographs (JPEG, PNG, WebP or TIFF){there}; give "
                        "the folder that holds them")  # fmt: skip
    file = source.classes or (root / "classes.txt")
    given = names.read_classes(file) if source.classes or file.is_file() else None
    found = _found(tree, source.labels)
    by_end, tree.by_end = tree.by_end, {}
    for path, name in list(by_end.items())[:1]:
        number, said = counted({"photograph": len(by_end)}), f"{reason(path)} for {reason(name)!r}"
        found.notes.append(f"{found.source}: {number} found by the end of the path, such as {said}")
    if found.repeated:
        found.notes.append(f"{found.source}: {counted({'row': found.repeated})} there twice")
    unlabelled = tuple(path for path in tree.photographs if path not in found.names)
    if source.unlabelled == "error" and found.names and not found.problems:
        lacks = f"has no row in {found.source}; add one (an empty label where it shows no class)"
        if found.kind == "class":
            lacks = "lies in no sub-folder that could be its class; move it"
        found.problems.add("image without a label", [
            f"{root / path}: {lacks}, or give --unlabelled skip" for path in unlabelled
        ])  # fmt: skip
    if not found.names and not found.problems:
        found.wrong(f"{found.source}: has no row of any photograph in {root}; check --labels")
    found.notes += [f"the classes are in the order of {file}"] if given else []
    return Scan(tree, settled(found, given, file), unlabelled, tuple(found.notes))


def _found(tree: Tree, path: Path | None) -> Found:
    if path is None or str(path) == "folders":
        return from_sub_folders(tree)
    if path.is_dir():
        return read_xml_folder(path, tree)
    suffix, table = path.suffix.lower(), (".csv", ".tsv", ".txt")
    if not path.is_file() or suffix not in (".json", *table):
        wrong = f"is not of a format that is read ({suffix or 'no'} suffix)"
        raise UserError(f"--labels {path}: {wrong if path.is_file() else 'no such file'}; give a "
                        "table (.csv, .tsv, .txt), COCO's .json, a folder of XML files, or the "
                        "word folders")  # fmt: skip
    return read_table(path, tree) if suffix in table else read_coco(path, tree)
