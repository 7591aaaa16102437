"""Progress of long work: a bar on a terminal, now and then a line where the output is kept."""

import logging
import sys

from tqdm import tqdm

_SECONDS = 60.0  # between two lines

log = logging.getLogger(__name__)


class _Lines:
    """Takes what tqdm would write on a terminal and logs it."""

    def write(self, text: str) -> None:
        if line := text.strip():
            log.info("%s", line)

    def flush(self) -> None:
        """There is nothing to flush."""


def progress(total: int, what: str, unit: str, done: int = 0, hidden: bool = False) -> tqdm:
    """Shows how much of `total` units is done, from `done` on; a context with `update`.

    Where the error output goes to a file, its lines would all be one: there the log gets a line a
    minute instead, and none for work that takes less.
    """
    options = {"total": total, "desc": what, "unit": unit, "initial": done, "disable": hidden}
    if sys.stderr.isatty():
        return tqdm(**options, delay=1, smoothing=0.1)
    slow = {"mininterval": _SECONDS, "maxinterval": _SECONDS, "delay": _SECONDS, "miniters": 1}
    return tqdm(**options, **slow, file=_Lines(), leave=False, ncols=100, ascii=True)
