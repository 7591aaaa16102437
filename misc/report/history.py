"""What ran, from the log of a result folder."""

import json
import re
from pathlib import Path

_MOST = 8 << 20  # bytes of a log that are looked at, from its end
_MOST_RUNS = 50
_LINE = re.compile(r"(\d\d):(\d\d):(\d\d) (.*)")
_STEP = re.compile(r"\[(\d+)/(\d+)\] (\w+): ")
_DAY = 24 * 3600
STARTS, CHANGED, MACHINE = "all options: ", "options: ", "machine: "
_PICTURES = "drawing pictures"  # follows the last step, whose time has ended then


def runs_of(path: Path) -> list[dict]:
    """The runs that a log tells of, oldest first.

    Each has `options` (those that differ from their defaults), `all_options`, `machine` (versions
    and device, of newer logs), and `steps`: [name, seconds, what it said at its end].
    """
    runs: list[dict] = []
    clock = begun = 0.0
    ended = False
    for line in _lines(path):
        found = _LINE.fullmatch(line)
        if not found:
            continue
        *time, text = found.groups()
        hours, minutes, seconds = map(int, time)
        # The log has no dates: lines are less than a day apart.
        clock += (hours * 3600 + minutes * 60 + seconds - clock) % _DAY
        if text.startswith(STARTS):
            runs.append({"at": ":".join(time), "options": {}, "machine": {}, "steps": []})
            runs[-1]["all_options"] = _parsed(text.removeprefix(STARTS))
        elif runs:
            _add_line(runs[-1], text)
            if _STEP.match(text):
                begun = clock
                ended = False
            elif runs[-1]["steps"] and not ended:
                ended = text == _PICTURES
                runs[-1]["steps"][-1][1] = clock - begun
    return [run for run in runs if run["steps"]][-_MOST_RUNS:]


def _add_line(run: dict, text: str) -> None:
    if text.startswith(CHANGED):
        run["options"] = _parsed(text.removeprefix(CHANGED))
    elif text.startswith(MACHINE):
        run["machine"] = _parsed(text.removeprefix(MACHINE))
    elif step := _STEP.match(text):
        run["steps"].append([step[3], 0.0, ""])
    elif run["steps"] and text.startswith(f"{run['steps'][-1][0]}") and " in " in text:
        run["steps"][-1][2] = text.partition(": ")[2]


def _parsed(text: str) -> dict:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _lines(path: Path) -> list[str]:
    if not path.is_file():  # of a pipe nothing could be read, and it would be waited for
        return []
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _MOST))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
