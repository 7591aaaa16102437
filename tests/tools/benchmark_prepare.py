"""Times the preparation of COCO on made-up annotations, and watches its memory.

    python -m tests.tools.benchmark_prepare [--annotations 20000] [--image_size 640,480]

Made up are instances files with as many objects and points per object as the official ones have on
average, and empty photographs. What is printed is projected to all of COCO 2014.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from coco14.dataset import CATEGORY_IDS, CLASS_NAMES, describe
from coco14.prepare import SPLITS, prepare
from misc.runtime.processes import cpu_count

OBJECTS_PER_IMAGE = 7.3  # of COCO 2014: 896,782 annotations in 123,287 images
POINTS_PER_OBJECT = 26
CROWD_SHARE = 0.012
COCO_IMAGES = 123_287


def make_instances(rng: np.random.Generator, numbers: range, size: tuple[int, int]) -> dict:
    """Content of an instances file with star-shaped objects of all sizes and some crowds."""
    height, width = size
    images = [{"id": number, "height": height, "width": width} for number in numbers]
    counts = rng.poisson(OBJECTS_PER_IMAGE, len(numbers))
    owners = np.repeat(list(numbers), counts).tolist()
    annotations = [
        {
            "id": i,
            "image_id": owner,
            "category_id": int(rng.choice(CATEGORY_IDS)),
            **shape(rng, size),
        }
        for i, owner in enumerate(owners)
    ]
    categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def shape(rng: np.random.Generator, size: tuple[int, int]) -> dict:
    """Outline or, for a crowd, run lengths of a made-up object."""
    height, width = size
    if rng.random() < CROWD_SHARE:
        cuts = np.sort(rng.integers(0, height * width, 500))
        counts = np.diff(cuts, prepend=0, append=height * width).tolist()
        segmentation = {"counts": counts, "size": [height, width]}
        return {"segmentation": segmentation, "area": height * width // 2, "iscrowd": 1}
    radius = min(size) / 2 * rng.uniform(0.02, 1) ** 2
    angles = np.linspace(0, 2 * np.pi, POINTS_PER_OBJECT, endpoint=False)
    radii = radius * rng.uniform(0.6, 1.2, POINTS_PER_OBJECT)
    x = np.clip(rng.uniform(0, width) + radii * np.cos(angles), 0, width)
    y = np.clip(rng.uniform(0, height) + radii * np.sin(angles), 0, height)
    polygon = np.stack([x, y], axis=1).round(2).ravel().tolist()
    return {"segmentation": [polygon], "area": float(radius**2 * 2.5), "iscrowd": 0}


class MemoryWatch(threading.Thread):
    """Notes the resident memory of this process, in MiB, until `stop` is called (Linux)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.samples: list[float] = []
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.1):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.samples.append(pages * 4096 / 2**20)

    def stop(self) -> list[float]:
        """The samples, one every tenth of a second."""
        self._ended.set()
        self.join()
        return self.samples


def make_root(root: Path, images: int, size: tuple[int, int]) -> None:
    """Write made-up instances files for so many images, a third of them for val."""
    rng = np.random.default_rng(0)
    (root / "JPEGImages").mkdir(parents=True)
    (root / "annotations").mkdir()
    bounds = (1, 1 + images * 2 // 3, 1 + images)
    for name, first, last in zip(SPLITS.values(), bounds, bounds[1:], strict=False):
        content = make_instances(rng, range(first, last), size)
        (root / "annotations" / name).write_text(json.dumps(content))


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--annotations", type=int, default=20_000, metavar="N")
    parser.add_argument("--image_size", default="640,480", metavar="W,H")
    args = parser.parse_args()
    width, height = map(int, args.image_size.split(","))
    images = max(3, round(args.annotations / OBJECTS_PER_IMAGE))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "coco"
        make_root(root, images, (height, width))
        watch = MemoryWatch()
        watch.start()
        start = time.perf_counter()
        prepare(describe(root), Path(folder) / "lists")
        seconds = time.perf_counter() - start
        memory = watch.stop()
        start = time.perf_counter()
        prepare(describe(root), Path(folder) / "lists")
        again = time.perf_counter() - start
    half = len(memory) // 2
    print(
        f"{images} images of {width}x{height}, about {args.annotations} annotations, "
        f"{cpu_count()} cores: {seconds:.1f} s, {images / seconds:.0f} images/s; "
        f"all of COCO ({COCO_IMAGES} images): {COCO_IMAGES / images * seconds / 60:.0f} min\n"
        f"again, with all masks there: {again:.1f} s\n"
        f"memory of the main process: {max(memory[:half]):.0f} MiB at most in the first half, "
        f"{max(memory[half:]):.0f} MiB in the second"
    )


if __name__ == "__main__":
    main()
