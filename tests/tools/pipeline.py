"""Times every step of a run on synthetic photographs of VOC's size.

    python -m tests.tools.pipeline N [--width 64] [--json FILE] [options of run_sample.py]

Draws N training images of 375 x 500 pixels and a quarter as many for validation, and runs the steps
at the published settings, from a backbone whose weights come from a recipe: the masks are worth
nothing, and the work is that of real weights. Of a GPU it is sampled how busy it is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from Dataset import voc_layout
from Dataset.make_sample import choose_objects
from Dataset.scene import draw_scene
from misc.cli.lists import prepare_lists
from misc.cli.options import parse
from misc.cli.run import check_steps, parts_of
from misc.runtime.devices import machine, main_device, set_up_process
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net
from step import all_steps
from tests.weights import fill_by_recipe

SIZE = (375, 500)
_SAMPLES = 2  # of a GPU's use, a second
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


@contextmanager
def busy_samples(device: torch.device) -> Iterator[list[float]]:
    """Yield a list that gets, at the end, how busy a GPU was, 0..1; empty on a CPU."""
    samples: list[float] = []
    if device.type != "cuda":
        yield samples
        return
    command = ["nvidia-smi", "-i", str(device.index or 0), "--query-gpu=utilization.gpu",
               "--format=csv,noheader,nounits", "-lms", str(1000 // _SAMPLES)]  # fmt: skip
    with tempfile.TemporaryFile("w+") as output:
        watch = subprocess.Popen(command, stdout=output)
        try:
            yield samples
        finally:
            watch.terminate()
            watch.wait()
            output.seek(0)
            samples += [float(line) / 100 for line in output if line.strip().isdigit()]


def measured(
    words: Sequence[str], images: int, width: int = 64, size: tuple[int, int] = SIZE
) -> dict[str, dict[str, float]]:
    """Seconds, images per second and (of a GPU) use of every step, and of all together."""
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
        parts, device = parts_of(args, all_steps()), main_device(args.resources)
        set_up_process(args.resources)
        prepare_lists(args, parts.steps)
        check_steps(args, parts)
        with busy_samples(device) as samples:
            for name, step in parts.steps.items():
                start = time.perf_counter()
                step.run(args)
                seconds[name] = time.perf_counter() - start
    return _rows(seconds, images, samples)


def _rows(seconds: dict[str, float], images: int, samples: list[float]) -> dict[str, dict]:
    rows, begun = {}, 0.0
    for name, lasted in (*seconds.items(), ("all", sum(seconds.values()))):
        begun = 0.0 if name == "all" else begun
        row = rows[name] = {"seconds": lasted, "images per second": images / lasted}
        if part := samples[int(_SAMPLES * begun) : int(_SAMPLES * (begun + lasted)) + 1]:
            row["busy"] = mean(part)
        begun += lasted
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.pipeline", allow_abbrev=False)
    parser.add_argument("images", type=int, metavar="N")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--json", type=Path)
    own, words = parser.parse_known_args(argv)
    if own.images < 4:  # fewer may leave RIB no image without the classes of another
        parser.error(f"{own.images} images are too few: give 4 or more")
    rows = measured(words, own.images, own.width)
    print(*(f"{key}: {value}" for key, value in machine().items()), sep="\n", end="\n\n")
    print("| step | seconds | images per second | GPU busy |", "|---|---|---|---|", sep="\n")
    for name, row in rows.items():
        busy = f"{row['busy']:.0%}" if "busy" in row else "-"
        print(f"| {name} | {row['seconds']:.1f} | {row['images per second']:.2f} | {busy} |")
    if own.json:
        found = {"machine": machine(), "options": words, "images": own.images, "steps": rows}
        own.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
