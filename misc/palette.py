"""Label maps as PNG files: plain (the values themselves) or with the colours of PASCAL VOC."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from misc.errors import UserError
from misc.labels import undecided
from misc.storage.outputs import write_output
from misc.storage.untrusted import WrongModeError, decode_image


def voc_palette(n: int = 256) -> np.ndarray:
    """Colours of the labels 0..n-1 as in the PASCAL VOC development kit: n x 3 uint8, 0 is black.

    Bits 0, 3 and 6 of a label are the highest, second and third bit of its red value; bits 1, 4
    and 7 make green, and bits 2 and 5 blue. At most 256 colours differ.
    """
    bits = (np.arange(n)[:, None] >> np.arange(9)) & 1
    by_rank = bits.reshape(n, 3, 3)  # label x rank x channel
    return (by_rank * np.array([128, 64, 32])[:, None]).sum(axis=1).astype(np.uint8)


def label_colours(labels: np.ndarray) -> np.ndarray:
    """Colours of a label map H x W, H x W x 3 uint8: of its last 8 bits; undecided is white."""
    colours = voc_palette()[labels & 255]
    colours[labels == undecided(labels)] = 255
    return colours


def save_label_png(path: str | Path, labels: np.ndarray) -> None:
    """Writes an H x W label map, uint8 or uint16, as a grey PNG whose values are the labels."""
    _save_png(path, Image.fromarray(labels))


def save_palette_png(path: str | Path, labels: np.ndarray) -> None:
    """Writes an H x W uint8 label map as a palette PNG: the same values, shown in colours.

    A palette has 256 entries: of a uint16 map an RGB picture of `label_colours` is written, which
    is no label map.
    """
    if labels.dtype == np.uint16:
        _save_png(path, Image.fromarray(label_colours(labels)))
        return
    image = Image.fromarray(labels)
    image.putpalette(voc_palette().tobytes())
    _save_png(path, image)


def read_label_png(path: str | Path) -> np.ndarray:
    """Reads a grey or palette PNG as an H x W label map: uint8, or uint16 of 16 bits.

    Raises UserError when the file is missing or broken, holds colours in place of labels, or has
    more pixels than `misc.storage.untrusted.MAX_PIXELS`.
    """
    try:
        labels = np.array(decode_image(path, ("PNG",), modes=("L", "P", "I;16", "I")))
        return labels if labels.dtype == np.uint8 else labels.astype(np.uint16)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; check the folder of the label maps") from None
    except WrongModeError as error:
        raise UserError(
            f"{path} is {error}, not a map of label values; use the palette or grey PNG whose "
            "pixel values are the labels"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}); make or download it again"
        ) from error


def _save_png(path: str | Path, image: Image.Image) -> None:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    write_output(path, stream.getvalue())
