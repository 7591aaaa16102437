"""Times every step of a run on synthetic photographs of VOC's size.

    python -m tests.tools.pipeline N [--width 64] [options of run_sample.py]

Draws N training images of 375 x 500 pixels and a quarter as many for validation, and runs the steps
at the published settings, from backbones whose weights come from a recipe: the masks are worth
nothing, and the work is that of real weights.
"""

import argparse
import contextlib
import io
import json
import subprocess
import tempfile
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch

import run_sample
from Dataset import voc_layout
from Dataset.make_sample import choose_objects
from Dataset.scene import Scene, draw_scene
from misc.cli.flags import count
from misc.cli.options import chosen_steps, parse
from misc.runtime import image_task, training
from misc.runtime.devices import machine, main_device
from misc.runtime.processes import cpu_count, map_in_processes
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net
from tests.weights import fill_by_recipe

Size = tuple[int, int]
SIZE = (375, 500)
# Every image is given all its iterations, and trainings stay finite from weights of a recipe.
_OPTIONS = (
    *("--stop_th", "1e9", "--explode_ratio", "1.0", "--cam_learning_rate", "1e-4"),
    *("--irn_learning_rate", "1e-4", "--seg_learning_rate", "1e-6", "--visualize", "0"),
)


def prepared(
    folder: Path, images: int, width: int = 64, sizes: Sequence[Size] = (SIZE,),
    backbones: tuple[str, str] = ("resnet50", "resnet101"),
) -> list[str]:  # fmt: skip
    """Draw a dataset in VOC's layout and save networks, where they are not there; their options."""
    root, files = folder / "voc", [folder / f"{name}.pth" for name in backbones]
    if not files[-1].exists():
        for split, count in (("train", images), ("val", max(1, images // 4))):
            numbers = [(images, split == "val", index) for index in range(count)]
            many = cpu_count() if count > 24 else 1
            scenes = map_in_processes(partial(_scene, sizes), numbers, many)
            voc_layout.write_split(root, split, scenes)
        for name, path in zip(backbones, files, strict=True):
            model = Net(20, name=name, width=width, stem=min(width, 64))
            fill_by_recipe(model)
            save_checkpoint(path, model)
    places = ("--voc12_root", root, "--imagenet_weights", files[0], "--seg_init", files[1])
    return [*map(str, (*_OPTIONS, *places))]


def _scene(sizes: Sequence[Size], number: tuple[int, bool, int]) -> Scene:
    rng, index = np.random.default_rng(number), number[-1]
    return draw_scene(rng, choose_objects(rng, index), sizes[index % len(sizes)])


class Watch(contextlib.AbstractContextManager):
    """Takes the place of a progress bar; a third of a step's work comes before what is measured.

    nvidia-smi counts all GPUs of the machine, whatever CUDA_VISIBLE_DEVICES says: the one that is
    used is named by its UUID.
    """

    def __init__(self, device: torch.device):
        self.device, self.times, self.total, self.samples = device, [], 0, None

    def __call__(self, total: int, *_: Any, **__: Any) -> "Watch":
        self.total = total
        return self

    def __exit__(self, *_: Any) -> None:
        if self.samples:
            self.samples.kill()

    def update(self) -> None:
        self.times.append(time.perf_counter())
        if len(self.times) == self.total // 3 + 1 and self.device.type == "cuda":
            uuid = str(torch.cuda.get_device_properties(self.device).uuid).removeprefix("GPU-")
            asked = ("--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")
            command = ["nvidia-smi", "-i", f"GPU-{uuid}", *asked, "-lms", "100"]
            with contextlib.suppress(FileNotFoundError):
                self.samples = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def figures(self, batch: int) -> dict[str, float]:
        """Images per second (by the median step of a training), and nvidia-smi's figures."""
        times, found = self.times[self.total // 3 :], {}
        gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
        if gaps:
            found["images/s"] = batch / median(gaps) if batch else len(gaps) / sum(gaps)
        lines = self.samples.communicate()[0].splitlines() if self.samples else []
        if samples := [line.split(",") for line in lines if line.count(",") == 1]:
            busy, memory = zip(*(map(float, sample) for sample in samples), strict=True)
            found |= {"busy": sum(busy) / len(busy) / 100, "GiB in use": max(memory) / 2**10}
        return found


def run_step(step: str, *words: Any) -> dict[str, Any]:
    """Run a step as the program does: seconds, images per second, and what it took of a GPU."""
    words = [*map(str, words), f"--{step}_pass"]
    args = parse(words)
    device, said, start = main_device(args.resources), io.StringIO(), time.perf_counter()
    watch = Watch(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of this process, before the step starts others
        torch.cuda.reset_peak_memory_stats(device)
    with (
        mock.patch.object(image_task, "progress", watch),
        mock.patch.object(training, "progress", watch),
        contextlib.redirect_stderr(said),
    ):
        try:
            failed = run_sample.main(words)
        except Exception:  # other steps are still worth having
            failed = said.write(traceback.format_exc())
    if failed:
        return {"failed": said.getvalue()[-500:]}
    found = {"seconds": time.perf_counter() - start}
    found |= watch.figures(getattr(args, f"{step.removeprefix('train_')}_batch_size", 0))
    if device.type == "cuda":
        found["peak GiB"] = torch.cuda.max_memory_allocated(device) / 2**30  # by this process
    return found


def main(argv: Sequence[str] | None = None, size: Size = SIZE) -> None:
    """Print the machine, and the figures of every step when it has ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.pipeline", allow_abbrev=False)
    parser.add_argument("images", type=count, metavar="N")
    parser.add_argument("--width", type=count, default=64)
    own, words = parser.parse_known_args(argv)
    print(json.dumps(machine()))
    with tempfile.TemporaryDirectory() as folder:
        given = [*prepared(Path(folder), own.images, own.width, [size]), "--result_dir", folder]
        steps = chosen_steps(parse([*given, *words]))
        words = [word for word in words if not word.endswith("_pass")]
        for step in steps:
            print(json.dumps({step: run_step(step, *given, *words)}), flush=True)


if __name__ == "__main__":
    main()
