"""Compares two result folders stage by stage, and names the first stage that differs.

    python -m tests.tools.compare_results DIR_A DIR_B

The line of a stage has the hash of its files in each folder, how many files differ, and the largest
difference: of maps, weights and scores in their own unit, of label maps and other files the
fraction of pixels or bytes. The exit code is 0 where nothing differs, otherwise 1.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misc.cams import load_cam
from misc.errors import UserError
from misc.labels import read_label_png
from misc.storage.cam_files import load_dict
from misc.storage.manifest import read_manifest, settings_difference
from misc.storage.scores import load_scores
from net.checkpoint import read_checkpoint

Arrays = dict[str, np.ndarray]


def _bytes(path: Path) -> np.ndarray:
    return np.frombuffer(path.read_bytes(), np.uint8)


def _weights(path: Path) -> Arrays:
    return {k: v.numpy() for k, v in sorted(read_checkpoint(path)["state_dict"].items())}


def _scores(path: Path) -> Arrays:
    rows = load_scores(path.parent)
    return {name: np.array(rows[name]["miou"], np.float64) for name in sorted(rows)}


# Stages in the order of the method: name, pattern of its files, reader.
STAGES: tuple[tuple[str, str, Callable[[Path], Arrays | np.ndarray]], ...] = (
    ("image lists", "lists/*.txt", _bytes),
    ("image-level labels", "lists/cls_labels.np[yz]", _bytes),
    ("classifier", "res50_cam.pth", _weights),
    ("CAM", "cam_plain/*.npy", load_cam),
    ("AdvCAM maps", "cam_adv/*.npy", load_cam),
    ("imported maps", "cam_imported/*.npy", load_cam),
    ("RIB maps", "cam/*.npy", load_cam),
    ("IRN training labels", "ir_label*/*.png", read_label_png),
    ("IRN", "res50_irn*.pth", _weights),
    ("pseudo masks", "sem_seg*/*.png", read_label_png),
    ("instance labels", "ins_seg*/*.npy", load_dict),
    ("segmentation network", "deeplab_v2*.pth", _weights),
    ("predictions", "seg*/*.png", read_label_png),
    ("scores", "scores.json", _scores),
)


class Stage(NamedTuple):
    """A stage: its hash in each folder, its files in either, those that differ, the largest."""

    name: str
    hashes: tuple[str, str]
    files: int
    differing: int
    largest: float
    where: str
    settings: str


def difference(one: Arrays, other: Arrays) -> float:
    """The largest difference of arrays; of label maps and bytes the fraction that differs."""
    if one.keys() != other.keys() or any(one[k].shape != other[k].shape for k in one):
        return np.inf
    found = [0.0]
    for name, array in one.items():
        if array.dtype.kind == "f":
            found.append(np.nanmax(np.abs(array.astype(np.float64) - other[name]), initial=0.0))
        elif array.size:
            found.append(np.mean(array != other[name]))
    return float(max(found))


def compared(folders: list[Path]) -> Iterator[Stage]:
    """The stages of which one of the folders has files."""
    for name, pattern, read in STAGES:
        if paths := sorted({p.relative_to(root) for root in folders for p in root.glob(pattern)}):
            yield _compared(name, folders, paths, read)


def _compared(name: str, folders: list[Path], paths: list[Path], read: Callable) -> Stage:
    hashes, apart = (hashlib.sha256(), hashlib.sha256()), {}
    for path in paths:
        both = [_read(read, root / path) for root in folders]
        for whole, arrays in zip(hashes, both, strict=True):
            whole.update(_hash(path, arrays))
        if _hash(path, both[0]) != _hash(path, both[1]):
            apart[str(path)] = difference(*both)
    noted = [read_manifest((root / paths[0]).parent) or {} for root in folders]
    settings = settings_difference(*noted, ("in the first", "in the second"))
    where = max(apart, key=apart.get, default="")
    short = hashes[0].hexdigest()[:8], hashes[1].hexdigest()[:8]
    return Stage(name, short, len(paths), len(apart), apart.get(where, 0.0), where, settings)


def _read(read: Callable, path: Path) -> Arrays:
    """The arrays of a file by name; {} where it is not there."""
    content = read(path) if path.is_file() else {}
    return {"": content} if isinstance(content, np.ndarray) else content


def _hash(path: Path, arrays: Arrays) -> bytes:
    digest = hashlib.sha256(str(path).encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.digest()


def in_words(stage: Stage) -> str:
    """Say of a stage what differs."""
    text = f"{stage.name:22}{stage.hashes[0]}  {stage.hashes[1]}  "
    if not stage.differing:
        return f"{text}identical ({stage.files} files)"
    size = f"{stage.largest:.2g}" if stage.largest < np.inf else "in one only, or of another shape"
    text += f"{stage.differing} of {stage.files} files differ: {size}, {stage.where}"
    return text + f"; {stage.settings}" * bool(stage.settings)


def main(argv: list[str] | None = None) -> int:
    """Print the stages of two result folders; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.compare_results")
    parser.add_argument("folder", type=Path, nargs=2)
    folders = parser.parse_args(argv).folder
    try:
        if not (stages := list(compared(folders))):
            raise UserError(f"{folders[0]}, {folders[1]}: no results; give two result folders")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(in_words, stages)))
    first = next((stage.name for stage in stages if stage.differing), None)
    print(f"first stage that differs: {first or 'none'}")
    return 1 if first else 0


if __name__ == "__main__":
    sys.exit(main())
