"""Labels from a table, whose first line names the columns: one of photographs, others of classes.

Read by pandas, some thousand rows at a time, so that memory does not grow with the rows.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from misc.data.folder.classes import name_problem, shown
from misc.data.folder.labels import Found, Places, Rows
from misc.errors import UserError
from misc.storage.files import encoding_of, reason, require_regular

FORM = (
    "A table has a first line of names and these columns alone: image (or filename, file, path), "
    "and either label (or labels) with class names and ; or | between them, or a column of 0 and 1 "
    "for each class"
)
_IMAGE, _LABEL = ("image", "filename", "file", "path"), ("label", "labels")
_VALUES = {"1": True, "true": True, "0": False, "false": False, "": False}
# Columns that other programs write beside the labels, and that may well hold 0 and 1 alone.
_NO_CLASSES = {"", "id", "index", "fold", "split", "subset", "is_valid", "is_train", "is_test"}
_TAKE_OUT = "take it out (the index of pandas: save with index=False)"
_SEPARATORS = ",，、；｜"  # between classes, where ; and | are meant
_LONGEST_LINE = 8 << 20  # characters
_BREAK = re.compile("\r\n|\r|\n")
_ROWS = 5000  # that are held at a time


class Table:
    """A table of labels. Raises UserError for a file that is not one, or has another head."""

    def __init__(self, path: Path):
        self.path = path
        self.encoding, self.lines, lines = _looked_at(path)
        try:
            self.separator, self.head = _columns(lines[0])
        except csv.Error as error:
            raise UserError(f"{path}, line 1: cannot be read ({reason(error)}). {FORM}") from None
        names = [name.strip().lower() for name in self.head]
        self.form = f"The head is {reason(lines[0])!r}. {FORM}"
        images = [number for number, name in enumerate(names) if name in _IMAGE]
        labels = [number for number, name in enumerate(names) if name in _LABEL]
        if wrong := self._wrong_head(names, images, labels):
            row = f", the first row {reason(lines[1])!r}" if lines[1].strip() else ""
            raise UserError(f"{path}, line 1: {wrong}. The head is {reason(lines[0])!r}{row}. "
                            f"{FORM}")  # fmt: skip
        self.image, self.label = images[0], labels[0] if labels else None
        self.head = [name.strip() for name in self.head]
        self.classes = () if labels else tuple(n for n in self.head if n.lower() not in _IMAGE)

    def _wrong_head(self, names: list[str], images: list[int], labels: list[int]) -> str:
        """What is wrong with the names of the columns; empty where nothing is."""
        others = [n for n in range(len(names)) if n not in images[:1] + labels[:1]]
        if not images:
            return "no column is called image"
        if len(images) > 1 or (labels and others):
            return f"has the further column {shown(self.head[others[0]].strip())}; {_TAKE_OUT}"
        if not labels and not others:
            return "has no column of labels"
        seen: set[str] = set()
        for number in others:
            name = self.head[number]
            if names[number] in _NO_CLASSES or names[number].startswith("unnamed:"):
                return f"has the further column {shown(name.strip())}; {_TAKE_OUT}"
            if any(sign in name for sign in f";|{_SEPARATORS}"):
                return f"the column {shown(name)} is called as if it were of several classes"
            if names[number] in seen or (wrong := name_problem(name)):
                return f"has the column {shown(name)} twice" if names[number] in seen else wrong
            seen.add(names[number])
        return ""

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Number of the line, and cells, of the rows that are not empty.

        A short row has fewer cells than the head; of a long one the further cells are joined.
        """
        import pandas  # loads slowly, and only tables need it

        line = 2
        try:
            frames = pandas.read_csv(
                self.path, sep=self.separator, header=None, names=range(len(self.head) + 1),
                skiprows=1, index_col=False, dtype=str, keep_default_na=False,
                skip_blank_lines=False, on_bad_lines=self._joined, engine="python",
                encoding=self.encoding, chunksize=_ROWS,
            )  # fmt: skip
            with frames:
                for frame in frames:
                    for every in frame.itertuples(index=False, name=None):
                        cells = [cell for cell in every if isinstance(cell, str)]
                        if any(cell.strip() for cell in cells):
                            yield line, cells
                        line += 1 + sum(len(_BREAK.findall(cell)) for cell in cells)
        except pandas.errors.EmptyDataError:  # it is the head alone
            return
        except (pandas.errors.ParserError, csv.Error):
            line = 0
        if line != self.lines + 1:  # pandas passes over what it cannot read
            raise UserError(f"{self.path}: has a quotation mark without its other one, or a cell "
                            f"longer than {csv.field_size_limit()} characters; save it as CSV. "
                            f"{self.form}")  # fmt: skip

    def _joined(self, cells: list[str]) -> list[str]:
        """A row with more than one cell beyond the head: those are joined to one."""
        beyond = cells[len(self.head) :]
        return [*cells[: len(self.head)], self.separator.join(beyond).strip(self.separator)]

    def labels(self, cells: list[str]) -> tuple[str, ...]:
        """Names of the classes in a row; ValueError says what is wrong with it."""
        if len(cells) > len(self.head):
            raise ValueError(f"has cells beyond the {len(self.head)} of the head")
        if len(cells) < len(self.head):
            raise ValueError(f"has {len(cells)} of the {len(self.head)} cells of the head")
        if not cells[self.image].strip():
            raise ValueError("names no photograph")
        if self.label is None:
            classes = (
                pair for n, pair in enumerate(zip(cells, self.head, strict=True)) if n != self.image
            )
            return tuple(name for cell, name in classes if _is_one(cell, name))
        parts = (part.strip() for part in cells[self.label].replace("|", ";").split(";"))
        names = tuple(dict.fromkeys(part for part in parts if part))
        for name in names:
            if wrong := name_problem(name):
                raise ValueError(wrong)
            if any(sign in name for sign in _SEPARATORS):
                raise ValueError(f"has {shown(name)}, which would be one class with a comma")
        return names

    def place(self, line: int, cells: list[str]) -> str:  # in a message
        return f"{self.path}, line {line}: {reason(self.separator.join(cells))!r}"


def read_table(path: Path, places: Places) -> Found:
    """Labels from a CSV file with commas, semicolons or tabs; see FORM.

    Raises UserError for a file that is not such a table; problems of rows are returned.
    """
    table = Table(path)
    rows = Rows(places, "row")
    first: dict[str, str] = dict.fromkeys(table.classes, table.place(1, table.head))
    form = table.form
    for line, cells in table.rows():
        try:
            names = table.labels(cells)
        except ValueError as error:
            rows.wrong(f"{table.place(line, cells)}: {error}. {form}".rstrip(". "))
            form = ""  # once is enough
            continue
        for name in (name for name in names if name not in first):
            first[name] = table.place(line, cells)
        rows.add(f"{path}, line {line}", cells[table.image], names)
    if not rows.names and not rows.problems:
        rows.wrong(f"{path}: has no row below its head; add them. {table.form}")
    if table.label is not None and first and {name.lower() for name in first} <= _VALUES.keys():
        rows.wrong(f"{path}: its column {shown(table.head[table.label])} has 0 and 1 in place of "
                   "names; call the column as the class, or write names")  # fmt: skip
    form = table.form if table.label is not None else ""
    return rows.found(path, table.classes or tuple(sorted(first)), first, form)


def _is_one(cell: str, column: str) -> bool:
    value = _VALUES.get(cell.strip().lower())
    if value is None:
        raise ValueError(f"{reason(cell)!r} in the column {shown(column)} is neither 0 nor 1")
    return value


def _columns(line: str) -> tuple[str, list[str]]:
    """The separator, and the names of the columns: it parts off a column of photographs."""
    ways = {sep: next(csv.reader([line], delimiter=sep), []) for sep in "\t;,"}
    for separator, names in ways.items():
        if len(names) > 1 and any(name.strip().lower() in _IMAGE for name in names):
            return separator, names
    return ",", ways[","]


def _looked_at(path: Path) -> tuple[str, int, list[str]]:
    """Encoding, number of lines and the first two; UserError for what is not a text of lines."""
    try:
        require_regular(path)
        with open(path, "rb") as file:
            encoding = encoding_of(file.read(4))
        with open(path, encoding=encoding) as file:
            first, number = [], 0
            while line := file.readline(_LONGEST_LINE):
                if len(line) >= _LONGEST_LINE:
                    raise ValueError(f"has a line of over {_LONGEST_LINE >> 20} million characters")
                if "\0" in line:
                    raise ValueError("is not a text; save the table as CSV UTF-8")
                first, number = [*first, line][:2], number + 1
        return encoding, number, [*first, "", ""][:2]
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text in UTF-8; save the table as CSV UTF-8") from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or reason(error)
        raise UserError(f"{path}: cannot be read ({cause}); check the path") from None
