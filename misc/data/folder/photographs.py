"""Photographs in a folder tree: found, called by names of the user, read as upright RGB."""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from misc.data.folder.names import id_of, is_cut, is_photograph, normalised
from misc.errors import UserError, raise_problems
from misc.storage import images
from misc.storage.files import reason

# Names that operating systems, disks, network storage and editors leave in folders.
_LEFT_BEHIND = re.compile(
    r"\..*|.*~|~\$.*|#.*#|found\.\d{3}|.*@syno(resource|eastream)|(?-i:Thumbs)|@eadir|@tmp|@recycle|"
    r"@recently-snapshot|@__thumb|#recycle|#snapshot|~snapshot|\$recycle\.bin|dfsrprivate|"
    r"system volume information|lost\+found|lost\.dir|__macosx|network trash folder|icon\r|"
    r"temporary items|thevolumesettingsfolder|desktop d[bf]|(eh)?thumbs(_vista)?\.db|"
    r"thumbs\.db:encryptable|(desktop|picasa)\.ini|__pycache__", re.DOTALL | re.IGNORECASE
)  # fmt: skip
# Of a photograph that is shrunk. Decoded it takes 4 bytes a pixel, 1 GiB, a JPEG file far less.
MAX_PHOTOGRAPH = 1 << 28
_BAND = 1 << 22  # pixels of a large photograph that are converted at a time
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners have


def files_below(
    root: Path, without: Sequence[Path] = ()
) -> tuple[list[str], Counter[str], list[str]]:
    """Paths of all files below a folder; what was passed over; linked folders that leave the root.

    Each folder is entered once, linked ones last, and none of `without`.
    """
    others = (path for path in without if path.is_dir() and not path.samefile(root))
    seen = {os.stat(path)[1:3] for path in others}  # inode and device
    found, passed, links, tops = [], Counter(), [], [str(root)]
    for top in tops:  # linked folders are added to it
        for folder, folders, files in os.walk(top, onerror=_refuse):
            place = os.stat(folder)[1:3]
            left = {name for name in (*folders, *files) if _LEFT_BEHIND.fullmatch(name)}
            folders[:] = [] if place in seen else sorted({*folders} - left)
            if place in seen:  # links may lead in circles
                continue
            seen.add(place)
            below = "" if folder == str(root) else os.path.relpath(folder, root) + "/"
            inside = folder != top or Path(folder).resolve().is_relative_to(root.resolve())
            links += [] if inside or below.startswith(tuple(links)) else [below]
            passed.update(name for name in left if name[0] != ".")
            tops += [p for name in folders if os.path.islink(p := os.path.join(folder, name))]
            found += [f"{below}{name}" for name in files if name not in left]
    return sorted(found), passed, links


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); allow or move it")


def require_names(folder: Path, paths: Sequence[str]) -> None:
    """Raise UserError for files whose names cannot stand in a list, one a line, in UTF-8."""
    wrong = []
    for path in paths:
        text = os.fsencode(path).decode(errors="replace")
        what = "is not UTF-8" if text != path else "has a line break"
        if text != path or len(path.splitlines()) != 1:
            wrong.append(f"{folder}/{reason(text)}: its name {what}; rename it")
    raise_problems("file name", wrong)


class Tree:
    """The photographs below a folder: paths with / between folders, ascending.

    A user's name, with or without suffix, stands for the photograph with this path below the root,
    or for the only one that has the longest end of it (`x/a.jpg` of `/home/x/a.jpg`).
    """

    def __init__(self, root: Path, without: Sequence[Path] = ()):
        self.root = root
        files, self.passed, links = files_below(root, without)
        self.photographs = tuple(filter(is_photograph, files))
        require_names(root, self.photographs)
        self.others = Counter(os.path.splitext(p)[1].lower() for p in files if not is_photograph(p))
        # Linked folders that lead out of it, with the number of photographs through each.
        self.links = {link: sum(p.startswith(link) for p in self.photographs) for link in links}
        self.by_end: dict[str, str] = {}  # names that were found by their end, by photograph

    def left_out(self) -> str:
        """Files that are no photographs, for the log; empty where there are none."""
        parts = [f"{n} {suffix or 'without suffix'}" for suffix, n in sorted(self.others.items())]
        parts += [f"{reason(name)} ({n})" for name, n in sorted(self.passed.items())]
        return ", ".join(parts)

    @cached_property
    def cut(self) -> dict[str, str]:
        """Paths of the photographs whose ids are cut."""
        return {i: path for path in self.photographs if is_cut(i := id_of(path))}

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for path in self.photographs:
            file = normalised(path).rpartition("/")[2]
            stem = file.rpartition(".")[0]
            for key in {path, file, f"{stem}.", f"{stem.casefold()}:"}:
                names.setdefault(key, []).append(path)
        return names

    def find(self, name: str) -> str:
        """Path of a photograph below the root; ValueError says why there is none."""
        if name in self._names.get(name, []):
            return name
        found, text = self.candidates(name), self._plain(name)
        if len(found) > 1:
            some = ", ".join(map(reason, found[:3]))
            raise ValueError(f"{reason(name)!r} may be any of {len(found)} ({some}); give its path")
        if found:
            plain = normalised(found[0])
            if text not in (plain, plain.rpartition(".")[0]):
                self.by_end.setdefault(found[0], name)
            return found[0]
        if os.path.isfile(file := self.root / text):
            raise ValueError(f"{reason(file)} is none of the photographs below {self.root}")
        near = "".join(f"; is it {reason(other)!r}?" for other in self.loosely(name)[:1])
        raise ValueError(f"there is no photograph {reason(name)!r} in {self.root}{near}")

    def candidates(self, name: str) -> list[str]:
        """The photographs that a name may stand for."""
        text = self._plain(name)
        if text in self._names.get(text, []):
            return [text]
        if not text or os.path.isfile(self.root / text):
            return []  # another file, such as one beside the folder
        *folders, last = text.split("/")
        ends: dict[int, list[str]] = {-1: []}  # by the number of folders that they have in common
        for path in self._names.get(last if is_photograph(last) else f"{last}.", []):
            own = normalised(path).split("/")[:-1]
            common = len(os.path.commonprefix([folders[::-1], own[::-1]]))
            common += len(folders) == len(own) == common  # it is the path
            ends.setdefault(common, []).append(path)
        return ends[max(ends)]

    def loosely(self, name: str) -> list[str]:
        """The photographs with the name of a file, whatever its folder, case and suffix."""
        last = self._plain(name).rpartition("/")[2]
        stem = last.rpartition(".")[0] if is_photograph(last) else last
        return self._names.get(f"{stem.casefold()}:", [])

    def _plain(self, name: str) -> str:
        text = name.strip().replace("\\", "/")
        for root in (self.root.absolute(), self.root.resolve()) if os.path.isabs(text) else ():
            if Path(text).is_relative_to(root):
                text = Path(text).relative_to(root).as_posix()
        return normalised(posixpath.normpath(text)) if text else ""


def own_size(path: Path) -> tuple[int, int]:
    """(height, width) of a photograph, upright, as it is stored; exceptions of `size_as_shown`."""
    with images.opened_image(path, _FORMATS, max_pixels=MAX_PHOTOGRAPH) as image:
        return images.shown_size(image)


def size_as_shown(path: Path, longest: int = 0) -> tuple[int, int]:
    """(height, width) of a photograph, upright, at most `longest`; from the header alone."""
    height, width = _shrunk(own_size(path), longest)
    if height * width > (most := images.MAX_PIXELS):
        raise ValueError(f"{width}x{height} pixels, at most {most}; give --photo_long")
    return height, width


def read_photograph(path: Path, longest: int = 0) -> np.ndarray:
    """A photograph as H x W x 3 uint8 RGB of `size_as_shown`, of its first frame or page.

    CMYK becomes RGB, transparent pixels white. Of 16 bits the smallest usual depth that holds the
    largest value becomes 0..255; of floats the largest is white where above 1.
    """
    most = MAX_PHOTOGRAPH if longest else images.MAX_PIXELS
    with images.opened_image(path, _FORMATS, in_memory=True, max_pixels=most) as image:
        shown = images.shown_size(image)
        size = _shrunk(shown, longest)
        if size != shown and image.format == "JPEG":
            # At 1/2, 1/4 or 1/8 where that is large enough: a tenth of the time and memory.
            image.draft(None, _shrunk(image.size, longest))
        image.load()
        orientation = images.orientation_of(image)
        if image.width * image.height > images.MAX_PIXELS:
            image = _reduced(image, max(size))
        upright = images.turned(_eight_bit_rgb(image), orientation)
        if upright.size[::-1] != size:
            upright = upright.resize(size[::-1], Image.Resampling.LANCZOS, reducing_gap=2.0)
        return np.asarray(upright)


def check_photograph(path: Path, longest: int = 0, quick: bool = False) -> str | None:
    """Raise ValueError where a photograph is broken (quick: its header); return a warning."""
    with images.opened_image(path, _FORMATS, max_pixels=MAX_PHOTOGRAPH) as image:
        form, mode, frames = image.format, image.mode, getattr(image, "n_frames", 1)
    if not quick:
        if form == "JPEG":
            images.check_jpeg(path)
        read_photograph(path, longest)
    if frames > 1:
        return "files have several frames or pages, of which the first is used"
    if mode in ("CMYK", "YCbCr", "LAB"):
        return "photographs are not RGB (CMYK or Lab) and are converted"
    deep = mode.startswith(("I", "F"))
    return "photographs have more than 8 bits a value and are reduced to 8" if deep else None


def fitted_mask(mask: np.ndarray, path: Path, longest: int) -> np.ndarray:
    """A mask H x W of a photograph's size, made upright and shrunk as it is; others as they are."""
    with images.opened_image(path, _FORMATS, max_pixels=MAX_PHOTOGRAPH) as image:
        stored, shown = images.stored_size(image), images.shown_size(image)
        orientation = images.orientation_of(image)
    if mask.shape == stored and shown != stored:
        mask = np.asarray(images.turned(Image.fromarray(mask), orientation))
    size = _shrunk(shown, longest)
    if mask.shape != shown or size == shown:
        return mask
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int)
                     for new, old in zip(size, shown, strict=True))  # fmt: skip
    return mask[rows[:, None], columns]


def _shrunk(size: tuple[int, int], longest: int) -> tuple[int, int]:
    if not longest or max(size) <= longest:
        return size
    return tuple(max(1, round(side * longest / max(size))) for side in size)


def _reduced(image: Image.Image, longest: int) -> Image.Image:
    """Means of blocks of a photograph, 8-bit RGB, at least twice as long as `longest`, in bands."""
    k = max(1, max(image.size) // (2 * longest))
    rows = k * max(1, _BAND // (k * image.width))
    tops = range(0, image.height, rows)
    boxes = [(0, top, image.width, min(image.height, top + rows)) for top in tops]
    highest = None
    if image.mode.startswith(("I", "F")):
        highest = max(float(_numbers(image.crop(box)).max()) for box in boxes)
    small = Image.new("RGB", (-(-image.width // k), -(-image.height // k)))
    for box in boxes:
        small.paste(_eight_bit_rgb(image.crop(box), highest).reduce(k), (0, box[1] // k))
    return small


def _eight_bit_rgb(image: Image.Image, highest: float | None = None) -> Image.Image:
    """highest: the largest value of what `image` is a part of, where it has more than 8 bits."""
    if image.mode.startswith(("I", "F")):
        values = _numbers(image)
        highest = float(values.max()) if highest is None else highest
        white = next((2.0**bits - 1 for bits in _DEPTHS if highest < 2**bits), highest)
        white = 1.0 if 0 < highest <= 1 else white
        image = Image.fromarray(np.clip(values * (255 / white) + 0.5, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _numbers(image: Image.Image) -> np.ndarray:
    """Values of more than 8 bits, H x W float32, those that are not finite as 0."""
    return np.nan_to_num(np.asarray(image).astype(np.float32), nan=0, posinf=0, neginf=0)
