"""Times every step of a run on synthetic photographs of VOC's size.

    python -m tests.tools.pipeline N [--width 64] [options of run_sample.py]

Draws N training images of 375 x 500 pixels and a quarter as many for validation, and runs the steps
at the published settings, from a backbone whose weights come from a recipe: the masks are worth
nothing, and the work is that of real weights.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from Dataset import voc_layout
from Dataset.make_sample import choose_objects
from Dataset.scene import draw_scene
from misc.cli.lists import prepare_lists
from misc.cli.options import parse
from misc.cli.run import check_steps, parts_of
from misc.runtime.devices import machine, set_up_process
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net
from step import all_steps
from tests.weights import fill_by_recipe

SIZE = (375, 500)
# Every image is given all its iterations, and trainings stay finite from weights of a recipe.
_OPTIONS = (
    *("--stop_th", "1e9", "--explode_ratio", "1.0", "--cam_learning_rate", "1e-4"),
    *("--irn_learning_rate", "1e-4"),
)


def draw(root: Path, images: int, size: tuple[int, int]) -> None:
    """Write a dataset in VOC's layout: so many images to train with, and some to validate."""
    for split, count in (("train", images), ("val", max(1, images // 4))):
        rngs = [np.random.default_rng([images, split == "val", index]) for index in range(count)]
        scenes = (draw_scene(rng, choose_objects(rng, n), size) for n, rng in enumerate(rngs))
        voc_layout.write_split(root, split, scenes)


def measured(
    words: Sequence[str], images: int, width: int = 64, size: tuple[int, int] = SIZE
) -> dict[str, float]:
    """Seconds of every step, and of all together."""
    seconds = {}
    with tempfile.TemporaryDirectory() as scratch:
        root, weights = Path(scratch) / "voc", Path(scratch) / "start.pth"
        draw(root, images, size)
        model = Net(20, width=width, stem=min(width, 64))
        with torch.no_grad():
            fill_by_recipe(model)
        save_checkpoint(weights, model)
        own = ("--voc12_root", root, "--imagenet_weights", weights, "--result_dir", scratch)
        args = parse([*map(str, own), *_OPTIONS, *words])
        parts = parts_of(args, all_steps())
        set_up_process(args.resources)
        prepare_lists(args, parts.steps)
        check_steps(args, parts)
        for name, step in parts.steps.items():
            start = time.perf_counter()
            step.run(args)
            seconds[name] = time.perf_counter() - start
    seconds["all"] = sum(seconds.values())
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.pipeline", allow_abbrev=False)
    parser.add_argument("images", type=int, metavar="N")
    parser.add_argument("--width", type=int, default=64)
    own, words = parser.parse_known_args(argv)
    if own.images < 4:  # fewer may leave RIB no image without the classes of another
        parser.error(f"{own.images} images are too few: give 4 or more")
    seconds = measured(words, own.images, own.width)
    print(*(f"{key}: {value}" for key, value in machine().items()), sep="\n", end="\n\n")
    print("| step | seconds | images per second |", "|---|---|---|", sep="\n")
    for name, lasted in seconds.items():
        print(f"| {name} | {lasted:.1f} | {own.images / lasted:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
