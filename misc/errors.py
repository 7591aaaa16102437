"""The one exception for mistakes that the person at the keyboard can mend."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Bad input: a single line that names the file or flag, what is wrong and what to do.

    `run_sample.py` prints the message and leaves with exit code 2.
    """


def raise_first(problems: Sequence[str]) -> None:
    """Raise UserError with the first of several problems of one kind, and how many follow."""
    if problems:
        more = f" (and {len(problems) - 1} more like this)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Puts a file in front of the message of a UserError that does not know it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
