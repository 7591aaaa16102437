"""Errors that a person at the keyboard can mend, and how several of them become one."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_SHOWN = 20  # problems of one kind that are written out


class UserError(Exception):
    """Bad input (exit code 2): a line for each problem, of which `problems` has all."""

    def __init__(self, message: str = "", problems: "Problems | None" = None) -> None:
        super().__init__(message)
        self.problems = problems


class SaidElsewhereError(UserError):
    """A UserError of the first rank, raised on the others too; the first one prints it."""


class NotReproducedError(Exception):
    """A run that is complete is not like the one that it is compared with (exit code 1)."""


class StoppedError(Exception):
    """The run cannot go on for a reason outside of it; finished results stay (exit code 1)."""


class Problems:
    """Mistakes in the input, by kind ("image", "map in FOLDER"); no message twice."""

    def __init__(self) -> None:
        self.by_kind: dict[str, dict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self.by_kind)

    def add(self, kind: str, messages: Iterable[str]) -> None:
        """Keep the messages that are not known yet."""
        for message in messages:
            if not any(message in known for known in self.by_kind.values()):
                self.by_kind.setdefault(kind, {})[message] = None

    def add_error(self, kind: str, error: UserError) -> None:
        """Keep what an error says; one of several problems knows their kinds itself."""
        found = error.problems.by_kind if error.problems else {kind: [str(error)]}
        for own_kind, messages in found.items():
            self.add(own_kind, messages)

    def raise_all(self) -> None:
        """Raise one UserError if there is any problem: a line for each, and at last how many."""
        lines = []
        for kind, messages in self.by_kind.items():
            lines += list(messages)[:_SHOWN]
            if len(messages) > _SHOWN:
                lines.append(f"... and {len(messages) - _SHOWN} more of this kind ({kind})")
        counts = {kind: len(messages) for kind, messages in self.by_kind.items()}
        if sum(counts.values()) > 1:
            lines.append(f"{sum(counts.values())} problems: {counted(counts)}")
        if lines:
            raise UserError("\n".join(lines), self)


def raise_problems(kind: str, messages: Iterable[str]) -> None:
    """Raise one UserError for problems of one kind, if there are any."""
    problems = Problems()
    problems.add(kind, messages)
    problems.raise_all()


def counted(counts: Mapping[str, int]) -> str:
    """Numbers of things in words: {"image": 2, "map in DIR": 1} -> "2 images, 1 map in DIR"."""
    return ", ".join(f"{n} {thing if n == 1 else _plural(thing)}" for thing, n in counts.items())


def _plural(thing: str) -> str:
    parts = re.fullmatch(r"(.*?)(?:( in | of | without an? )(.*))?", thing, re.DOTALL)
    noun, word, rest = parts.groups()
    if word and "without" in word:
        word, rest = " without ", _plural(rest)
    noun = re.sub(r"([^aeiou])y$", r"\1ie", noun)
    end = "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{noun}{end}{word or ''}{rest or ''}"


def some(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, for a message: "a, b, c, ..."."""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Put a file in front of the message of a UserError that does not know it."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{path}: {error}") from None
