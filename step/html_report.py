"""report.html: scores, curves, classes and images of a result folder as one page."""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from misc.cli.options import IMPORTED, RECAM, Options
from misc.cli.report import ordered, score_line
from misc.errors import counted
from misc.labels import voc_palette
from misc.report.history import runs_of
from misc.report.images import MapFolder, Sources, shown_images
from misc.report.page import Spool, write_page
from misc.report.pictures import SIZES, Size
from misc.runtime.devices import machine
from misc.runtime.processes import cpu_count, map_in_processes
from misc.runtime.programs import progress
from misc.storage.outputs import Output, require_own
from misc.storage.scores import load_scores
from step.make_seg import folders as seg_folders

log = logging.getLogger(__name__)

MAX_BYTES = 180 << 20  # of the images of a page; the rest takes little
MAX_IMAGES = 20_000
_TRIED = 24  # images by which the size of the pictures is chosen
_CHUNK = 16  # images that a process reads before it reports
_WORTH_PROCESSES = 200  # below so many images one process is done sooner
# Options that say where everything is; --report takes them from the log where they are not given.
_REMEMBERED = (
    "train_list", "infer_list", "eval_list", "seg_list", "cls_labels", "recam",
    "plain_cam_out_dir", "cam_out_dir", "adv_cam_out_dir", "sem_seg_out_dir", "seg_out_dir",
    "cam_eval_thres", "limit",
)  # fmt: skip
_TITLES = {"RIB": ("cam_out_dir", "rib"), "AdvCAM": ("adv_cam_out_dir", "advcam"),
           IMPORTED: ("cam_out_dir", IMPORTED)}  # fmt: skip


def page_path(args: Options) -> Path:
    """Where the page goes."""
    return args.result_dir / "report.html"


def writes(args: Options) -> tuple[Output, ...]:
    """The page."""
    return (Output("--result_dir", page_path(args), is_file=True),)


def check(args: Options) -> None:
    """Raise UserError where a file of others is in the way."""
    require_own(page_path(args), "move it away, or give another --result_dir")


def run(args: Options) -> None:
    """Make the page from the files that are there."""
    check(args)
    start = time.perf_counter()
    runs = runs_of(args.log_name)
    args = remembered(args, runs[-1]["all_options"] if runs else {})
    sources, ids = sources_of(args), _ids(args)
    chosen = _spread(ids, MAX_IMAGES)
    with_truth = any(args.info.mask_path(image_id).is_file() for image_id in chosen)
    sources = replace(sources, with_truth=with_truth)
    size, confusion = _fitting_size(sources, chosen), 0
    with contextlib.closing(Spool(args.result_dir)) as spool:
        for shown, counts in _shown(sources, size, chosen):
            confusion = confusion + counts
            for image in shown:
                spool.add(image)
        data = {**page_data(args, sources, confusion), "runs": runs}
        data["images_note"] = _images_note(spool, ids, sources.compared if with_truth else None)
        written = write_page(page_path(args), data["title"], data, spool)
        log.info("%s: %s, %.1f MiB, %.1f s", page_path(args), counted({"image": len(spool.ids)}),
                 written / 2**20, time.perf_counter() - start)  # fmt: skip


def remembered(args: Options, noted: dict) -> Options:
    """The same options with the places of the last run where they were not given."""
    values = dict(vars(args))
    for name in _REMEMBERED:
        known, old = noted.get(name), values.get(name)
        if name in args.given or known is None:
            continue
        if isinstance(known, str) and (isinstance(old, Path) or name.endswith(("_list", "_dir"))):
            values[name] = Path(known) if Path(known).exists() else old
        elif isinstance(old, tuple):
            values[name] = tuple(known)
        elif isinstance(known, (str, int)):
            values[name] = known
    return Options(**values)


def sources_of(args: Options) -> Sources:
    """Folders of maps and masks that are there, with the thresholds that were found for them."""
    scores = load_scores(args.result_dir)
    candidates = {"CAM": args.plain_cam_out_dir}
    for title, (option, recam) in _TITLES.items():
        used = title == "AdvCAM" or args.recam == recam
        usual = args.result_dir / ("cam_imported" if recam == IMPORTED else "cam")
        candidates[title] = getattr(args, option) if used else usual
    maps = []
    for title, folder in candidates.items():
        if folder.is_dir() and folder not in [other.path for other in maps]:
            maps.append(MapFolder(title, folder, _threshold(args, scores.get(f"{title} seed"))))
    endings = {args.recam: "", **{name: ending for name, (_, ending) in RECAM.items()}}
    masks = {"pseudo mask": args.sem_seg_out_dir}
    for name, ending in endings.items():
        if name != args.recam:
            masks[f"pseudo mask ({name})"] = args.result_dir / f"sem_seg{ending}"
    masks |= {f"network, {kind}": path for kind, path in seg_folders(args).items()}
    return Sources(
        info=args.info,
        maps=tuple(maps),
        masks={title: path for title, path in masks.items() if path.is_dir()},
    )


def _threshold(args: Options, score: dict | None) -> float:
    if score:
        return score["thresholds"][score["best"]]
    return round(sum(args.cam_eval_thres) / 2, 2)


def _ids(args: Options) -> tuple[str, ...]:
    """Images with maps or masks: those of the list, or where there is none those of the files."""
    if args.infer_list.is_file():
        ids = args.image_ids("infer")
        with_network = args.seg_out_dir.is_dir() and args.seg_list.is_file()
        predicted = args.image_ids("seg") if with_network else ()
        return tuple(dict.fromkeys((*ids, *predicted)))
    folders = (args.cam_out_dir, args.plain_cam_out_dir, args.sem_seg_out_dir)
    found = {p.stem for f in folders if f.is_dir() for p in f.iterdir() if not p.name[0] == "."}
    return tuple(sorted(name for name in found if args.info.is_id(name)))


def _spread(ids: tuple[str, ...], most: int) -> tuple[str, ...]:
    """At most so many, evenly spread."""
    if len(ids) <= most:
        return ids
    return tuple(ids[n * len(ids) // most] for n in range(most))


def _fitting_size(sources: Sources, ids: tuple[str, ...]) -> Size:
    """The best size at which all pictures together stay below the limit, judged by some images."""
    some = _spread(ids, _TRIED)
    for size in SIZES:
        shown, _ = shown_images(sources, size, some)
        mean = sum(image.length for image in shown) / max(1, len(shown))
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


def page_data(args: Options, sources: Sources, confusion: np.ndarray | int) -> dict:
    """What the page shows beside the images and the runs."""
    rows = load_scores(args.result_dir)
    info = args.info
    # A page of many classes names the colours again from the start, as masks do.
    colours = voc_palette(min(256, info.num_labels)).tolist()
    official = any(row.get("official") for row in rows.values())
    return {
        "title": args.result_dir.resolve().name,
        "subtitle": f"Dataset {info.name}, {info.num_classes} classes",
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "classes": list(info.class_names),
        "palette": colours,
        "rows": [_row(args, row, rows[row]) for row in ordered(rows)],
        "notes": [info.paper_note] if official and info.paper_note else [],
        "has_truth": sources.with_truth,
        "confusion": _confusion(sources, confusion) if np.ndim(confusion) else None,
        "thresholds": {folder.title: folder.threshold for folder in sources.maps},
    }


def _row(args: Options, name: str, score: dict) -> dict:
    best, paper = score_line(args, name, score)
    return {
        "name": name,
        "best": None if best != best else best,
        "threshold": score["thresholds"][score["best"]],
        "paper": paper,
        "images": score.get("images"),
        "list": score.get("list"),
        "thresholds": score["thresholds"],
        "curve": score["miou"],
        "iou": score.get("iou") or score.get("ap"),
    }


def _confusion(sources: Sources, confusion: np.ndarray) -> dict:
    """The labels that occur, and their pixels by truth (row) and prediction."""
    there = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    return {
        "title": sources.compared,
        "labels": there.tolist(),
        "counts": confusion[np.ix_(there, there)].tolist(),
    }


def _images_note(spool: Spool, ids: tuple[str, ...], first: str | None) -> str:
    if not spool.ids:
        return "No photographs of this folder could be read; give the dataset's root."
    shown = len(spool.ids)
    what = f"{shown} of {len(ids)} images" if shown < len(ids) else f"{shown} images"
    by = (
        f"IoU compares the {first} (of images without one, the next mask or map) with the ground "
        "truth, as the mean over the labels of an image."
        if first
        else "There is no ground truth: agreement is the mean IoU of an image's mask and its seed."
    )
    return f"{what}. {by}"
