"""Pictures of the HTML report: photographs as JPEG, maps and masks as exact grey PNG, charts."""

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

LEVELS = 100  # steps of a map's values, as many as the page's thresholds


class Size(NamedTuple):
    """Longer sides in pixels, and the quality of JPEG."""

    photo: int
    maps: int
    quality: int


# From the best to the smallest; a page takes the first that keeps it below its limit.
SIZES = (Size(480, 128, 80), Size(320, 96, 75), Size(224, 72, 70), Size(160, 56, 65),
         Size(112, 40, 60), Size(80, 28, 50))  # fmt: skip


def reduced(size: tuple[int, int], longer: int) -> tuple[int, int]:
    """(height, width) shrunk to a longer side, never enlarged, and at least 1."""
    factor = min(1.0, longer / max(size))
    return tuple(max(1, round(side * factor)) for side in size)


def photo_uri(image: np.ndarray, size: Size) -> str:
    """A photograph H x W x 3 uint8 as a small JPEG."""
    height, width = reduced(image.shape[:2], size.photo)
    small = Image.fromarray(image).resize((width, height), reducing_gap=2.0)
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=size.quality)
    return _uri("jpeg", stream.getvalue())


def map_levels(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps K x h x w in 0..1 at another size as levels 0..100, K x H x W uint8.

    Rounded up: a value is above the threshold k / 100 exactly where its level is above k.
    """
    height, width = size
    small = [cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in maps]
    stacked = np.asarray(small, np.float32).reshape(len(maps), height, width)
    # Values that were rounded to float32 right above a whole level belong to that level.
    levels = np.ceil(stacked * np.float32(LEVELS) - np.float32(1e-4))
    return np.clip(levels, 0, LEVELS).astype(np.uint8)


def reduced_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map H x W at another size: the labels of the nearest pixels."""
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def stack_uri(layers: Sequence[np.ndarray]) -> str:
    """Grey layers h x w uint8 below each other as one PNG; empty without any."""
    if not len(layers):
        return ""
    stream = io.BytesIO()
    Image.fromarray(np.concatenate(layers)).save(stream, format="PNG", compress_level=9)
    return _uri("png", stream.getvalue())


def drawn(figure: Figure, kind: str) -> bytes:
    """A figure as a "png" or "svg" file."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names of the user's may have a "$"
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return stream.getvalue()


def chart(figure: Figure, alternative: str) -> str:
    """A figure as an HTML image, with a text that says the same."""
    source = _uri("svg+xml", drawn(figure, "svg"))
    return f'<img class="chart" src="{source}" alt="{html.escape(alternative, quote=True)}">'


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
