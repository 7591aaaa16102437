"""Writing the HTML report: the template with its parts, and the images one after the other."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from misc.report.images import Shown, embedded
from misc.storage.outputs import open_output

FIRST = 24  # images before the page's program: the first screen waits for no others
_HERE = Path(__file__).parent
_PROGRAM = ("data.js", "gallery.js", "viewer.js")
_CUT = "<!-- images -->\n"  # where those before and behind the program stand


def table(caption: str, rows: pd.DataFrame, digits: int = 1) -> str:
    """A table as HTML; numbers have so many digits, and nan is a dash."""
    text = rows.to_html(border=0, na_rep="–", float_format=f"{{:.{digits}f}}".format)
    text = text.replace("<thead>", f"<caption>{html.escape(caption)}</caption><thead>", 1)
    label = html.escape(caption, quote=True)
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{text}</div>'


def write_page(path: Path, parts: dict[str, str], data: dict, shown: Sequence[Shown]) -> int:
    """Write the page, its images from the lowest score to the highest; returns its size in bytes.

    parts: HTML of the template's parts. data: for the page's program.
    """
    ordered = sorted(shown, key=lambda image: (image.score is None, image.score or 0.0))
    scores = [image.score for image in ordered]
    ids, keys = [image.image_id for image in ordered], [image.keys for image in ordered]
    images = {"ids": ids, "keys": keys, "scores": scores}
    known = _element("data", embedded({**data, "images": images}).encode())
    elements = [_element(f"i{number}", image.text) for number, image in enumerate(ordered)]
    parts = {**parts, "style": _text("page.css")}
    parts["program"] = f"<script>\n{_text(*_PROGRAM)}</script>"
    template = re.sub(r"{{(\w+)}}", lambda name: parts[name[1]], _text("page.html"))
    start, program, end = (part.encode() for part in template.split(_CUT))
    first, others = elements[:FIRST], elements[FIRST:]
    with open_output(path) as stream:
        stream.writelines([start, known, *first, program, *others, end])
        return stream.tell()


def _element(name: str, text: bytes) -> bytes:
    return b'<script type="application/json" id="%s">%s</script>\n' % (name.encode(), text)


def _text(*names: str) -> str:
    return "".join((_HERE / name).read_text(encoding="utf-8") for name in names)
