"""The description of a dataset that steps and loaders work from, and the datasets there are."""

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

from misc.errors import UserError, some
from misc.storage.checksums import Checksum, checksum_of
from misc.storage.files import read_bytes, reason
from misc.storage.images import image_size
from misc.storage.manifest import IMAGES, content_hashes, read_manifest, state_hash
from misc.storage.outputs import is_changed

IMAGE_FORMATS = ("JPEG", "PNG")  # as Pillow names them; masks are PNG
_HERE = Path(__file__).resolve().parent
_MAX_LIST = 64 << 20  # bytes; the longest official list has 1 MiB
# What the results of each image depend on, by its id: hashes of its files, classes of its labels.
Keys = dict[str, str]


@dataclass(frozen=True)
class DatasetInfo:
    """All that a step may know about a dataset; labels in masks are class index + 1, or 255."""

    name: str
    root: Path
    root_flag: str  # the option that sets `root`, for messages
    class_names: tuple[str, ...]  # foreground classes
    image_dir: Path
    mask_dirs: tuple[Path, ...]  # ground truth; the first folder that has the image counts
    id_pattern: str  # regular expression of a whole image id
    defaults: Mapping[str, object] = field(hash=False)  # options whose value differs by dataset
    paper_scores: Mapping[str, float] = field(hash=False)  # mIoU in per cent, by row of the table
    official_sizes: Mapping[str, int] = field(hash=False)  # images of the official lists, by split
    train_split: str  # images that networks train on, and that get maps and pseudo masks
    eval_split: str  # images on which seeds and pseudo masks are scored
    seg_split: str  # images on which the segmentation network is scored
    image_names: tuple[str, ...] = ("{}.jpg",)  # file of the image with the id {}, best first
    mask_names: tuple[str, ...] = ("{}.png",)  # of masks; {number} is the id without its zeros
    looked_for: str = ""  # folders of photographs in the layouts that are known; none: image_dir
    draws_masks: bool = False  # its preparation draws the masks that are missing
    label_file: str = "cls_labels.npy"  # image-level labels, beside the lists
    list_dir: Path | None = None  # official lists that come with the project, as SPLIT.txt
    list_sources: tuple[Path, ...] = ()  # files and folders that lists and labels are made from
    paper_note: str = ""  # what has to be known where the paper's figures are compared
    recam_defaults: Mapping[str, Mapping[str, object]] = field(default_factory=dict, hash=False)
    # by --recam: its published defaults, in place of those above
    infer_split: str = ""  # images that get maps and pseudo masks; none: those of train_split
    # Options whose usual default does not suit this dataset, with the one that does.
    replaced_defaults: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_labels(self) -> int:
        return len(self.label_names)

    @property
    def label_names(self) -> tuple[str, ...]:
        return ("background", *self.class_names)

    @property
    def photo_long(self) -> int | None:
        """None where images are taken as they are stored; else upright, the longer side, 0: any."""
        return None

    @property
    def result_name(self) -> str:
        return self.name

    def official_ids(self, split: str) -> tuple[str, ...]:
        path = self.list_dir / f"{split}.txt" if self.list_dir else None
        return tuple(path.read_text().split()) if path and path.is_file() else ()

    def is_official(self, split: str, image_ids: tuple[str, ...]) -> bool:
        same = set(self.official_ids(split) or image_ids) == set(image_ids)
        return same and len(image_ids) == self.official_sizes.get(split)

    def made_from(self) -> dict[str, object]:
        """State of the files that lists and labels are made from, for a manifest."""
        return {"files": state_hash(self.list_sources)}

    def read_as(self) -> dict[str, object]:
        """Options that decide how the steps see an image, for a manifest."""
        return {}

    def log_contents(self) -> None:
        """Say what is in the dataset, where a person should look at that first."""

    def columns_of(self, line: str) -> list[str]:
        return line.partition("#")[0].split()

    def image_path(self, image_id: str) -> Path:
        return _first_file([self.image_dir / name.format(image_id) for name in self.image_names])

    def mask_path(self, image_id: str) -> Path:
        names = [name.format(image_id, number=image_id.lstrip("0")) for name in self.mask_names]
        return _first_file([folder / name for folder in self.mask_dirs for name in names])

    def image_size(self, image_id: str) -> tuple[int, int]:
        """(height, width) of an image, from its header; UserError where there is none."""
        return self._header_size(self.image_path(image_id))

    def mask_fits(self, image_id: str) -> bool:
        return self._header_size(self.mask_path(image_id)) == self.image_size(image_id)

    def _header_size(self, path: Path) -> tuple[int, int]:
        try:
            return image_size(path, IMAGE_FORMATS)
        except FileNotFoundError:
            near = [path.with_suffix(suffix) for suffix in (".JPG", ".jpeg", ".JPEG", ".png")]
            found = [other.name for other in near if other.is_file()]
            advice = f"{found[0]} is there: rename it" if found else "check the list"
            said = f"no such image, but it is in the list; {advice}, or {self.root_flag}"
        except ValueError as error:
            said = f"is not a readable image ({error})"
        raise UserError(f"{path}: {said}")

    def is_id(self, text: str) -> bool:
        # ASCII: other scripts have digits too.
        return re.fullmatch(self.id_pattern, text, re.ASCII) is not None

    def id_in(self, entry: str) -> str:
        """The image id in an entry of a list (ID, or the image's file), or the entry itself."""
        name = re.sub(r"\.jpe?g$", "", re.split(r"[/\\]", entry)[-1], flags=re.IGNORECASE)
        for pattern in self.image_names:
            image_id = name.removeprefix(pattern.rpartition("/")[2].partition("{}")[0])
            if self.is_id(image_id):
                return image_id
        return entry

    @staticmethod
    def label_key(image_id: str) -> int:
        """Key of an image in the label file: its id as a number, without underscores."""
        return int(image_id.replace("_", ""))

    def require_root(self) -> None:
        """Raise UserError unless the root is a dataset of this shape."""
        if not self.image_dir.is_dir():
            wanted, there = self.looked_for or f"{self.image_dir.name}/", self.root.is_dir()
            problem = f"has no folder {self.image_dir.name}" if there else "no such folder"
            fix = f"give the folder that holds {wanted} (see the README for its preparation)"
            raise UserError(f"{self.root_flag} {self.root}: {problem}; {fix}")


def _first_file(paths: list[Path]) -> Path:
    return next((path for path in paths if path.is_file()), paths[0])


def read_image_list(path: Path, info: DatasetInfo) -> tuple[str, ...]:
    """Image ids of a list file, one a line, also as "/JPEGImages/ID.jpg", before other columns."""
    places: dict[str, list[int]] = {}
    lines = {number: info.columns_of(line) for number, line in enumerate(_lines(path), start=1)}
    for number, words in ((number, words) for number, words in lines.items() if words):
        try:
            image_id = info.id_in(words[0])
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}; correct it") from None
        if not info.is_id(image_id):
            wrong = f"{words[0][:60]!r} is not an image id of {info.name}"
            raise UserError(f"{path}, line {number}: {wrong}; write one id a line")
        places.setdefault(image_id, []).append(number)
    if not places:
        raise UserError(f"{path}: the image list is empty; write one image id a line")
    if repeated := [f"{i} (lines {at[0]}, {at[1]})" for i, at in places.items() if len(at) > 1]:
        raise UserError(f"{path}: repeats {some(repeated)}; remove the repeats")
    second = {word for words in lines.values() for word in words[1:2]}
    if "-1" in second <= {"-1", "0", "1"}:
        said = "its second column says which images show a class, and -1 that they do not"
        raise UserError(f"{path}: {said}; remove these lines, or give a list of ids")
    return tuple(places)


def _lines(path: Path) -> list[str]:
    try:
        content = read_bytes(path, _MAX_LIST)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: image list is not a text file; check the path") from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or reason(error)
        raise UserError(f"{path}: image list cannot be read ({cause}); check the path") from None
    if checksum_of(content) is Checksum.BROKEN or is_changed(path):
        fix = "save a list of your own under another name, or remove this one to have it made again"
        raise UserError(f"{path}: was changed since this program made it; {fix}")
    return text.splitlines()


def photograph_keys(args: SimpleNamespace, image_ids: Sequence[str]) -> Keys:
    """Hashes of the photographs. args: the options of a run."""
    paths = [args.info.image_path(image_id) for image_id in image_ids]
    return dict(zip(image_ids, content_hashes(paths, args.list_dir), strict=True))


def keys_in(args: SimpleNamespace, folder: Path, suffix: str, image_ids: Sequence[str]) -> Keys:
    """Keys of the images that files of a folder are of, by its manifest or by their own hashes."""
    known = (read_manifest(folder) or {}).get(IMAGES) or {}
    others = [image_id for image_id in image_ids if image_id not in known]
    files = content_hashes([folder / f"{i}{suffix}" for i in others], args.list_dir)
    found = joined(photograph_keys(args, others), dict(zip(others, files, strict=True)))
    return {image_id: known.get(image_id) or found[image_id] for image_id in image_ids}


def joined(*parts: Keys) -> Keys:
    return {image_id: " ".join(part[image_id] for part in parts) for image_id in parts[0]}


def dataset_names() -> tuple[str, ...]:
    """Names of the packages here and beside misc/ with a dataset.py, that of the paper first.

    It has `describe(root)`, DEFAULT_ROOT (None: --root has to be given) and perhaps OPTIONS, names
    of further options. prepare.py has `prepare(...)`, LISTS and perhaps MASKS, a module with
    `writes(args)`, `check(args)` and `run(args)` that follows the pseudo masks of a run.
    """
    found = (sorted(folder.glob("*/dataset.py")) for folder in (_HERE.parents[1], _HERE))
    beside_misc, here = found
    return tuple(path.parent.name for path in (*reversed(beside_misc), *here))


def dataset_module(name: str, part: str = "dataset") -> ModuleType:
    """The module of a dataset that describes it, or its part "prepare"."""
    inside = (_HERE / name / "dataset.py").is_file()
    return importlib.import_module(f"{'misc.data.' if inside else ''}{name}.{part}")


def own_options(name: str) -> tuple[str, ...]:
    """Names of the options that a dataset is described by, beside its root."""
    return getattr(dataset_module(name), "OPTIONS", ())
