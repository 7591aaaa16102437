"""Compares two result folders stage by stage, and names the first stage that differs.

    python -m tests.tools.compare_results DIR_A DIR_B

A line has the hashes of a stage in both folders, the number of files that differ, and the largest
difference: in the unit of maps, weights and scores, or as a fraction of pixels or bytes.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

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


def _instances(path: Path) -> Arrays:
    return load_dict(path, "give two result folders")


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
    ("instance labels", "ins_seg*/*.npy", _instances),
    ("segmentation network", "deeplab_v2*.pth", _weights),
    ("predictions", "seg*/*.png", read_label_png),
    ("scores", "scores.json", _scores),
)


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


def compared(folders: list[Path]) -> Iterator[tuple[str, str, bool]]:
    """Yield name, line and whether anything differs, for each stage that has files."""
    for name, pattern, read in STAGES:
        if paths := sorted({p.relative_to(root) for root in folders for p in root.glob(pattern)}):
            line, differs = _stage(folders, paths, read)
            yield name, f"{name:22}{line}", differs


def _stage(folders: list[Path], paths: list[Path], read: Callable) -> tuple[str, bool]:
    hashes, apart = (hashlib.sha256(), hashlib.sha256()), {}
    for path in paths:
        both = [_read(read, root / path) for root in folders]
        checksums = [_hash(path, arrays) for arrays in both]
        for whole, checksum in zip(hashes, checksums, strict=True):
            whole.update(checksum)
        if checksums[0] != checksums[1]:
            apart[str(path)] = difference(*both)
    line = f"{hashes[0].hexdigest()[:8]}  {hashes[1].hexdigest()[:8]}  "
    if not apart:
        return f"{line}identical ({len(paths)} files)", False
    where = max(apart, key=apart.get)
    size = f"{apart[where]:.2g}" if apart[where] < np.inf else "in one only, or of another shape"
    recorded = [read_manifest((root / paths[0]).parent) or {} for root in folders]
    settings = settings_difference(*recorded)
    line += f"{len(apart)} of {len(paths)} files differ: {size}, {where}"
    return line + f"; {settings}" * bool(settings), True


def _read(read: Callable, path: Path) -> Arrays:
    """The arrays of a file by name; {} where it is not there."""
    content = read(path) if path.is_file() else {}
    return {"": content} if isinstance(content, np.ndarray) else content


def _hash(path: Path, arrays: Arrays) -> bytes:
    found = hashlib.sha256(str(path).encode())
    for name, array in arrays.items():
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.digest()


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
    print(*(line for _, line, _ in stages), sep="\n")
    first = next((name for name, _, differs in stages if differs), None)
    print(f"first stage that differs: {first or 'none'}")
    return 1 if first else 0


if __name__ == "__main__":
    sys.exit(main())
