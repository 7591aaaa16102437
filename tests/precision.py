"""How far RIB's maps move with the precision of the convolutions, measured without a GPU.

    python -m tests.precision --voc12_root DIR --cam_weights_name FILE --limit 24 [options]
                              [--formats tf32 fp16 bf16] [--json FILE]

Options are those of run_sample.py. What enters a convolution, its weights and the gradient that
comes back are rounded to the format, as a GPU's matrix units do; 16-bit formats also round what
comes out. Sums, the classifier, pooling, weights and their steps stay float32. fp16 scales
the loss as `net.overflow` does. Needs the masks of the images, for the seeds' scores.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from misc.cams import load_cam
from misc.cli.options import Options, parse
from misc.data.registry import preparation
from misc.runtime.progress import progress
from net.folded import FoldedConv
from net.overflow import LOSS_SCALE
from step.eval_cam import score
from step.make_recam_with_RIB import MakeRIBCAM


class Format(NamedTuple):
    """A format of floating-point numbers."""

    rounded: Callable[[Tensor], Tensor]
    stored: bool  # whether results are rounded to it too
    loss_scale: float = 1.0


def to_tf32(values: Tensor) -> Tensor:
    """Float32 with 10 bits of mantissa, to the nearest; halves away from zero."""
    bits = (values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF
    return bits.view(torch.float32)


FORMATS = {
    "tf32": Format(to_tf32, stored=False),
    "fp16": Format(lambda values: values.half().float(), stored=True, loss_scale=LOSS_SCALE),
    "bf16": Format(lambda values: values.bfloat16().float(), stored=True),
}


class _Round(torch.autograd.Function):
    """Rounds values on their way forward, gradients on their way back, or both."""

    @staticmethod
    def forward(context, values: Tensor, form: Format, forward: bool, back: bool) -> Tensor:
        context.form, context.back = form, back
        # A copy: what follows may change it in place.
        return (form.rounded(values) if forward else values).clone()

    @staticmethod
    def backward(context, gradient: Tensor):
        form = context.form
        if context.back:
            gradient = form.rounded(gradient * form.loss_scale) / form.loss_scale
        return gradient, None, None, None


@contextlib.contextmanager
def emulated(form: Format | None) -> Iterator[None]:
    """Within the block the folded convolutions compute in a format; None changes nothing."""
    exact = FoldedConv.forward

    def forward(conv: FoldedConv, features: Tensor) -> Tensor:
        # The gradient of what comes in is a result of the way back, that of the weights stays.
        entering = _Round.apply(features, form, True, form.stored)
        weight = _Round.apply(conv.weight, form, True, False)
        result = F.conv2d(
            entering, weight, conv.bias, conv.stride, conv.padding, groups=conv.groups
        )
        return _Round.apply(result, form, form.stored, True)

    FoldedConv.forward = forward if form else exact
    try:
        yield
    finally:
        FoldedConv.forward = exact


class Seeds(NamedTuple):
    """What RIB makes of the images in a format."""

    maps: dict[str, np.ndarray]  # by image, K x H x W in 0..1
    miou: float  # of the best threshold, 0..1


def seeds(args: Options, form: Format | None, folder: Path) -> Seeds:
    """Make the maps of --infer_list and score them."""
    args.cam_out_dir.mkdir(exist_ok=True)
    task, ids = MakeRIBCAM(args), args.image_ids("infer")
    with emulated(form), progress(len(ids), folder.name, "image") as bar:
        task.start(torch.device("cpu"), list(ids))
        for image_id in ids:
            task.one(image_id)
            bar.update()
    args.cam_out_dir.rename(folder)
    maps = {image_id: load_cam(folder / f"{image_id}.npy")["high_res"] for image_id in ids}
    scores = score(args, folder, ids)
    return Seeds(maps, float(np.nanmax(scores.mean_ious())))


def compared(seen: Seeds, exact: Seeds) -> dict[str, float]:
    """Differences of maps as shares of their peaks, and the change of mIoU in points."""
    pairs = [(seen.maps[image_id], exact.maps[image_id]) for image_id in exact.maps]
    apart = [np.abs(here - there) for here, there in pairs if there.size]
    return {
        "largest": max(float(part.max()) for part in apart),
        "mean": float(np.mean([part.mean() for part in apart])),
        "miou": 100 * seen.miou,
        "change": 100 * (seen.miou - exact.miou),
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| format | largest difference | mean | mIoU (%) | change |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['largest']:.1e} | {row['mean']:.1e} | {row['miou']:.2f} "
            f"| {row['change']:+.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.precision", add_help=True)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--json", type=Path)
    own, words = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        args = parse([*words, "--device", "cpu", "--result_dir", scratch])
        preparation(args.dataset).prepare(args.info, args.list_dir)
        exact = seeds(args, None, Path(scratch) / "float32")
        rows = {"float32": compared(exact, exact)}
        for name in own.formats:
            rows[name] = compared(seeds(args, FORMATS[name], Path(scratch) / name), exact)
            if own.json:  # after every format, since each may take an hour
                text = json.dumps({"options": words, "formats": rows}, indent=1)
                own.json.write_text(f"{text}\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
