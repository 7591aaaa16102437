"""Settings and inputs of an output folder, so that results of different settings never mix."""

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from misc.errors import UserError, counted, some
from misc.storage.checksums import JSON_KEY, Checksum, checksum_of
from misc.storage.files import reason
from misc.storage.outputs import (
    FILES,
    IMAGES,
    MANIFEST,
    Output,
    State,
    is_manifest,
    is_not_ours,
    is_own,
    manifest_content,
    not_ours_line,
    output_state,
    remove_output,
    write_json,
)

CONTENTS = "contents.json"  # by path of a file: its size and time of change, and its hash
_DRAWN = "drawn from"  # in a manifest: images that others are made with, of which more may come
log = logging.getLogger(__name__)


class Sources(NamedTuple):
    """Sources of the files of a folder, image by image."""

    images: Mapping[str, str] = MappingProxyType({})  # by id, a text that changes as they do
    drawn: tuple[str, ...] = ()  # images that those of all others are made with
    path_of: Callable[[str], Path] | None = None  # of a file that is not called as its image


def prepare_folder(
    folder: Output, options: dict, inputs: dict, overwrite: bool, sources: Sources | None = None
) -> None:
    """Create a folder for what is made so, or continue it without files of changed images.

    Raises UserError where its settings differ (with `overwrite` its own files are removed instead),
    and for files of another step or without a manifest. Of several ranks the first one calls it.
    """
    sources, settings = sources or Sources(), {**options, "inputs": inputs}
    recorded, where = read_manifest(folder.path) or {}, f"{folder.flag} {folder.path}"
    before = recorded.get(_DRAWN)
    gone = set(map(str, before if isinstance(before, list) else ())) - set(sources.drawn)
    if gone and not overwrite:
        raise UserError(
            f"{where}: was made with {counted({'image': len(gone)})} that left the train list "
            f"({some(sorted(gone))}); give --overwrite to redo it, or another {folder.flag}"
        )
    redone = _difference(folder, settings, overwrite) or gone
    make_writable(folder.path, folder.flag)
    known = {} if redone else recorded.get(IMAGES) or {}
    changed = [i for i, key in sources.images.items() if known.get(i, key) != key]
    if redone:
        # The manifest last: if this is cut short, what is left still belongs to the old one.
        files = [p for p in folder.path.iterdir() if p.name != MANIFEST and is_own(p)]
        for path in files:
            path.unlink()
        log.info("%s: %s removed, made with other settings", where, counted({"file": len(files)}))
    elif changed:
        for image_id in changed:
            named = folder.path / f"{image_id}{folder.suffix}"
            remove_output(sources.path_of(image_id) if sources.path_of else named)
        log.warning("%s: %s made again, whose photograph, labels or maps changed: %s",
                    where, counted({"image": len(changed)}), some(changed))  # fmt: skip
    images = {IMAGES: {**known, **sources.images}} if sources.images else {}
    drawn = {_DRAWN: list(sources.drawn)} if sources.drawn else {}
    write_manifest(folder.path, {**settings, **images, **drawn})


def check_folder(folder: Output, options: dict, overwrite: bool = False) -> bool:
    """Raise UserError where `prepare_folder` would for any inputs; True where it would redo."""
    inputs = (read_manifest(folder.path) or {}).get("inputs")
    return bool(_difference(folder, {**options, "inputs": inputs}, overwrite))


def _difference(folder: Output, settings: dict, overwrite: bool) -> str:
    recorded, where = read_manifest(folder.path), f"{folder.flag} {folder.path}"
    if recorded is None:
        if files := len(list(folder.path.glob(f"*{folder.suffix}"))):
            said = f"holds {counted({f'{folder.suffix} file': files})} and no {MANIFEST} of them"
            raise UserError(f"{where}: {said}; move them away or give another {folder.flag}")
        return ""
    if recorded.get("step") != settings.get("step"):
        step = reason(recorded.get("step", "another program"))
        raise UserError(f"{where}: holds the files of {step}; give another {folder.flag}")
    difference = settings_difference(_without_images(recorded), settings)
    if difference and is_not_ours(folder.path / MANIFEST):
        raise UserError(not_ours_line(folder.path / MANIFEST))
    if difference and not overwrite:
        fix = f"give --overwrite to redo it, or another {folder.flag}"
        raise UserError(f"{where}: was made with other settings ({difference}); {fix}")
    return difference


def make_writable(folder: Path, flag: str) -> None:
    """Create a folder and try it; UserError naming the flag where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        said = f"cannot be written ({error.strerror}); give another folder"
        raise UserError(f"{flag} {folder}: {said}") from None


def require_writable(folder: Path, flag: str) -> None:
    """Raise UserError where `make_writable` would, by the permissions: nothing is written."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {folder}: cannot be written; give another folder")


def write_manifest(folder: Path, settings: dict) -> None:
    """Record in a folder what its files are made with, beside the checksums that are there."""
    before = manifest_content(folder)
    files = {FILES: before[FILES]} if before.get(FILES) else {}
    content = json.loads(json.dumps({**settings, **files}))
    if content != before:
        write_json(folder / MANIFEST, content)


def read_manifest(folder: Path) -> dict | None:
    """Return the settings that a folder's files were made with; None where there are none."""
    path, content = folder / MANIFEST, manifest_content(folder)
    if not os.path.lexists(path):
        return None
    if not content or checksum_of(path.read_bytes()) is Checksum.BROKEN:
        said = "is damaged or not of this program, which would say what made the files beside it"
        raise UserError(f"{path}: {said}; move the folder {folder} away, or give another one")
    return {name: value for name, value in content.items() if name != FILES} or None


def settings_difference(recorded: object, settings: dict) -> str:
    """Return names and both values of what differs, e.g. "RIB_iter is 5 there and 10 now"."""
    # Through JSON and back, so that a tuple equals the list that it was written as.
    both = recorded if is_manifest(recorded) else {}, json.loads(json.dumps(settings))
    lines = _images_difference(*(each.get(IMAGES) or {} for each in both))
    there, now = ({**each, **(each.get("inputs") or {})} for each in both)
    names = sorted({*there, *now} - {"inputs", IMAGES})
    lines += [f"{reason(name)} is {reason(there.get(name))} there and {now.get(name)} now"
              for name in names if there.get(name) != now.get(name)]  # fmt: skip
    return ", ".join(lines)


def _images_difference(there: dict, now: dict) -> list[str]:
    changed = [i for i in there.keys() & now.keys() if there[i] != now[i]]
    same_photo = {i for i in changed if str(there[i]).split(" ")[0] == str(now[i]).split(" ")[0]}
    parts = {
        "only now": now.keys() - there.keys(),
        "only there": there.keys() - now.keys(),
        "with another photograph": set(changed) - same_photo,
        "with other labels": same_photo,
    }
    lines = [f"{counted({'image': len(ids)})} {what} ({some(sorted(ids))})"
             for what, ids in parts.items() if ids]  # fmt: skip
    moved = [] if list(there) == list(now) else ["the images are in another order"]
    return lines or moved


def _without_images(recorded: dict) -> dict:
    return {name: value for name, value in recorded.items() if name not in (IMAGES, _DRAWN)}


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def file_hash(path: str | Path) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()[:16]


def folder_hash(folder: Path) -> str:
    """Return the hash of what made a folder's files, for the manifest of what is made from them."""
    recorded = _without_images(manifest_content(folder))  # one image more is no other folder
    recorded.pop(FILES, None)
    text = json.dumps(recorded, sort_keys=True)
    return _short_hash(text.encode()) if recorded else f"no manifest: {folder}"


def state_hash(paths: Iterable[Path]) -> str:
    """Return a hash that changes where a file, or one below a folder, does: name, size and time."""
    text = []
    for path in paths:
        below = [Path(at, name) for at, _, names in os.walk(path) for name in sorted(names)]
        text += [f"{os.fspath(p)!r} {s}\n" for p in (*below, path) if (s := _size_and_time(p))]
    return _short_hash("".join(text).encode(errors="surrogateescape"))


def ids_hash(image_ids: tuple[str, ...]) -> str:
    return _short_hash("\n".join(image_ids).encode())


def weights_hash(path: Path | None) -> str:
    """Return the hash or the name of the weights that training starts from; None: torchvision's."""
    if name := weights_name(path):
        return name if ":" in name else f"torchvision {name} IMAGENET1K_V1"
    return file_hash(path) if path else "torchvision IMAGENET1K_V1"


def weights_name(path: str | Path | None) -> str:
    """Return a published name, as "resnet18" or "timm:resnet18.a1_in1k"; "" for a file."""
    text = "" if path is None else str(path)
    return text if re.fullmatch(r"\w+|timm:.+", text) and not Path(text).exists() else ""


def content_hashes(paths: Iterable[Path], folder: Path) -> list[str]:
    """Return the hash of each file or "missing"; those in `folder` of unchanged files are known."""
    names, kept = [os.path.abspath(path) for path in paths], folder / CONTENTS
    known = json.loads(kept.read_bytes()) if output_state(kept) is State.WHOLE else {}
    known.pop(JSON_KEY, None)
    states = {name: _size_and_time(name) for name in names}
    new = [n for n, state in states.items() if state and known.get(n, [""])[0] != state]
    with ThreadPoolExecutor() as pool:  # reading and hashing leave Python to others
        read = {n: [states[n], one] for n, one in zip(new, pool.map(file_hash, new), strict=True)}
    if read:
        folder.mkdir(parents=True, exist_ok=True)
        known.update(read)
        write_json(kept, known)
    return [known[name][1] if states[name] else "missing" for name in names]


def _size_and_time(path: str | Path) -> str:
    with contextlib.suppress(OSError):
        status = os.stat(path)
        if os.path.isfile(path) and os.access(path, os.R_OK):
            return f"{status.st_size} {status.st_mtime_ns}"
    return ""
