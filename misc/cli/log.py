"""The log of a run: on the screen and in a file."""

import contextlib
import io
import json
import logging
import sys
from pathlib import Path
from typing import TextIO

from misc.cli.options import Options
from misc.errors import UserError
from misc.runtime.devices import machine
from misc.storage.manifest import make_writable

log = logging.getLogger("run_sample")

SCREEN = logging.INFO  # the file has more
LOG_MARK = "RIB run log"  # the first line of a log


class _LogFile(logging.FileHandler):
    """Ends the run where it cannot be written, instead of a traceback for every line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        with contextlib.suppress(OSError):  # it would try to write the rest again
            self.close()
        raise


def start_log(args: Options, first_rank: bool) -> None:
    """Log to the screen and, with all options, to a file; other ranks show warnings only."""
    if not first_rank:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
        return
    make_writable(args.log_name.parent, "--result_dir")
    require_log(args.log_name)
    try:
        file = _LogFile(args.log_name, encoding="utf-8", errors="backslashreplace")
        handlers = [logging.StreamHandler(_screen()), file]
    except OSError as error:
        why = f"cannot be written ({error.strerror}); give another --result_dir"
        raise UserError(f"{args.log_name}: {why}") from None
    shown = {"format": "%(asctime)s %(message)s", "datefmt": "%H:%M:%S"}
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True, **shown)
    handlers[0].setLevel(SCREEN)
    for name in ("run_sample", "misc", "step"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its fonts
    if file.stream.tell() == 0:
        file.stream.write(f"{LOG_MARK}\n")
    log.debug("all options: %s", json.dumps(args.plain(), default=str))
    log.debug("machine: %s", json.dumps(machine()))
    log.info("options: %s", json.dumps(args.changed(), default=str))


def log_to_screen() -> None:
    """Show messages alone, on the screen alone."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=_screen(), force=True)


def _screen() -> TextIO:
    """The screen, where characters that it cannot show do not end the run."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return sys.stdout


def require_log(path: Path) -> None:
    """Raise UserError where a file is not a log of this program."""
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(len(LOG_MARK)) in (b"", LOG_MARK.encode()):
                return
    if path.exists():
        advice = "move it away, or give another --result_dir"
        raise UserError(f"{path}: is not a log of this program; {advice}")
