"""The one exception for mistakes that the person at the keyboard can mend."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_SHOWN = 20  # problems of one kind that are written out


class UserError(Exception):
    """Bad input: a line for each problem that names the file or flag, what is wrong, what to do.

    `run_sample.py` prints the lines and leaves with exit code 2.
    """

    by_kind: Mapping[str, Iterable[str]] | None = None  # all problems, where there may be several


class NotReproducedError(Exception):
    """A run that is complete is not like the one that it is compared with (exit code 1)."""


class Problems:
    """What is wrong with the input, by kind ("image", "map in FOLDER"); no message twice."""

    def __init__(self) -> None:
        self._by_kind: dict[str, dict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_kind)

    def add(self, kind: str, messages: Iterable[str]) -> None:
        """Keep the messages that are not known yet."""
        for message in messages:
            if not any(message in known for known in self._by_kind.values()):
                self._by_kind.setdefault(kind, {})[message] = None

    def add_error(self, kind: str, error: UserError) -> None:
        """Keep what an error says; one that tells of several problems knows their kinds itself."""
        for own_kind, messages in (error.by_kind or {kind: [str(error)]}).items():
            self.add(own_kind, messages)

    def raise_all(self) -> None:
        """Raise one UserError if there is any problem: a line for each, and at last how many."""
        if self._by_kind:
            error = UserError("\n".join(self._lines()))
            error.by_kind = self._by_kind
            raise error

    def _lines(self) -> Iterator[str]:
        counts = {kind: len(messages) for kind, messages in self._by_kind.items()}
        for kind, messages in self._by_kind.items():
            yield from list(messages)[:_SHOWN]
            if counts[kind] > _SHOWN:
                yield f"... and {counts[kind] - _SHOWN} more of this kind ({kind})"
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
    words = []
    for kind, count in counts.items():
        noun, between, where = kind.partition(" in ")
        words.append(f"{count} {noun}{'s' * (count != 1)}{between}{where}")
    return ", ".join(words)


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Puts a file in front of the message of a UserError that does not know it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class StoppedError(Exception):
    """The run cannot go on for a reason outside of it, but what is finished stays: run it again.

    `run_sample.py` prints the message and leaves with exit code 1.
    """
