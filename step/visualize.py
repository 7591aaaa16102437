"""Pictures of a run: maps and masks of an image side by side, and the curves of the scores."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from misc.cams import load_cam
from misc.cli.options import Options, chosen_steps
from misc.data.datasets import image_of, mask_of
from misc.instance_metrics import RECALLS
from misc.labels import label_colours, read_label_png
from misc.report.pictures import drawn
from misc.storage.cam_files import load_dict
from misc.storage.outputs import Output, require_places, write_output
from misc.storage.scores import load_scores
from step.make_seg import folders
from step.maps import SHOWN_ITERATIONS, shown_path

# Bounds of a figure, for images of any size and shape.
_MAX_SIDE = 1000  # pixels of a panel's data
_MAX_HEIGHT = 6.0  # inches
_MAX_ROWS = 6  # classes


class Panel(NamedTuple):
    """A picture H x W x 3, and a map H x W that has a contour at `level`."""

    title: str
    picture: np.ndarray
    cam: np.ndarray | None = None
    level: float = 0.0


def writes(args: Options) -> tuple[Output, ...]:
    return (Output("--result_dir", args.result_dir / "visualize"),)


def check(args: Options) -> None:
    names = {f"picture of {i}": i for i in args.image_ids("infer")[: args.visualize]}
    if args.seg_out_dir.is_dir() or "make_seg" in chosen_steps(args):
        predicted = args.image_ids("seg")[: args.visualize]
        names |= {f"picture of the segmentation of {i}": f"seg_{i}" for i in predicted}
    names |= {"curves of the seeds": "miou_over_threshold", "curves of objects": "precision_recall"}
    out_dir = args.result_dir / "visualize"
    require_places({what: out_dir / f"{name}.png" for what, name in names.items()})


def run(args: Options) -> None:
    out_dir, scores = args.result_dir / "visualize", load_scores(args.result_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for image_id in args.image_ids("infer")[: args.visualize]:
        save_figure(figure_of(args, image_id, scores), out_dir / f"{image_id}.png")
    if args.seg_out_dir.is_dir() and args.seg_list.is_file():
        for image_id in args.image_ids("seg")[: args.visualize]:
            files = {kind: path / f"{image_id}.png" for kind, path in folders(args).items()}
            figure = grid([label_panels(args, image_id, files)])
            save_figure(figure, out_dir / f"seg_{image_id}.png")
    save_curves(args)


def save_curves(args: Options) -> None:
    scores, out_dir = load_scores(args.result_dir), args.result_dir / "visualize"
    seeds = {row: score for row, score in scores.items() if len(score["thresholds"]) > 1}
    found = {row: score for row, score in scores.items() if score.get("precision_at_recall")}
    if seeds or found:
        out_dir.mkdir(exist_ok=True)
    if seeds:
        save_figure(score_curves(seeds), out_dir / "miou_over_threshold.png")
    if found:
        save_figure(recall_curves(found), out_dir / "precision_recall.png")


def map_files(args: Options, image_id: str) -> dict[str, tuple[Path, str]]:
    """Files of maps by title, each with its method in the table."""
    files = {"CAM": (args.plain_cam_out_dir / f"{image_id}.npy", "CAM seed")}
    for name, last in (("RIB", args.RIB_iter), ("AdvCAM", args.adv_iter)):
        for k in (k for k in SHOWN_ITERATIONS if k <= last):
            path = shown_path(args, f"make_recam_with_{name}", image_id, k)
            files[f"{name}, {k} it."] = (path, f"{name} seed")
    return {title: pair for title, pair in files.items() if pair[0].is_file()}


def figure_of(args: Options, image_id: str, scores: Mapping[str, dict]) -> Figure:
    """Image, maps (contours at best thresholds), label maps, instances; a row for each class."""
    masks = {"IR label": args.ir_label_out_dir, "pseudo mask": args.sem_seg_out_dir}
    masks = {title: folder / f"{image_id}.png" for title, folder in masks.items()}
    rows = [label_panels(args, image_id, masks), *([None] for _ in range(_MAX_ROWS - 1))]
    rows[0], others = rows[0][:1], rows[0][1:]
    image, most = rows[0][0].picture, 1
    for title, (path, row_of_table) in map_files(args, image_id).items():
        maps, score = load_cam(path), scores.get(row_of_table)
        level, count = score["thresholds"][score["best"]] if score else 0.0, len(maps["keys"])
        most = max(most, count)
        for row, key, cam in zip(rows, maps["keys"], maps["high_res"], strict=False):
            name = f"{title} {args.info.class_names[key]}" if count > 1 else title
            row.append(map_panel(name, image, cam, level))
        for row in rows[count:]:
            row.append(None)
    path = args.ins_seg_out_dir / f"{image_id}.npy"
    if path.is_file():
        others.append(Panel("instances", coloured(image, reduced(instance_map(path)))))
    rows[0] += others
    return grid(rows[:most])


def label_panels(args: Options, image_id: str, files: Mapping[str, Path]) -> list[Panel]:
    """Panels of an image, its label maps that are there, and its ground truth."""
    image = reduced(image_of(args.info, image_id))
    labels = {title: read_label_png(path) for title, path in files.items() if path.is_file()}
    if args.info.mask_path(image_id).is_file():
        labels["ground truth"] = mask_of(args.info, image_id)  # it may be stored at another size
    shown = [Panel(title, coloured(image, reduced(one))) for title, one in labels.items()]
    return [Panel("image", image), *shown]


def reduced(pixels: np.ndarray) -> np.ndarray:
    """Every n-th pixel of an image or map H x W (x 3), so that it is not too large."""
    step = -(-max(pixels.shape[:2]) // _MAX_SIDE)
    return pixels[::step, ::step]


def grid(rows: Sequence[Sequence[Panel | None]], width: float = 2.0) -> Figure:
    """Panels of one size, `width` inches wide."""
    columns = max(map(len, rows))
    height, wide = next(panel for panel in rows[0] if panel).picture.shape[:2]
    size = (width * columns, len(rows) * (min(width * height / wide, _MAX_HEIGHT) + 0.3))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    for line, panels in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axis, panel in zip_longest(line, panels):
            axis.axis("off")
            if panel is None:
                continue
            axis.imshow(panel.picture)
            axis.set_title(panel.title, fontsize=9)
            if panel.cam is not None and panel.cam.min() < panel.level < panel.cam.max():
                axis.contour(panel.cam, levels=[panel.level], colors="white", linewidths=0.8)
    return figure


def instance_map(path: Path) -> np.ndarray:
    """Number of the instance at every pixel, H x W, 0 for none."""
    found = load_dict(path, "")
    numbers = np.zeros(found["mask"].shape[1:], np.uint8)
    for number, (mask, score) in enumerate(zip(found["mask"], found["score"], strict=True)):
        if score > 0:
            numbers[mask] = 1 + number % 254
    return numbers


def map_panel(title: str, image: np.ndarray, cam: np.ndarray, level: float) -> Panel:
    """A map H x W in 0..1 over a reduced image."""
    cam = reduced(cam)
    return Panel(title, 0.45 * image / 255 + 0.55 * colormaps["jet"](cam)[..., :3], cam, level)


def coloured(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels H x W in the palette's colours over a pale image; ignored pixels are white."""
    return 0.3 * image / 255 + 0.7 * (label_colours(labels) / 255)


def score_curves(scores: Mapping[str, dict]) -> Figure:
    axis = Figure(figsize=(5, 3.2), dpi=120, layout="constrained").subplots()
    for row, score in scores.items():
        mious, best = [100 * (m or 0) for m in score["miou"]], score["best"]
        # Without the blank a name that begins with "_" would not be in the legend.
        (line,) = axis.plot(score["thresholds"], mious, label=f" {row} (best {mious[best]:.1f})")
        axis.plot(score["thresholds"][best], mious[best], "o", color=line.get_color())
    axis.set(xlabel="background threshold", ylabel="mIoU (%)")
    axis.grid(alpha=0.3)
    axis.legend()
    return axis.figure


def recall_curves(scores: Mapping[str, dict]) -> Figure:
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


def confusion_chart(fractions: np.ndarray, names: Sequence[str]) -> Figure:
    """Fractions L x L of the pixels of each label (row) that are labelled as each (column)."""
    side = 1.5 + 0.2 * len(names)
    axis = Figure(figsize=(side, side), layout="constrained").subplots()
    axis.imshow(fractions**0.5, cmap="Blues")  # small ones show
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set(xlabel="prediction", ylabel="ground truth")
    return axis.figure


def save_figure(figure: Figure, path: Path) -> None:
    write_output(path, drawn(figure, "png"))
