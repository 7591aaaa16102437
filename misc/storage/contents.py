"""Hashes of the contents of files, of which only those that changed are read again."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from misc.storage.files import atomic_path
from misc.storage.seals import Seal, require_own, seal_of, sealed

NAME = "contents.tsv"  # size, time of change, hash and path of a file, one a line
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
    known = {}
    with contextlib.suppress(OSError, ValueError):
        content = path.read_bytes()
        if seal_of(content) is Seal.WHOLE:
            for line in content.decode("ascii").splitlines()[1:]:
                size, time, digest, name = line.split(" ", 3)
                known[json.loads(name)] = (f"{size} {time}", digest)
    return known


def _save(path: Path, known: dict[str, tuple[str, str]]) -> None:
    require_own(path, "move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{state} {digest} {json.dumps(name)}\n" for name, (state, digest) in known.items())
    with atomic_path(path) as temporary:
        temporary.write_bytes(sealed("".join(lines).encode("ascii"), ".txt"))
