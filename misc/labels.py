"""Label maps H x W: 0 is background, class + 1 the classes, the largest value is ignored (void).

A map has 8 bits where the classes of its dataset fit (255 is ignored), else 16 bits (65535). In
files it is a grey PNG of the values, or a palette PNG in the colours of PASCAL VOC.
"""

import io
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

from misc.errors import UserError
from misc.storage.cam_files import MAX_CLASSES
from misc.storage.images import WrongModeError, decode_image
from misc.storage.outputs import write_output

MOST_CLASSES = MAX_CLASSES  # of a dataset
MOST_OF_8_BITS = 254
IGNORED, IGNORED_OF_16_BITS = 255, 65_535  # the first is that of other types too


def label_type(num_labels: int) -> type[np.unsignedinteger]:
    """The type of label maps of so many labels, background included."""
    return np.uint8 if num_labels <= MOST_OF_8_BITS + 1 else np.uint16


def ignored_value(labels: np.ndarray) -> int:
    """The value of the ignored pixels of a label map."""
    return IGNORED_OF_16_BITS if labels.dtype == np.uint16 else IGNORED


def of_type(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """An unsigned label map H x W in the type of its dataset, itself where it has that."""
    if labels.dtype != np.uint8 or label_type(num_labels) is np.uint8:
        return labels
    wide = labels.astype(np.uint16)
    wide[labels == IGNORED] = IGNORED_OF_16_BITS
    return wide


def classes_in(labels: np.ndarray) -> list[int]:
    """The labels of a map but background and the ignored value, ascending."""
    return np.setdiff1d(labels, (0, ignored_value(labels))).tolist()


def voc_palette(n: int = 256) -> np.ndarray:
    """Colours of the labels 0..n-1 as in the PASCAL VOC development kit: n x 3 uint8, 0 is black.

    Bits 0, 3 and 6 of a label are the highest, second and third bit of its red value; bits 1, 4
    and 7 make green, and bits 2 and 5 blue. At most 256 colours differ.
    """
    bits = (np.arange(n)[:, None] >> np.arange(9)) & 1
    by_rank = bits.reshape(n, 3, 3)  # label x rank x channel
    return (by_rank * np.array([128, 64, 32])[:, None]).sum(axis=1).astype(np.uint8)


def label_colours(labels: np.ndarray) -> np.ndarray:
    """Colours of a label map H x W, H x W x 3 uint8, by its last 8 bits; ignored ones are white."""
    colours = voc_palette()[labels & 255]
    colours[labels == ignored_value(labels)] = 255
    return colours


def save_label_png(path: str | Path, labels: np.ndarray) -> None:
    """Write an H x W label map, uint8 or uint16, as a grey PNG whose values are the labels."""
    write_output(path, iio.imwrite("<bytes>", labels, extension=".png", plugin="pillow"))


def save_palette_png(path: str | Path, labels: np.ndarray) -> None:
    """Write an H x W uint8 label map as a palette PNG: the same values, shown in colours.

    A palette has 256 entries: of a uint16 map an RGB picture is written, which is no label map.
    """
    if labels.dtype == np.uint16:
        return save_label_png(path, label_colours(labels))
    image, stream = Image.fromarray(labels), io.BytesIO()
    image.putpalette(voc_palette().tobytes())  # Pillow itself: imageio writes no palette
    image.save(stream, format="PNG")
    write_output(path, stream.getvalue())


def read_label_png(path: str | Path) -> np.ndarray:
    """Read a grey or palette PNG as an H x W label map: uint8, or uint16 of 16 bits.

    Raises UserError when the file is missing or broken, holds colours in place of labels, or has
    too many pixels.
    """
    try:
        labels = decode_image(path, ("PNG",), modes=("L", "P", "I;16", "I"))
        return labels.astype(np.uint8 if labels.dtype == np.uint8 else np.uint16)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; check the folder of the label maps") from None
    except WrongModeError as error:
        raise UserError(
            f"{path} is {error}, not a map of label values; use the palette or grey PNG whose "
            "pixel values are the labels"
        ) from None
    except ValueError as error:
        message = f"{path} cannot be read as an image ({error}); make or download it again"
        raise UserError(message) from error
