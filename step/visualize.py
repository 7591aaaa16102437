"""Pictures of a run: maps and masks of an image side by side, and the curves of the scores."""

import io
import logging
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from misc.cams import load_cam
from misc.cli.options import Options, chosen_steps
from misc.data.datasets import image_of, mask_of
from misc.instance_metrics import RECALLS
from misc.labels import label_colours, read_label_png
from misc.storage.cam_files import load_dict
from misc.storage.outputs import Output, require_places, write_output
from misc.storage.scores import load_scores
from step.make_seg import folders
from step.maps import SHOWN_ITERATIONS, shown_path

log = logging.getLogger(__name__)

# Bounds of a strip, for images of any size and shape.
_MAX_SIDE = 1000  # pixels of a panel's data
_MAX_HEIGHT = 6.0  # inches; a panel is 2 inches wide
_MAX_ROWS = 6  # classes


def writes(args: Options) -> tuple[Output, ...]:
    """Where the pictures go."""
    return (Output("--result_dir", args.result_dir / "visualize"),)


def check(args: Options) -> None:
    """Raise UserError where a file of others is in the way, or two pictures have one name."""
    names = {f"picture of {i}": i for i in args.image_ids("infer")[: args.visualize]}
    if args.seg_out_dir.is_dir() or "make_seg" in chosen_steps(args):
        predicted = args.image_ids("seg")[: args.visualize]
        names |= {f"picture of the segmentation of {i}": f"seg_{i}" for i in predicted}
    names |= {"curves of the seeds": "miou_over_threshold", "curves of objects": "precision_recall"}
    out_dir = args.result_dir / "visualize"
    require_places({what: out_dir / f"{name}.png" for what, name in names.items()})


def run(args: Options) -> None:
    """One strip for each of the first images, and the curves, from the files that are there."""
    out_dir, scores = args.result_dir / "visualize", load_scores(args.result_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for image_id in args.image_ids("infer")[: args.visualize]:
        save_figure(strip(args, image_id, scores), out_dir / f"{image_id}.png")
    if args.seg_out_dir.is_dir() and args.seg_list.is_file():
        for image_id in args.image_ids("seg")[: args.visualize]:
            save_figure(seg_strip(args, image_id), out_dir / f"seg_{image_id}.png")
    save_curves(args)
    log.info("pictures: %s", out_dir)


def save_curves(args: Options) -> None:
    """Draw the curves of scores.json: mIoU over the threshold, precision over recall."""
    scores, out_dir = load_scores(args.result_dir), args.result_dir / "visualize"
    seeds = {row: score for row, score in scores.items() if len(score["thresholds"]) > 1}
    found = {row: score for row, score in scores.items() if score.get("precision_at_recall")}
    for name, draw, rows in (
        ("miou_over_threshold", score_curves, seeds), ("precision_recall", recall_curves, found)
    ):  # fmt: skip
        if rows:
            out_dir.mkdir(exist_ok=True)
            save_figure(draw(rows), out_dir / f"{name}.png")


def map_files(args: Options, image_id: str) -> dict[str, tuple[Path, str]]:
    """By title of the panel: a file of maps, and the row of the table that it belongs to."""
    files = {"CAM": (args.plain_cam_out_dir / f"{image_id}.npy", "CAM seed")}
    for k in SHOWN_ITERATIONS:
        if k <= args.RIB_iter:
            path = shown_path(args, "make_recam_with_RIB", image_id, k)
            files[f"RIB, {k} it."] = (path, "RIB seed")
    for k in SHOWN_ITERATIONS:
        if k <= args.adv_iter:
            path = shown_path(args, "make_recam_with_AdvCAM", image_id, k)
            files[f"AdvCAM, {k} it."] = (path, "AdvCAM seed")
    return {title: pair for title, pair in files.items() if pair[0].is_file()}


def strip(args: Options, image_id: str, scores: dict[str, dict] | None = None) -> Figure:
    """Image, CAM, RIB maps, confident labels, pseudo mask, truth; a row for each class.

    White contours show where a map exceeds the best threshold of its row in `scores`. Only what
    exists is drawn.
    """
    image = image_of(args.info, image_id)
    step = -(-max(image.shape[:2]) // _MAX_SIDE)  # every so many pixels are shown
    image = image[::step, ::step]
    masks = {
        "IR label": args.ir_label_out_dir / f"{image_id}.png",
        "pseudo mask": args.sem_seg_out_dir / f"{image_id}.png",
        "ground truth": args.info.mask_path(image_id),
    }
    masks = {title: path for title, path in masks.items() if path.is_file()}
    files = map_files(args, image_id)
    maps = {title: load_cam(path) for title, (path, _) in files.items()}
    rows = min(_MAX_ROWS, max([1, *(len(m["keys"]) for m in maps.values())]))
    height = min(2.0 * image.shape[0] / image.shape[1], _MAX_HEIGHT)
    found = instance_map(args, image_id, step)
    count = 1 + len(maps) + len(masks) + (found is not None)
    figure = Figure(figsize=(2.0 * count, rows * (height + 0.3)), dpi=100, layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    _show(axes[0, 0], image, "image")
    for column, (title, content) in enumerate(maps.items(), start=1):
        score = (scores or {}).get(files[title][1])
        for row, key in enumerate(content["keys"][:rows]):
            name = args.info.class_names[key] if rows > 1 else ""
            cam = content["high_res"][row, ::step, ::step]
            _show(axes[row, column], heat_map(image, cam), " ".join([title, name]).strip())
            if score and cam.min() < (level := score["thresholds"][score["best"]]) < cam.max():
                axes[row, column].contour(cam, levels=[level], colors="white", linewidths=0.8)
    for column, (title, path) in enumerate(masks.items(), start=1 + len(maps)):
        labels = _labels(args, image_id, path)[::step, ::step]
        _show(axes[0, column], coloured(image, labels), title)
    if found is not None:
        _show(axes[0, -1], coloured(image, found), "instances")
    return figure


def instance_map(args: Options, image_id: str, step: int) -> np.ndarray | None:
    """Number of the instance at every step-th pixel, 0 for none; None without instance labels."""
    path = args.ins_seg_out_dir / f"{image_id}.npy"
    if not path.is_file():
        return None
    found = load_dict(path, "")
    numbers = np.zeros(found["mask"].shape[1:], np.uint8)
    for number, (mask, score) in enumerate(zip(found["mask"], found["score"], strict=True)):
        if score > 0:
            numbers[mask] = 1 + number % 254
    return numbers[::step, ::step]


def seg_strip(args: Options, image_id: str) -> Figure:
    """Image, predictions of the segmentation network without and with CRF, truth."""
    image = image_of(args.info, image_id)
    step = -(-max(image.shape[:2]) // _MAX_SIDE)
    image = image[::step, ::step]
    masks = {kind: path / f"{image_id}.png" for kind, path in folders(args).items()}
    masks["ground truth"] = args.info.mask_path(image_id)
    masks = {title: path for title, path in masks.items() if path.is_file()}
    height = min(2.0 * image.shape[0] / image.shape[1], _MAX_HEIGHT)
    size = (2.0 * (1 + len(masks)), height + 0.3)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(1, 1 + len(masks), squeeze=False)[0]
    _show(axes[0], image, "image")
    for axis, (title, path) in zip(axes[1:], masks.items(), strict=True):
        _show(axis, coloured(image, _labels(args, image_id, path)[::step, ::step]), title)
    for axis in axes:
        axis.axis("off")
    return figure


def _labels(args: Options, image_id: str, path: Path) -> np.ndarray:
    """A label map at the size of its image; ground truth may be stored at another."""
    is_truth = path == args.info.mask_path(image_id)
    return mask_of(args.info, image_id) if is_truth else read_label_png(path)


def _show(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture)
    axis.set_title(title, fontsize=9)


def heat_map(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """A map H x W in 0..1 laid over an image; H x W x 3 in 0..1."""
    return 0.45 * image / 255 + 0.55 * colormaps["jet"](cam)[..., :3]


def coloured(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels H x W in the palette's colours over a pale image; ignored pixels are white."""
    return 0.3 * image / 255 + 0.7 * (label_colours(labels) / 255)


def score_curves(scores: dict[str, dict]) -> Figure:
    """mIoU over the background threshold, one curve for each row of the table."""
    figure = Figure(figsize=(5, 3.2), dpi=120, layout="constrained")
    axis = figure.subplots()
    for row, score in scores.items():
        mious, best = [100 * (m or 0) for m in score["miou"]], score["best"]
        # Without the blank a name that begins with "_" would not be in the legend.
        (line,) = axis.plot(score["thresholds"], mious, label=f" {row} (best {mious[best]:.1f})")
        axis.plot(score["thresholds"][best], mious[best], "o", color=line.get_color())
    axis.set_xlabel("background threshold")
    axis.set_ylabel("mIoU (%)")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def recall_curves(scores: dict[str, dict]) -> Figure:
    """Precision over recall of instance labels: a panel for each row, a line for each class."""
    figure = Figure(figsize=(3.6 * len(scores), 3.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(scores), squeeze=False)[0]
    for axis, (row, score) in zip(axes, scores.items(), strict=True):
        for name, precision in score["precision_at_recall"].items():
            axis.plot(RECALLS, precision, label=f" {name}")
        axis.set(title=row, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, complete or not at all; UserError where the file is not ours.

    Its words are the user's, such as names of classes: a "$" in them begins no formula.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    write_output(path, stream.getvalue())
