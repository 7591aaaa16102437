"""The whole pipeline on drawn photographs of VOC's size, end to end: seconds of every step.

    python -m tests.tools.benchmark --pipeline N [--width 64] [--json FILE] [run_sample's]

Draws N training images of 375 x 500 pixels as JPEG files and a quarter as many for validation, and
runs the steps (all that a run without options has) at the published settings, from a backbone whose
weights come from a recipe: the masks are worth nothing, and the work is that of real weights where
RIB does not stop early. Where --device is a GPU, the share of time in which it is busy is sampled.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import numpy as np
import torch

from Dataset import voc_layout
from Dataset.make_sample import choose_objects
from Dataset.scene import draw_scene
from misc.cli.lists import prepare_lists
from misc.cli.options import Options, parse
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


def draw(root: Path, images: int) -> None:
    """Write a data set in VOC's layout: so many images to train with, and some to validate."""
    for split, count in (("train", images), ("val", max(1, images // 4))):
        scenes = (
            draw_scene(rng, choose_objects(rng, index), SIZE)
            for index in range(count)
            for rng in [np.random.default_rng([images, split == "val", index])]
        )
        voc_layout.write_split(root, split, scenes)


def start_weights(path: Path, width: int) -> None:
    """Write a classifier by recipe, whose backbone all trainings start from."""
    model = Net(20, width=width, stem=min(width, 64))
    with torch.no_grad():
        fill_by_recipe(model)
    save_checkpoint(path, model)


@contextmanager
def use_of(device: torch.device) -> Iterator[list[float]]:
    """Collects in the block how busy a GPU is, 0..1, twice a second; nothing on a processor."""
    samples: list[float] = []
    if device.type != "cuda":
        yield samples
        return
    command = ["nvidia-smi", "-i", str(device.index or 0), "--query-gpu=utilization.gpu",
               "--format=csv,noheader,nounits", "-lms", str(1000 // _SAMPLES)]  # fmt: skip
    with tempfile.TemporaryFile("w+") as output:
        with suppress(FileNotFoundError):
            watch = subprocess.Popen(command, stdout=output)
        try:
            yield samples
        finally:
            with suppress(NameError):
                watch.terminate()
                watch.wait()
            output.seek(0)
            samples += [float(line) / 100 for line in output if line.strip().isdigit()]


def measured(words: Sequence[str], images: int, width: int = 64) -> dict[str, dict[str, float]]:
    """Seconds, images per second and (of a GPU) use of every step, and of all together."""
    with tempfile.TemporaryDirectory() as scratch:
        root, weights = Path(scratch) / "voc", Path(scratch) / "start.pth"
        draw(root, images)
        start_weights(weights, width)
        own = ("--voc12_root", root, "--imagenet_weights", weights, "--result_dir", scratch)
        args = parse([*map(str, own), *_OPTIONS, *words])
        parts, device = parts_of(args, all_steps()), main_device(args.resources)
        set_up_process(args.resources)
        prepare_lists(args, parts.steps)
        check_steps(args, parts)
        with use_of(device) as samples:
            seconds = {name: seconds_of(step, args) for name, step in parts.steps.items()}
    rows, begun = {}, 0.0
    for name, lasted in (*seconds.items(), ("all", sum(seconds.values()))):
        begun = 0.0 if name == "all" else begun
        row = rows[name] = {"seconds": lasted, "images per second": images / lasted}
        if part := samples[int(_SAMPLES * begun) : int(_SAMPLES * (begun + lasted)) + 1]:
            row["busy"] = mean(part)
        begun += lasted
    return rows


def seconds_of(step: ModuleType, args: Options) -> float:
    """Seconds that a step takes."""
    start = time.perf_counter()
    step.run(args)
    return time.perf_counter() - start


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| step | seconds | images per second | GPU busy |", "|---|---|---|---|"]
    for name, row in rows.items():
        busy = f"{row['busy']:.0%}" if "busy" in row else "-"
        lines.append(f"| {name} | {row['seconds']:.1f} | {row['images per second']:.2f} | {busy} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.benchmark", add_help=False)
    parser.add_argument("--pipeline", type=int, required=True, metavar="N")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--json", type=Path)
    own, words = parser.parse_known_args(argv)
    if own.pipeline < 4:  # fewer may leave RIB no image without the classes of another
        parser.error(f"--pipeline {own.pipeline} is not 4 or more")
    found: dict[str, Any] = {"machine": machine(), "options": words, "images": own.pipeline}
    found["steps"] = measured(words, own.pipeline, own.width)
    print(*(f"{key}: {value}" for key, value in found["machine"].items()), sep="\n", end="\n\n")
    print(table(found["steps"]))
    if own.json:
        own.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0
