"""Labels from a table with named columns, read by pandas some thousand rows at a time."""

import csv
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from misc.data.folder.labels import Found
from misc.data.folder.names import name_problem, shown
from misc.data.folder.photographs import Tree
from misc.errors import UserError
from misc.storage.files import encoding_of, reason, require_regular

FORM = ("A table has a first line of names and these columns alone: image (or filename, file, "
        "path), and either label (or labels) with class names and ; or | between them, or a "
        "column of 0 and 1 for each class")  # fmt: skip
_IMAGE, _LABEL = ("image", "filename", "file", "path"), ("label", "labels")
_VALUES = {"1": True, "true": True, "0": False, "false": False, "": False}
# Columns that other programs write beside the labels, and that may well hold 0 and 1 alone.
_NO_CLASSES = {"", "id", "index", "fold", "split", "subset", "is_valid", "is_train", "is_test"}
_SEPARATORS = re.compile("[,，、；｜]")  # between classes, where ; and | are meant
_LONGEST_LINE = 8 << 20  # characters
_ROWS = 5000  # that are held at a time


class Table:
    """A table of labels. Raises UserError for a file that is not one, or has another head."""

    def __init__(self, path: Path):
        self.path = path
        self.encoding, self.lines, (head, row) = _looked_at(path)
        self.form = f"The head is {reason(head)!r}. {FORM}"
        try:
            ways = {sep: next(csv.reader([head], delimiter=sep), []) for sep in "\t;,"}
            plain = {sep: [name.strip().lower() for name in ways[sep]] for sep in ways}
            fits = [sep for sep in ways if len(ways[sep]) > 1 and {*_IMAGE} & {*plain[sep]}]
            self.separator = [*fits, ","][0]
            self.head = ways[self.separator]
            self.image, self.label = self._columns(plain[self.separator])
        except (csv.Error, ValueError) as error:
            first = f"The first row is {reason(row)!r}. " if row.strip() else ""
            raise UserError(f"{path}, line 1: {error}. {first}{self.form}") from None
        self.head = [name.strip() for name in self.head]
        classes = [name for n, name in enumerate(self.head) if n != self.image]
        self.classes = tuple(classes) if self.label is None else ()

    def _columns(self, names: list[str]) -> tuple[int, int | None]:
        image, label = (next((n for n, name in enumerate(names) if name in known), None)
                        for known in (_IMAGE, _LABEL))  # fmt: skip
        others = {n: name for n, name in enumerate(names) if n not in (image, label)}
        if image is None:
            raise ValueError("no column is called image")
        if label is None and not others:
            raise ValueError("has no column of labels")
        for number, name in others.items():
            column = shown(self.head[number])
            further = name in _NO_CLASSES or name in _IMAGE or name.startswith("unnamed:")
            if label is not None or further:
                raise ValueError(f"has the further column {column}; take it out")
            if ";" in name or "|" in name or _SEPARATORS.search(name):
                raise ValueError(f"the column {column} is called as if of several classes")
            if names.index(name) < number:
                raise ValueError(f"has the column {column} twice")
            if wrong := name_problem(self.head[number]):
                raise ValueError(wrong)
        return image, label

    def rows(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Place, photograph and class names of each row; UserError for the first that is wrong."""
        import pandas  # loads slowly, and only tables need it

        line = 2
        try:
            with pandas.read_csv(
                self.path, sep=self.separator, header=None, names=range(len(self.head) + 1),
                skiprows=1, index_col=False, dtype=str, keep_default_na=False,
                skip_blank_lines=False, on_bad_lines=self._joined, engine="python",
                encoding=self.encoding, chunksize=_ROWS,
            ) as frames:  # fmt: skip
                rows = (frame.itertuples(index=False, name=None) for frame in frames)
                for row in itertools.chain.from_iterable(rows):
                    cells = [cell for cell in row if isinstance(cell, str)]
                    if any(cell.strip() for cell in cells):
                        where = f"{self.path}, line {line}: {reason(self.separator.join(cells))!r}"
                        yield where, *self._read(where, cells)
                    line += 1 + sum(len(re.findall("\r\n|\r|\n", cell)) for cell in cells)
        except pandas.errors.EmptyDataError:  # it is the head alone
            return
        except (pandas.errors.ParserError, csv.Error):
            line = 0
        if line != self.lines + 1:  # pandas passes over what it cannot read
            cell = f"a cell longer than {csv.field_size_limit()} characters"
            wrong = f"has a quotation mark without its other one, or {cell}"
            raise UserError(f"{self.path}: {wrong}. {self.form}")

    def _read(self, where: str, cells: list[str]) -> tuple[str, tuple[str, ...]]:
        number, width = len(cells), len(self.head)
        try:
            if number > width:
                raise ValueError(f"has cells beyond the {width} of the head")
            if number < width:
                raise ValueError(f"has {number} of the {width} cells of the head")
            if not cells[self.image].strip():
                raise ValueError("names no photograph")
            return cells[self.image], self._classes_in(cells)
        except ValueError as error:
            raise UserError(f"{where}: {error}. {self.form}") from None

    def _joined(self, cells: list[str]) -> list[str]:
        return [*cells[: len(self.head)], self.separator.join(cells[len(self.head) :])]

    def _classes_in(self, cells: list[str]) -> tuple[str, ...]:
        if self.label is None:
            values = {name: cells[n].strip().lower() for n, name in enumerate(self.head)}
            del values[self.head[self.image]]
            for name, value in values.items():
                if value not in _VALUES:
                    raise ValueError(f"{reason(value)!r} in the column {shown(name)} is not 0 or 1")
            return tuple(name for name, value in values.items() if _VALUES[value])
        parts = (part.strip() for part in re.split("[;|]", cells[self.label]))
        names = tuple(dict.fromkeys(part for part in parts if part))
        for name in names:
            if wrong := name_problem(name):
                raise ValueError(wrong)
            if _SEPARATORS.search(name):
                raise ValueError(f"has {shown(name)}, which would be one class with a comma")
        return names


def _looked_at(path: Path) -> tuple[str, int, list[str]]:
    try:
        require_regular(path)
        with open(path, "rb") as file:
            encoding = encoding_of(file.read(4))
        with open(path, encoding=encoding) as file:
            first, number = [], 0
            while line := file.readline(_LONGEST_LINE):
                if len(line) >= _LONGEST_LINE or "\0" in line:
                    raise ValueError("is not a text, or has a line of over 8 million characters")
                first, number = [*first, line][:2], number + 1
        return encoding, number, [*first, "", ""][:2]
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text in UTF-8; save the table as CSV UTF-8") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); check the path") from None


def read_table(path: Path, tree: Tree) -> Found:
    """Labels from a CSV file with commas, semicolons or tabs; UserError where it is not of FORM."""
    table = Table(path)
    found = Found(tree, str(path), "row")
    found.where = dict.fromkeys(table.classes, f"{path}, line 1")
    found.form = table.form if table.label is not None else ""
    for where, image, names in table.rows():
        for name in names:
            found.where.setdefault(name, where)
        found.add(where, image, names)
    if not found.names and not found.problems:
        found.wrong(f"{path}: has no row below its head; add them. {table.form}")
    if found.form and found.where and {name.lower() for name in found.where} <= _VALUES.keys():
        found.wrong(f"{path}: its column {shown(table.head[table.label])} has 0 and 1 in place of "
                    "names; call the column as the class, or write names")  # fmt: skip
    found.classes = table.classes or tuple(sorted(found.where))
    return found
