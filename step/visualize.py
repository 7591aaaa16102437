"""Pictures of a run: maps and masks of an image side by side, and the curves of the scores."""

import io
import logging
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from misc.cams import load_cam
from misc.cli.options import Options
from misc.data.datasets import read_image
from misc.errors import UserError
from misc.metrics import ThresholdScores
from misc.palette import read_label_png, voc_palette
from misc.storage.files import atomic_path, remove_leftovers
from misc.storage.outputs import foreign_line, is_foreign
from misc.storage.seals import sealed
from step.make_recam_with_RIB import SHOWN_ITERATIONS, shown_path

log = logging.getLogger(__name__)

# Bounds of a strip, for images of any size and shape.
_MAX_SIDE = 1000  # pixels of a panel's data
_MAX_HEIGHT = 6.0  # inches; a panel is 2 inches wide


def run(args: Options, seed_scores: dict[str, ThresholdScores] | None = None) -> None:
    """One strip for each of the first images, from what is there; the curves if there are scores.

    seed_scores: rows of the table and their scores, as `eval_cam.run` returns them.
    """
    out_dir = args.result_dir / "visualize"
    out_dir.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out_dir)
    for image_id in args.image_ids("infer")[: args.visualize]:
        save_figure(strip(args, image_id), out_dir / f"{image_id}.png")
    if seed_scores:
        save_figure(score_curves(seed_scores), out_dir / "miou_over_threshold.png")
    log.info("pictures: %s", out_dir)


def strip(args: Options, image_id: str) -> Figure:
    """Image, CAM, RIB maps, confident labels, pseudo mask, ground truth; only those that exist."""
    image = read_image(args.info.image_path(image_id))
    step = -(-max(image.shape[:2]) // _MAX_SIDE)  # every so many pixels are shown
    image = image[::step, ::step]
    maps = {"CAM": args.plain_cam_out_dir / f"{image_id}.npy"}
    maps |= {
        f"RIB, {k} it.": shown_path(args, image_id, k)
        for k in SHOWN_ITERATIONS
        if k <= args.RIB_iter
    }
    masks = {
        "IR label": args.ir_label_out_dir / f"{image_id}.png",
        "pseudo mask": args.sem_seg_out_dir / f"{image_id}.png",
        "ground truth": args.info.mask_path(image_id),
    }
    panels = {"image": image}
    panels |= {
        name: heat_map(image, load_cam(p)["high_res"][:, ::step, ::step])
        for name, p in maps.items()
        if p.is_file()
    }
    panels |= {
        name: coloured(image, read_label_png(p)[::step, ::step])
        for name, p in masks.items()
        if p.is_file()
    }
    height = min(2.0 * image.shape[0] / image.shape[1], _MAX_HEIGHT)
    figure = Figure(figsize=(2.0 * len(panels), height + 0.3), dpi=100, layout="constrained")
    for axis, (name, picture) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
    ):
        axis.imshow(picture)
        axis.set_title(name, fontsize=9)
        axis.axis("off")
    return figure


def heat_map(image: np.ndarray, cams: np.ndarray) -> np.ndarray:
    """The strongest map of K x H x W in 0..1 laid over an image; H x W x 3 in 0..1."""
    strongest = cams.max(axis=0) if len(cams) else np.zeros(image.shape[:2])
    return 0.45 * image / 255 + 0.55 * colormaps["jet"](strongest)[..., :3]


def coloured(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels H x W in the palette's colours over a pale image; undecided pixels are white."""
    colours = voc_palette()[labels] / 255
    colours[labels == 255] = 1.0
    return 0.3 * image / 255 + 0.7 * colours


def score_curves(seed_scores: dict[str, ThresholdScores]) -> Figure:
    """mIoU over the background threshold, one curve for each row of the table."""
    figure = Figure(figsize=(5, 3.2), dpi=120, layout="constrained")
    axis = figure.subplots()
    for row, scores in seed_scores.items():
        mious, best = 100 * scores.mean_ious(), scores.best()
        (line,) = axis.plot(scores.thresholds, mious, label=f"{row} (best {mious[best]:.1f})")
        axis.plot(scores.thresholds[best], mious[best], "o", color=line.get_color())
    axis.set_xlabel("background threshold")
    axis.set_ylabel("mIoU (%)")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, complete or not at all; UserError where that is somebody's file."""
    if is_foreign(path):
        raise UserError(foreign_line(path))
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    with atomic_path(path) as temporary:
        temporary.write_bytes(sealed(stream.getvalue(), ".png"))
