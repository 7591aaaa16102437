"""Writing the page: the template's parts, and images one after the other as they come."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from misc.report.embedding import embedded
from misc.report.images import Shown
from misc.storage.outputs import open_output

FIRST = 24  # images before the page's program: the first screen waits for no others
_HERE = Path(__file__).parent
_PROGRAM = ("data.js", "charts.js", "gallery.js", "viewer.js")
_END = b"</body>\n</html>\n<!-- "  # its checksum follows, in a comment


class Spool:
    """Entries of images on the disk until their order is known; keeps their numbers alone."""

    def __init__(self, folder: Path):
        self._file: BinaryIO = tempfile.TemporaryFile(dir=folder)
        self._places: list[tuple[int, int]] = []
        self.ids: list[str] = []
        self.keys: list[list[int]] = []
        self.scores: list[float | None] = []

    def add(self, shown: Shown) -> None:
        """Keep an image."""
        self._places.append((self._file.tell(), shown.length))
        self._file.write(shown.text)
        self.ids.append(shown.image_id)
        self.keys.append(shown.keys)
        self.scores.append(shown.score)

    def order(self) -> list[int]:
        """Numbers of the images from the lowest score to the highest, at last those without."""
        return sorted(
            range(len(self.ids)), key=lambda n: (self.scores[n] is None, self.scores[n] or 0.0)
        )

    def texts(self, order: Sequence[int]) -> Iterator[bytes]:
        """The entries of some images."""
        for number in order:
            start, length = self._places[number]
            self._file.seek(start)
            yield self._file.read(length)

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


def write_page(path: Path, title: str, data: dict, spool: Spool) -> int:
    """Write the page, complete or not at all; returns its size in bytes.

    data: what the page's program shows beside the images; `images` is added.
    """
    order = spool.order()
    images = {
        "ids": [spool.ids[n] for n in order],
        "keys": [spool.keys[n] for n in order],
        "scores": [spool.scores[n] for n in order],
    }
    size = 0
    with open_output(path) as stream:
        for part in _parts(title, {**data, "images": images}, spool, order):
            stream.write(part)
            size += len(part)
    return size


def _parts(title: str, data: dict, spool: Spool, order: list[int]) -> Iterator[bytes]:
    start, program = (_HERE / "page.html").read_text(encoding="utf-8").split("{{program}}")
    start = start.replace("{{title}}", _escaped(title)).replace("{{style}}", _text(["page.css"]))
    yield start.encode()
    yield _element("data", embedded(data).encode())
    elements = (_element(f"i{n}", text) for n, text in enumerate(spool.texts(order)))
    yield from itertools.islice(elements, FIRST)
    yield f"<script>\n{_text(_PROGRAM)}</script>\n".encode()
    yield from elements
    yield program.encode()
    yield _END


def _element(name: str, text: bytes) -> bytes:
    return b'<script type="application/json" id="%s">%s</script>\n' % (name.encode(), text)


def _text(names: Sequence[str]) -> str:
    return "".join((_HERE / name).read_text(encoding="utf-8") for name in names)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
