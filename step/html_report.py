"""report.html: scores, curves, classes and images of a result folder as one page."""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from misc.cli.flags import IMPORTED, RECAM
from misc.cli.options import Options
from misc.cli.report import ordered, score_line
from misc.errors import counted
from misc.labels import voc_palette
from misc.report.history import runs_of
from misc.report.images import MapFolder, Sources, shown_images
from misc.report.page import table, write_page
from misc.report.pictures import SIZES, Size, chart
from misc.runtime.devices import machine
from misc.runtime.processes import cpu_count, map_in_processes
from misc.runtime.programs import progress
from misc.storage.outputs import Output, require_own
from misc.storage.scores import load_scores
from step.make_seg import folders as seg_folders
from step.visualize import confusion_chart, score_curves

log = logging.getLogger(__name__)

MAX_BYTES = 180 << 20  # of the images of a page; the rest takes little
MAX_IMAGES = 20_000
_TRIED = 24  # images by which the size of the pictures is chosen
_CHUNK = 16  # images that a process reads before it reports
_WORTH_PROCESSES = 200  # below so many images one process is done sooner
# Places that --report takes from the log where they are not given.
_REMEMBERED = (
    "train_list", "infer_list", "eval_list", "seg_list", "cls_labels", "plain_cam_out_dir",
    "cam_out_dir", "adv_cam_out_dir", "sem_seg_out_dir", "seg_out_dir",
)  # fmt: skip


def writes(args: Options) -> tuple[Output, ...]:
    return (Output("--result_dir", args.result_dir / "report.html", is_file=True),)


def check(args: Options) -> None:
    require_own(writes(args)[0].path, "move it away, or give another --result_dir")


def run(args: Options) -> None:
    check(args)
    start, (page,) = time.perf_counter(), writes(args)
    runs = runs_of(args.log_name)
    args = remembered(args, runs[-1].get("all_options", {}) if runs else {})
    ids, sources = _ids(args), sources_of(args)
    chosen = _spread(ids, MAX_IMAGES)
    with_truth = any(args.info.mask_path(image_id).is_file() for image_id in chosen)
    sources, shown, confusion = replace(sources, with_truth=with_truth), [], 0
    for some, counts in _shown(sources, _fitting_size(sources, chosen), chosen):
        shown += some
        confusion = confusion + counts
    rows = load_scores(args.result_dir)
    by = "There is no ground truth: agreement is the mean IoU of an image's mask and its seed."
    if with_truth:
        by = f"IoU is that of the {sources.compared} with the ground truth, mean over its labels."
    made = f"This report was made {time.strftime('%Y-%m-%d %H:%M')} with {json.dumps(machine())}."
    parts = {
        "title": escape(args.result_dir.resolve().name),
        "subtitle": escape(f"Dataset {args.info.name}, {args.info.num_classes} classes"),
        "scores": scores_of(args, rows, with_truth),
        "classes": classes_of(args, rows, sources.compared, confusion),
        "images_note": escape(f"{len(shown)} of {len(ids)} images. {by}"),
        "runs": "".join(map(_run_of, reversed(runs))) + f'<p class="note">{escape(made)}</p>',
    }
    data = {
        "classes": list(args.info.class_names),
        "palette": voc_palette(min(256, args.info.num_labels)).tolist(),  # then from the start
        "has_truth": with_truth,
        "thresholds": {folder.title: folder.threshold for folder in sources.maps},
    }
    size = write_page(page.path, parts, data, shown) / 2**20
    log.info("%s: %s, %.1f MiB, %.1f s", page.path, counted({"image": len(shown)}), size,
             time.perf_counter() - start)  # fmt: skip


def remembered(args: Options, recorded: dict) -> Options:
    """The options with the places of the last run where they were not given."""
    places = {name: recorded.get(name) for name in _REMEMBERED if name not in args.given}
    values = {n: Path(v) for n, v in places.items() if isinstance(v, str) and Path(v).exists()}
    if "recam" not in args.given and recorded.get("recam") in tuple(RECAM):
        values["recam"] = recorded["recam"]
    return args.replaced(**values)


def sources_of(args: Options) -> Sources:
    result, scores, maps = args.result_dir, load_scores(args.result_dir), {}
    candidates = {
        "CAM": args.plain_cam_out_dir,
        "RIB": args.cam_out_dir if args.recam == "rib" else result / "cam",
        "AdvCAM": args.adv_cam_out_dir,
        IMPORTED: args.cam_out_dir if args.recam == IMPORTED else result / "cam_imported",
    }
    for title, folder in candidates.items():
        score = scores.get(f"{title} seed")
        usual = round(sum(args.cam_eval_thres) / 2, 2)
        threshold = score["thresholds"][score["best"]] if score else usual
        if folder.is_dir():
            maps.setdefault(folder, MapFolder(title, folder, threshold))
    endings = {name: ending for name, (_, ending) in RECAM.items() if name != args.recam}
    masks = {"pseudo mask": args.sem_seg_out_dir}
    masks |= {f"pseudo mask ({n})": result / f"sem_seg{ending}" for n, ending in endings.items()}
    masks |= {f"network, {kind}": path for kind, path in seg_folders(args).items()}
    masks = {title: path for title, path in masks.items() if path.is_dir()}
    return Sources(args.info, tuple(maps.values()), masks)


def _ids(args: Options) -> tuple[str, ...]:
    with_network = args.seg_out_dir.is_dir() and args.seg_list.is_file()
    predicted = args.image_ids("seg") if with_network else ()
    return tuple(dict.fromkeys((*args.image_ids("infer"), *predicted)))


def _spread(ids: tuple[str, ...], most: int) -> tuple[str, ...]:
    return ids if len(ids) <= most else tuple(ids[n * len(ids) // most] for n in range(most))


def _fitting_size(sources: Sources, ids: tuple[str, ...]) -> Size:
    some = _spread(ids, _TRIED)
    for size in SIZES:
        shown, _ = shown_images(sources, size, some)
        mean = sum(len(image.text) for image in shown) / max(1, len(shown))
        if mean * len(ids) <= MAX_BYTES:
            return size
    return SIZES[-1]


def _shown(sources: Sources, size: Size, ids: tuple[str, ...]) -> Iterator[tuple]:
    chunks = [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]
    processes = min(cpu_count(), 16) if len(ids) >= _WORTH_PROCESSES else 1
    with progress(len(ids), "report.html", "image") as bar:
        work = map_in_processes(partial(shown_images, sources, size), chunks, processes)
        for chunk, found in zip(chunks, work, strict=True):
            yield found
            bar.update(len(chunk))


def scores_of(args: Options, rows: dict[str, dict], with_truth: bool) -> str:
    if not rows:
        reason = "" if with_truth else ": there is no ground truth"
        return f"<p>Nothing has been scored{reason}.</p>"
    lines = {}
    for name in ordered(rows):
        score = rows[name]
        best, paper = score_line(args, name, score)
        lines[name] = {"mIoU (%)": 100 * best, "threshold": score["thresholds"][score["best"]],
                       "paper": paper, "images": str(score.get("images", "")),
                       "list": Path(score.get("list", "")).name}  # fmt: skip
    found = pd.DataFrame.from_dict(lines, orient="index").dropna(axis=1, how="all")
    text = table("Scores of this folder", found, 2)
    if "paper" in found:
        text += f'<p class="note">{escape(args.info.paper_note)}</p>'
    seeds = {name: rows[name] for name in lines if len(rows[name]["thresholds"]) > 1}
    said = f"mIoU over the background threshold: {', '.join(seeds)}"
    return text + (chart(score_curves(seeds), said) if seeds else "")


def classes_of(args: Options, rows: dict, title: str, confusion: np.ndarray | int) -> str:
    """IoU of the classes and their confusion L x L (row ground truth), as HTML."""
    ious = {name: rows[name].get("iou") or rows[name].get("ap") for name in ordered(rows)}
    found = pd.DataFrame({n: v for n, v in ious.items() if v}, dtype=float).dropna(how="all")
    text = table("IoU (%) of every class at the best threshold", 100 * found) if len(found) else ""
    if not np.ndim(confusion):
        return text or "<p>There is no ground truth to compare classes with.</p>"
    there = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    counts = confusion[np.ix_(there, there)]
    fractions = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    figure = confusion_chart(fractions, [args.info.label_names[label] for label in there])
    said = f"Confusion of classes, {title}: pixels of each (row) that are labelled as each (column)"
    return f"{text}<h3>{escape(said)}</h3>{chart(figure, said)}"


def _run_of(run: dict) -> str:
    lines = [f"{name:24}{seconds} s" for name, seconds in run["steps"]]
    lines += ["", *(f"--{name} {json.dumps(value)}" for name, value in run["options"].items())]
    text = escape("\n".join([*lines, "", json.dumps(run["machine"])]))
    return f"<details><summary>Run of {run['at']}</summary><pre>{text}</pre></details>"
