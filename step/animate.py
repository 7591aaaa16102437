"""Animations: the maps of an image growing over the iterations, as GIF."""

import io
import logging
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from misc.cams import load_cam
from misc.cli.options import RECAM, Options
from misc.data.datasets import image_of
from misc.report.pictures import reduced
from misc.storage.files import atomic_path, remove_leftovers
from misc.storage.seals import require_own, sealed
from step.refine import shown_path
from step.visualize import heat_map

log = logging.getLogger(__name__)

_SIDE = 320  # pixels, the longer side of a picture
_CAPTION = 16  # pixels below it
_MILLISECONDS, _LAST = 350, 1800  # how long a frame stays, and the last one
_MOST_CLASSES = 4  # beside each other


def animation_path(args: Options, image_id: str) -> Path:
    """Where the animation of an image goes."""
    return args.result_dir / "visualize" / "animations" / f"{image_id}.gif"


def run(args: Options) -> None:
    """Animate the first images whose maps were kept; they are made by RIB or AdvCAM."""
    step, drawn = RECAM[args.recam][0], 0
    for image_id in args.image_ids("infer")[: args.animate]:
        frames = frames_of(args, step, image_id) if step else []
        if frames:
            save_gif(animation_path(args, image_id), frames)
            drawn += 1
    log.info("animations: %d in %s", drawn, animation_path(args, "").parent)
    if drawn == 0:
        log.warning("--animate: no maps after single iterations are kept; run the step of --recam "
                    "with --animate, or with --overwrite where it is complete")  # fmt: skip


def frames_of(args: Options, step: str, image_id: str) -> list[np.ndarray]:
    """Pictures H x W x 3 uint8 of the maps after each iteration that was kept."""
    last = args.RIB_iter if step == "make_recam_with_RIB" else args.adv_iter
    paths = {k: shown_path(args, step, image_id, k) for k in range(1, last + 1)}
    paths = {k: path for k, path in paths.items() if path.is_file()}
    if len(paths) < 2:
        return []
    image = image_of(args.info, image_id)
    height, width = reduced(image.shape[:2], _SIDE)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return [_frame(args, small, load_cam(path), f"{k} of {last}") for k, path in paths.items()]


def _frame(args: Options, image: np.ndarray, maps: dict, when: str) -> np.ndarray:
    height, width = image.shape[:2]
    classes = maps["keys"][:_MOST_CLASSES].tolist()
    sheet = Image.new("RGB", (width * max(1, len(classes)), height + _CAPTION), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (key, cam) in enumerate(zip(classes, maps["high_res"], strict=False)):
        cam = cv2.resize(cam, (width, height), interpolation=cv2.INTER_AREA)
        heat = (255 * heat_map(image, cam)).astype(np.uint8)
        sheet.paste(Image.fromarray(heat), (place * width, 0))
        text = f"{args.info.class_names[key]}, {when}"
        pen.text((place * width + 4, height + 2), text.encode("ascii", "replace"), fill="black")
    return np.asarray(sheet)


def save_gif(path: Path, frames: list[np.ndarray]) -> None:
    """Write pictures H x W x 3 as one that moves; UserError where the file is not ours."""
    require_own(path, "move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    first, *others = (Image.fromarray(frame) for frame in frames)
    stream = io.BytesIO()
    duration = [_MILLISECONDS] * len(others) + [_LAST]
    first.save(stream, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(sealed(stream.getvalue(), ".gif"))
