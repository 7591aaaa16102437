"""Hashes of the contents of files, of which only those that changed are read again."""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from misc.storage.outputs import State, output_state, write_json
from misc.storage.seals import JSON_KEY

NAME = "contents.json"  # by path of a file: its size and time of change, and its hash
_BLOCK = 1 << 20
_MISSING = "missing"


def content_digests(paths: Iterable[Path], folder: Path) -> list[str]:
    """First 16 hex digits of the SHA-256 of each file, "missing" where there is none.

    folder: where they are kept with size and time of change; a file for which these are the same
    is not read again.
    """
    names = [os.path.abspath(path) for path in paths]
    known = _load(folder / NAME)
    with ThreadPoolExecutor() as pool:  # reading and hashing leave Python to others
        found = dict(zip(names, pool.map(lambda name: _digest(name, known), names), strict=True))
    there = {name: entry for name, entry in found.items() if entry[1] != _MISSING}
    if any(known.get(name) != entry for name, entry in there.items()):
        _save(folder / NAME, {**known, **there})
    return [found[name][1] for name in names]


def _digest(name: str, known: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """State and hash of a file."""
    try:
        status = os.stat(name)
        state = f"{status.st_size} {status.st_mtime_ns}"
        if known.get(name, ("", ""))[0] == state:
            return known[name]
        digest = hashlib.sha256()
        with open(name, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return state, digest.hexdigest()[:16]
    except OSError:
        return "", _MISSING


def _load(path: Path) -> dict[str, tuple[str, str]]:
    """What is kept; nothing where the file is damaged or is not there."""
    if output_state(path) is not State.WHOLE:
        return {}
    content = json.loads(path.read_bytes())
    return {name: tuple(entry) for name, entry in content.items() if name != JSON_KEY}


def _save(path: Path, known: dict[str, tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, known)
