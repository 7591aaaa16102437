"""Times the preparation of COCO on made-up annotations, and tells its peak of memory.

    python -m tests.tools.benchmark_prepare [--annotations 20000]

The instances files have as many objects and points per object as the official ones on average. The
time is projected to all of COCO 2014.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from coco14.dataset import CATEGORY_IDS, CLASS_NAMES, describe
from coco14.prepare import SPLITS, prepare

OBJECTS_PER_IMAGE = 7.3  # of COCO 2014: 896,782 annotations in 123,287 images
POINTS_PER_OBJECT = 26
HEIGHT, WIDTH = 480, 640
CROWD_FRACTION = 0.012
COCO_IMAGES = 123_287


def make_instances(rng: np.random.Generator, numbers: range) -> dict:
    """Content of an instances file with star-shaped objects of all sizes and some crowds."""
    images = [{"id": number, "height": HEIGHT, "width": WIDTH} for number in numbers]
    counts = rng.poisson(OBJECTS_PER_IMAGE, len(numbers))
    annotations = [
        {"id": i, "image_id": owner, "category_id": int(rng.choice(CATEGORY_IDS))}
        | segmentation(rng)
        for i, owner in enumerate(np.repeat(list(numbers), counts).tolist())
    ]
    categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def segmentation(rng: np.random.Generator) -> dict:
    """The polygon or, for a crowd, the RLE of a made-up object."""
    if rng.random() < CROWD_FRACTION:
        cuts = np.sort(rng.integers(0, HEIGHT * WIDTH, 500))
        counts = np.diff(cuts, prepend=0, append=HEIGHT * WIDTH).tolist()
        rle = {"counts": counts, "size": [HEIGHT, WIDTH]}
        return {"segmentation": rle, "area": HEIGHT * WIDTH // 2, "iscrowd": 1}
    radius = HEIGHT / 2 * rng.uniform(0.02, 1) ** 2
    angles = np.linspace(0, 2 * np.pi, POINTS_PER_OBJECT, endpoint=False)
    radii = radius * rng.uniform(0.6, 1.2, POINTS_PER_OBJECT)
    x = np.clip(rng.uniform(0, WIDTH) + radii * np.cos(angles), 0, WIDTH)
    y = np.clip(rng.uniform(0, HEIGHT) + radii * np.sin(angles), 0, HEIGHT)
    polygon = np.stack([x, y], axis=1).round(2).ravel().tolist()
    return {"segmentation": [polygon], "area": float(radius**2 * 2.5), "iscrowd": 0}


def make_root(root: Path, images: int) -> None:
    """Write made-up instances files for so many images, a third of them for val."""
    rng = np.random.default_rng(0)
    (root / "JPEGImages").mkdir(parents=True)
    (root / "annotations").mkdir()
    first_of_val = 1 + images * 2 // 3
    parts = (range(1, first_of_val), range(first_of_val, 1 + images))
    for name, numbers in zip(SPLITS.values(), parts, strict=True):
        content = json.dumps(make_instances(rng, numbers))
        (root / "annotations" / name).write_text(content)


def main() -> None:
    """Parse the options, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.benchmark_prepare")
    parser.add_argument("--annotations", type=int, default=20_000, metavar="N")
    args = parser.parse_args()
    images = max(3, round(args.annotations / OBJECTS_PER_IMAGE))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "coco"
        make_root(root, images)
        begun = time.perf_counter()
        prepare(describe(root), Path(folder) / "lists")
        seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    hours = COCO_IMAGES / images * seconds / 3600
    print(f"{images} images: {seconds:.1f} s; all of COCO: {hours:.1f} h; peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
