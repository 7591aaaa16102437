"""What made the files of an output folder, so that results of different settings never mix."""

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
from misc.storage.files import read_bytes, reason
from misc.storage.outputs import (
    MANIFEST as NAME,
)
from misc.storage.outputs import (
    Output,
    State,
    is_not_ours,
    is_own,
    manifest_content,
    not_ours_line,
    noted_files,
    output_state,
    remove_output,
    with_noted_files,
    write_json,
)

log = logging.getLogger(__name__)

_MAX_BYTES = 256 << 20
IMAGES = "images"  # in a manifest: what the files of each image depend on, by image id
DRAWN = "drawn from"  # in a manifest: images that others are made with, of which more may come


class Sources(NamedTuple):
    """What the files of a folder are made from, image by image.

    images: by image id, a text that changes where what the image's files depend on does. drawn:
    images that those of all others are made with. path_of: the file of an image, where it is not
    called as the image.
    """

    images: Mapping[str, str] = MappingProxyType({})
    drawn: tuple[str, ...] = ()
    path_of: Callable[[str], Path] | None = None


NO_SOURCES = Sources()


def settings_of(options: dict, inputs: dict | None) -> dict:
    """What a manifest records: step, its version and options, digests of the inputs."""
    return {**options, "inputs": inputs}


def prepare_folder(
    folder: Output,
    options: dict,
    inputs: dict,
    overwrite: bool,
    sources: Sources = NO_SOURCES,
) -> None:
    """Create a folder for what is made with these options from these inputs, or continue it.

    A folder whose manifest says the same is continued: the files of images whose key changed are
    removed, so that they are made again. With other settings it is a UserError that says what
    differs; `overwrite` removes the files with a seal of this program instead, and no others.
    Files without a manifest, and those of another step, are always a UserError.
    Of several ranks the first one calls it.
    """
    settings = settings_of(options, inputs)
    noted = read_manifest(folder.path) or {}
    gone = _gone(folder, noted.get(DRAWN) or (), sources.drawn, overwrite)
    redone = _difference(folder, settings, overwrite) or gone
    make_writable(folder.path, folder.flag)
    known = {} if redone else noted.get(IMAGES) or {}
    if redone:
        # The manifest last: if this is cut short, what is left still belongs to the old one.
        files = (path for path in folder.path.iterdir() if path.name != NAME)
        own = [path for path in files if is_own(path)]
        for path in own:
            path.unlink()
        log.info("%s %s: %s removed, made with other settings", folder.flag, folder.path,
                 counted({"file": len(own)}))  # fmt: skip
    else:
        _remove_changed(folder, known, sources)
    if sources.images:
        settings[IMAGES] = {**known, **sources.images}
    if sources.drawn:
        settings[DRAWN] = list(sources.drawn)
    write_manifest(folder.path, settings)


def _remove_changed(folder: Output, known: dict[str, str], sources: Sources) -> None:
    """Remove the files of images that are others than when they were made."""
    changed = [i for i, key in sources.images.items() if known.get(i, key) != key]
    path_of = sources.path_of or (lambda image_id: folder.path / f"{image_id}{folder.suffix}")
    for path in map(path_of, changed):
        remove_output(path)
    if changed:
        images = counted({"image": len(changed)})
        log.warning("%s %s: %s made again, whose photograph, labels or maps changed: %s",
                    folder.flag, folder.path, images, some(changed))  # fmt: skip


def _gone(folder: Output, noted: Iterable[str], drawn: Iterable[str], overwrite: bool) -> list[str]:
    """Images that others were made with and that are gone; UserError where that stays so."""
    now = set(drawn)
    gone = [image_id for image_id in noted if image_id not in now]
    if gone and not overwrite:
        raise UserError(
            f"{folder.flag} {folder.path}: was made with {counted({'image': len(gone)})} of the "
            f"train list that are not in it now ({some(gone)}); give --overwrite to redo it, or "
            f"another {folder.flag}"
        )
    return gone


def check_folder(folder: Output, options: dict, overwrite: bool = False) -> bool:
    """Raise UserError where `prepare_folder` would for these options; inputs may still be made.

    Returns whether it would remove what is there, to have it made again.
    """
    noted = read_manifest(folder.path)
    inputs = noted.get("inputs") if noted else None
    return bool(_difference(folder, settings_of(options, inputs), overwrite))


def make_writable(folder: Path, flag: str) -> None:
    """Create a folder and try it; UserError naming the flag where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{flag} {folder}: cannot be written ({error.strerror}); give another folder"
        ) from None


def require_writable(folder: Path, flag: str) -> None:
    """Raise UserError where `make_writable` would, by the permissions: nothing is written."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {folder}: cannot be written; give another folder")


def write_manifest(folder: Path, settings: dict) -> None:
    """Note in a folder what its files were made with."""
    content = json.loads(json.dumps(with_noted_files(settings, noted_files(folder))))
    before = manifest_content(folder)
    before.pop(JSON_KEY, None)
    if content != before:
        write_json(folder / NAME, content)


def read_manifest(folder: Path) -> dict | None:
    """Settings that a folder's files were made with; None where nothing is noted."""
    try:
        content = read_bytes(folder / NAME, _MAX_BYTES)
        noted = json.loads(content.decode("utf-8"))
        if checksum_of(content) is Checksum.BROKEN:
            raise ValueError(Checksum.BROKEN.value)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        raise UserError(
            f"{folder / NAME}: is damaged, so nothing says what made the files beside it; remove "
            f"the folder {folder} to have them made again"
        ) from None
    settings = _plain(noted)
    settings.pop(JSON_KEY, None)
    return settings if settings or not noted_files(folder) else None


def folder_hash(folder: Path) -> str:
    """Stands for what made a folder's files, in the manifests of what is made from them."""
    noted = read_manifest(folder)
    if noted is None:
        return f"no manifest: {folder}"
    noted = _without_images(noted)  # one image more is no other folder
    return hashlib.sha256(json.dumps(noted, sort_keys=True).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def state_hash(paths: Iterable[Path]) -> str:
    """Changes where a file, or one below a folder, does: by its name, size and time."""
    digest = hashlib.sha256()
    for path in paths:
        for folder, _, names in os.walk(path):
            for file in (Path(folder, name) for name in sorted(names)):
                _add_size_and_time(digest, file)
        if path.is_file():
            _add_size_and_time(digest, path)
    return digest.hexdigest()[:16]


def _add_size_and_time(digest: "hashlib._Hash", path: Path) -> None:
    with contextlib.suppress(OSError):  # a link to nowhere
        state = path.stat()
        text = f"{os.fspath(path)!r} {state.st_size} {state.st_mtime_ns}\n"
        digest.update(text.encode(errors="surrogateescape"))


def weights_hash(path: Path | None) -> str:
    """Stands for the weights that training starts from; None are torchvision's."""
    if name := weights_name(path):
        return name if ":" in name else f"torchvision {name} IMAGENET1K_V1"
    return file_hash(path) if path else "torchvision IMAGENET1K_V1"


def weights_name(path: str | Path | None) -> str:
    """The name of published weights that is there in place of a file, "" where there is a file.

    A single word such as "resnet18", or one behind the name of a library, "timm:resnet18.a1_in1k".
    """
    text = "" if path is None else str(path)
    return text if re.fullmatch(r"\w+|timm:.+", text) and not Path(text).exists() else ""


def ids_hash(image_ids: tuple[str, ...]) -> str:
    """First 16 hex digits of the SHA-256 of a list of images."""
    return hashlib.sha256("\n".join(image_ids).encode()).hexdigest()[:16]


def settings_difference(
    noted: dict, settings: dict, places: tuple[str, str] = ("there", "now")
) -> str:
    """Names and both values of what differs, e.g. "RIB_iter is 5 there and 10 now".

    places: what the two are called.
    """
    # Through JSON and back, so that a tuple equals the list that it was noted as.
    noted, now = _plain(noted), json.loads(json.dumps(settings))
    images = images_difference(noted.pop(IMAGES, {}), now.pop(IMAGES, {}), places)
    noted, now = ({**s, **(s.get("inputs") or {}), "inputs": None} for s in (noted, now))
    names = [name for name in sorted({*noted, *now}) if noted.get(name) != now.get(name)]
    return ", ".join([*images, *(
        f"{reason(name)} is {reason(noted.get(name))} {places[0]} and {now.get(name)} {places[1]}"
        for name in names
    )])  # fmt: skip


def images_difference(
    noted: Mapping[str, str], now: Mapping[str, str], places: tuple[str, str] = ("there", "now")
) -> list[str]:
    """What differs between two sets of images with their keys, with the names of the first."""
    changed = [i for i in noted.keys() & now.keys() if noted[i] != now[i]]
    parts = {
        f"only {places[1]}": [i for i in now if i not in noted],
        f"only {places[0]}": [i for i in noted if i not in now],
        "with another photograph": [i for i in changed if _first(noted[i]) != _first(now[i])],
        "with other labels": [i for i in changed if _first(noted[i]) == _first(now[i])],
    }
    lines = [f"{counted({'image': len(ids)})} {what} ({some(sorted(ids))})"
             for what, ids in parts.items() if ids]  # fmt: skip
    in_order = lines or list(noted) == list(now)
    return lines if in_order else ["the images are in another order"]


def _first(key: str) -> str:
    return key.partition(" ")[0]


def _without_images(noted: dict) -> dict:
    return {name: value for name, value in noted.items() if name not in (IMAGES, DRAWN)}


def _plain(noted: object) -> dict:
    """What a file notes, without what `settings_of` never gives: the file may be anybody's."""
    noted = noted if isinstance(noted, dict) else {}
    inputs = noted.get("inputs")
    settings = {name: value for name, value in noted.items() if _is_setting(name, value)}
    images = noted.get(IMAGES)
    if isinstance(images, dict):
        settings[IMAGES] = {i: key for i, key in images.items() if isinstance(key, str)}
    if isinstance(inputs, dict):
        settings["inputs"] = {name: v for name, v in inputs.items() if _is_setting(name, v)}
    return settings


def _is_setting(name: object, value: object) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    plain = all(v is None or isinstance(v, (bool, int, float, str)) for v in values)
    return isinstance(name, str) and plain and (name != "inputs" or value is None)


def _difference(folder: Output, settings: dict, overwrite: bool) -> str:
    """How settings differ from the noted ones; UserError where that cannot be overwritten."""
    noted, where = read_manifest(folder.path), f"{folder.flag} {folder.path}"
    if noted is None:
        files = len(list(folder.path.glob(f"*{folder.suffix}"))) if folder.path.is_dir() else 0
        if files:
            raise UserError(
                f"{where}: holds {counted({f'{folder.suffix} file': files})} and no {NAME} that "
                f"says what made them; move them away or give another {folder.flag}"
            )
        return ""
    if noted.get("step") != settings.get("step"):
        step = reason(noted.get("step", "another program"))
        raise UserError(f"{where}: holds the files of {step}; give another {folder.flag}")
    difference = settings_difference(_without_images(noted), settings)
    if difference and is_not_ours(folder.path / NAME):
        raise UserError(not_ours_line(folder.path / NAME))
    if difference and not overwrite:
        raise UserError(
            f"{where}: was made with other settings ({difference}); give --overwrite to redo it, "
            f"or another {folder.flag}"
        )
    return difference


CONTENTS = "contents.json"  # by path of a file: its size and time of change, and its hash
_MISSING = "missing"


def content_hashes(paths: Iterable[Path], folder: Path) -> list[str]:
    """First 16 hex digits of the SHA-256 of each file, "missing" where there is none.

    folder: where they are kept with size and time of change; a file for which these are the same
    is not read again.
    """
    names = [os.path.abspath(path) for path in paths]
    known = _load(folder / CONTENTS)
    states = {name: _size_and_time(name) for name in names}
    new = [n for n, state in states.items() if not state or known.get(n, ("",))[0] != state]
    with ThreadPoolExecutor() as pool:  # reading and hashing leave Python to others
        found = dict(zip(new, pool.map(_digest, new), strict=True))
    read = {name: (states[name], digest) for name, digest in found.items() if digest != _MISSING}
    if read:
        _save(folder / CONTENTS, {**known, **read})
    return [found.get(name) or known[name][1] for name in names]


def _size_and_time(name: str) -> str:
    """Size and time of change of a file; empty where there is none."""
    try:
        status = os.stat(name)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _digest(name: str) -> str:
    try:
        return file_hash(Path(name))
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
