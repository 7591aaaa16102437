"""Labels from a table: image,label;label on a line, or a column for each class."""

import codecs
import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from misc.data.folder.labels import Found, Places
from misc.data.folder.names import is_photograph
from misc.errors import Problems, UserError
from misc.storage.untrusted import reason, require_regular

_IMAGE_WORDS = {
    "image", "images", "file", "files", "filename", "file_name", "filepath", "path", "name", "id",
    "image_id", "imageid", "image_name", "img", "photo", "photograph", "picture",
}  # fmt: skip
_LABEL_WORDS = {
    "label", "labels", "class", "classes", "class_name", "category", "categories", "tag", "tags",
}  # fmt: skip
_ONE, _ZERO = {"1", "1.0", "true", "yes"}, {"", "0", "0.0", "false", "no", "-1", "-1.0"}
_LOOKED_AT = 50  # rows by which the form of a table is recognised
_LONGEST_LINE = 8 << 20  # characters
_MOST_PROBLEMS = 1000  # kept of each kind: a table of a gigabyte may be wrong in every row

Row = tuple[int, list[str]]  # number of its line, cells


@dataclass
class _Reading:
    """What was read so far."""

    source: Path
    places: Places
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    classes: dict[str, None] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    repeated: int = 0

    def wrong(self, kind: str, line: int, text: str) -> None:
        messages = self.problems.setdefault(kind, [])
        if len(messages) < _MOST_PROBLEMS:
            messages.append(f"{self.source}, line {line}: {text}")

    def add(self, line: int, image: str, names: tuple[str, ...]) -> None:
        """One row of the table."""
        try:
            path = self.places.find(image)
        except ValueError as error:
            self.wrong("row", line, f"{error}; correct it, or give --skip_unknown_rows")
            return
        self.classes.update(dict.fromkeys(names))
        if path not in self.names:
            self.names[path], self.lines[path] = names, line
        elif set(self.names[path]) == set(names):
            self.repeated += 1
        else:
            one, other = (reason(";".join(n) or "no class") for n in (self.names[path], names))
            self.wrong("row", line, f"{path} has {other} here and {one} in line "
                       f"{self.lines[path]}; write one row with all of its classes")  # fmt: skip


def read_table(path: Path, places: Places, skip_unknown: bool = False) -> Found:
    """Labels from a CSV file with commas, semicolons or tabs.

    Its first line names the columns: the image, then either one of labels (several in a cell with
    ; or | between them), or a column of 0 and 1 for each class. Without such a line the first
    column is the image and the others have labels. skip_unknown: rows of images that are not there
    are left out. Memory does not grow with the rows that are. Raises UserError for a file that is
    no table; problems of rows are returned.
    """
    rows = _rows(path)
    head = list(itertools.islice(rows, 1 + _LOOKED_AT))
    if not head or len(head[0][1]) < 2:
        raise UserError(f"{path}: has no two columns; write image,class;class on each line")
    reading = _Reading(path, places)
    header = None if _is_data(head[0][1], places) else head.pop(0)[1]
    every = itertools.chain(head, rows)
    columns = _class_columns(path, header, head)
    if columns:
        _read_columns(reading, columns, len(header), every)
    else:
        _read_cells(reading, _label_columns(header), every)
    problems = Problems()
    for kind, messages in reading.problems.items():
        if not (kind == "row" and skip_unknown):
            problems.add(kind, messages)
        else:
            problems.add(kind, [m for m in messages if "--skip_unknown_rows" not in m])
    classes = tuple(columns.values()) if columns else tuple(sorted(reading.classes))
    return Found(reading.names, classes, problems, reading.repeated)


def _read_columns(reading: _Reading, columns: dict[int, str], width: int, rows: Iterator) -> None:
    for line, cells in rows:
        if len(cells) > width or any(c.strip() for c in cells[width:]):
            reading.wrong("row", line, f"has {len(cells)} cells, the first line {width}")
            continue
        names, bad = [], None
        for column, name in columns.items():
            value = cells[column].strip().lower() if column < len(cells) else ""
            if value in _ONE:
                names.append(name)
            elif value not in _ZERO:
                bad = bad or f"{reason(cells[column])!r} in the column {reason(name)!r}"
        if bad:
            reading.wrong("cell", line, f"has {bad}; expected is 0 or 1")
        else:
            reading.add(line, cells[0], tuple(names))


def _read_cells(reading: _Reading, columns: list[int] | None, rows: Iterator) -> None:
    for line, cells in rows:
        chosen = cells[1:] if columns is None else [cells[c] for c in columns if c < len(cells)]
        parts = (part.strip() for cell in chosen for part in cell.replace("|", ";").split(";"))
        reading.add(line, cells[0], tuple(dict.fromkeys(part for part in parts if part)))


def _is_data(cells: list[str], places: Places) -> bool:
    """Whether the first line is of an image and does not name columns."""
    if cells[0].strip().lower() in _IMAGE_WORDS:
        return False
    try:
        places.find(cells[0])
        return True
    except ValueError:
        return is_photograph(cells[0].strip())


def _class_columns(path: Path, header: list[str] | None, head: list[Row]) -> dict[int, str] | None:
    """Names of the classes by column, where each has its own; None for a table of another form."""
    cells = [cell.strip().lower() for _, row in head for cell in row[1:]]
    binary = bool(cells) and set(cells) <= _ONE | _ZERO and not set(cells) <= {""}
    if header is None:
        if binary and len(head[0][1]) > 2:
            raise UserError(
                f"{path}: has columns of 0 and 1, and no first line that names them; put "
                "image,CLASS,CLASS,... in front"
            )
        return None
    words = [name.strip() for name in header]
    if not binary or (len(words) == 2 and words[1].lower() in _LABEL_WORDS):
        return None
    names = {column: name for column, name in enumerate(words) if column and name}
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if words[1:].count(name) > 1)
        raise UserError(f"{path}, line 1: has the column {reason(twice)!r} twice; rename one")
    return names


def _label_columns(header: list[str] | None) -> list[int] | None:
    """The columns whose names say that they hold labels; None where all but the first do."""
    words = [name.strip().lower() for name in header or []]
    return [column for column, word in enumerate(words) if column and word in _LABEL_WORDS] or None


def _rows(path: Path) -> Iterator[Row]:
    """The rows that are not empty, one at a time; UserError where the file is no table."""
    try:
        require_regular(path)
        with open(path, encoding=_encoding(path), newline="") as file:
            lines = _lines(file, path)
            first = next(lines, "")
            delimiter = "\t" if "\t" in first else "," if "," in first else ";"
            reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the table of labels with --labels") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text in UTF-8; save the table as CSV UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}: is not a table ({reason(error)}); save it as CSV") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); check --labels") from None


def _encoding(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(4)
    return "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _lines(file, path: Path) -> Iterator[str]:
    while line := file.readline(_LONGEST_LINE):
        if len(line) >= _LONGEST_LINE:
            raise UserError(f"{path}: has a line of more than {_LONGEST_LINE >> 20} million "
                            "characters; is it a table of labels?")  # fmt: skip
        if "\0" in line:
            raise UserError(f"{path}: is not a text; save the table as CSV UTF-8")
        yield line
