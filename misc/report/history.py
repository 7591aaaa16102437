"""The runs of a result folder, from its log."""

import contextlib
import json
import re
from pathlib import Path

_MOST = 8 << 20  # bytes of a log that are looked at, from its end
_MOST_RUNS = 50
_LINE = re.compile(r"(\d\d):(\d\d):(\d\d) (.*)")
_STEP = re.compile(r"(?:\[\d+/\d+\] (\w+): |making the (\w+)$)")
_PARTS = {"all options: ": "all_options", "options: ": "options", "machine: ": "machine"}


def runs_of(path: Path) -> list[dict]:
    """The runs of a log, oldest first: `at`, options, `machine`, and `steps` with their seconds."""
    runs: list[dict] = []
    clock = begun = 0
    for *time, text in (found.groups() for found in map(_LINE.fullmatch, _lines(path)) if found):
        hours, minutes, seconds = map(int, time)
        # The log has no dates: lines are less than a day apart.
        clock += (hours * 3600 + minutes * 60 + seconds - clock) % (24 * 3600)
        if text.startswith("all options: "):
            runs.append({"at": ":".join(time), "options": {}, "machine": {}, "steps": []})
        if not runs:
            continue
        for start, name in _PARTS.items():
            if text.startswith(start):
                runs[-1][name] = _parsed(text.removeprefix(start))
        if steps := runs[-1]["steps"]:
            steps[-1][1] = clock - begun
        if step := _STEP.match(text):
            steps.append([step[1] or step[2], 0])
            begun = clock
    return [run for run in runs if run["steps"]][-_MOST_RUNS:]


def _parsed(text: str) -> dict:
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(text)
        return content if isinstance(content, dict) else {}
    return {}


def _lines(path: Path) -> list[str]:
    if not path.is_file():  # of a pipe nothing could be read, and it would be waited for
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _MOST))
        return file.read().decode("utf-8", errors="replace").splitlines()
