"""The one exception for mistakes that the person at the keyboard can mend."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_SHOWN = 20  # problems of one kind that are written out


class UserError(Exception):
    """Bad input: a line for each problem that names the file or flag, what is wrong, what to do.

    `run_sample.py` prints the lines and leaves with exit code 2.
    """

    by_kind: Mapping[str, Iterable[str]] | None = None  # all problems, where there may be several
    untold: Mapping[str, int] | None = None  # how many more there are of each kind


class SaidElsewhereError(UserError):
    """A UserError of the first rank, raised on the others too; the first one prints it."""


class NotReproducedError(Exception):
    """A run that is complete is not like the one that it is compared with (exit code 1)."""


class Problems:
    """What is wrong with the input, by kind ("image", "map in FOLDER"); no message twice."""

    def __init__(self) -> None:
        self._by_kind: dict[str, dict[str, None]] = {}
        self._untold: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._by_kind)

    def add(self, kind: str, messages: Iterable[str], untold: int = 0) -> None:
        """Keep the messages that are not known yet. untold: further problems without a message."""
        self._untold[kind] += untold
        for message in messages:
            if not any(message in known for known in self._by_kind.values()):
                self._by_kind.setdefault(kind, {})[message] = None

    def add_error(self, kind: str, error: UserError) -> None:
        """Keep what an error says; one that tells of several problems knows their kinds itself."""
        for own_kind, messages in (error.by_kind or {kind: [str(error)]}).items():
            self.add(own_kind, messages, (error.untold or {}).get(own_kind, 0))

    def raise_all(self) -> None:
        """Raise one UserError if there is any problem: a line for each, and at last how many."""
        if self._by_kind:
            error = UserError("\n".join(self._lines()))
            error.by_kind, error.untold = self._by_kind, self._untold
            raise error

    def _lines(self) -> Iterator[str]:
        counts = {kind: len(m) + self._untold[kind] for kind, m in self._by_kind.items()}
        for kind, messages in self._by_kind.items():
            shown = list(messages)[:_SHOWN]
            yield from shown
            if counts[kind] > len(shown):
                yield f"... and {counts[kind] - len(shown)} more of this kind ({kind})"
        total = sum(counts.values())
        if total > 1:
            yield f"{total} problems: {counted(counts)}"


def raise_problems(kind: str, messages: Iterable[str]) -> None:
    """Raise one UserError for problems of one kind, if there are any."""
    problems = Problems()
    problems.add(kind, messages)
    problems.raise_all()


def counted(counts: Mapping[str, int]) -> str:
    """Numbers of things in words: {"image": 2, "map in DIR": 1} -> "2 images, 1 map in DIR"."""
    return ", ".join(f"{n} {thing if n == 1 else _plural(thing)}" for thing, n in counts.items())


def _plural(thing: str) -> str:
    """The plural of a noun with what follows it: "class in A", "image without a label"."""
    parts = re.fullmatch(r"(.*?)(?:( in | of | without an? )(.*))?", thing, re.DOTALL)
    noun, word, rest = parts.groups()
    if word and "without" in word:
        word, rest = " without ", _plural(rest)
    if re.search(r"[^aeiou]y$", noun):
        noun = f"{noun[:-1]}ie"
    end = "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{noun}{end}{word or ''}{rest or ''}"


def some(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, for a message: "a, b, c, ..."."""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Puts a file in front of the message of a UserError that does not know it."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{path}: {error}") from None


class StoppedError(Exception):
    """The run cannot go on for a reason outside of it, but what is finished stays: run it again.

    `run_sample.py` prints the message and leaves with exit code 1.
    """
