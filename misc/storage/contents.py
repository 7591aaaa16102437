"""Hashes of the contents of files, of which only those that changed are read again."""

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from misc.storage.manifest import file_digest
from misc.storage.outputs import State, output_state, write_json
from misc.storage.seals import JSON_KEY

NAME = "contents.json"  # by path of a file: its size and time of change, and its hash
_MISSING = "missing"


def content_digests(paths: Iterable[Path], folder: Path) -> list[str]:
    """First 16 hex digits of the SHA-256 of each file, "missing" where there is none.

    folder: where they are kept with size and time of change; a file for which these are the same
    is not read again.
    """
    names = [os.path.abspath(path) for path in paths]
    known = _load(folder / NAME)
    states = {name: _state(name) for name in names}
    new = [n for n, state in states.items() if not state or known.get(n, ("",))[0] != state]
    with ThreadPoolExecutor() as pool:  # reading and hashing leave Python to others
        found = dict(zip(new, pool.map(_digest, new), strict=True))
    read = {name: (states[name], digest) for name, digest in found.items() if digest != _MISSING}
    if read:
        _save(folder / NAME, {**known, **read})
    return [found.get(name) or known[name][1] for name in names]


def _state(name: str) -> str:
    """Size and time of change of a file; empty where there is none."""
    try:
        status = os.stat(name)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _digest(name: str) -> str:
    try:
        return file_digest(Path(name))
    except OSError:
        return _MISSING


def _load(path: Path) -> dict[str, tuple[str, str]]:
    """What is kept; nothing where the file is damaged or is not there."""
    if output_state(path) is not State.WHOLE:
        return {}
    content = json.loads(path.read_bytes())
    return {name: tuple(entry) for name, entry in content.items() if name != JSON_KEY}


def _save(path: Path, known: dict[str, tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, known)
