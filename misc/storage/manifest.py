"""What made the files of an output folder, so that results of different settings never mix."""

import hashlib
import json
import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from misc.errors import UserError, counted
from misc.storage.outputs import (
    MANIFEST as NAME,
)
from misc.storage.outputs import (
    foreign_line,
    is_foreign,
    is_own,
    manifest_content,
    noted_files,
    with_noted_files,
    write_json,
)
from misc.storage.seals import JSON_KEY, Seal, seal_of
from misc.storage.untrusted import read_bytes, reason

log = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class OutputFolder:
    """A folder that one step writes, and the option that names it."""

    flag: str
    path: Path
    suffix: str  # of the files in it


def settings_of(options: dict, inputs: dict | None) -> dict:
    """What a manifest records: step, its version and options, digests of the inputs."""
    return {**options, "inputs": inputs}


def claim_folder(folder: OutputFolder, options: dict, inputs: dict, overwrite: bool) -> None:
    """Create a folder for what is made with these options from these inputs, or continue it.

    A folder whose manifest says the same is continued. With other settings it is a UserError that
    says what differs; `overwrite` removes the files with a seal of this program instead, and no
    others. Files without a manifest, and those of another step, are always a UserError.
    Of several ranks the first one calls it.
    """
    settings = settings_of(options, inputs)
    redone = _difference(folder, settings, overwrite)
    make_writable(folder.path, folder.flag)
    if redone:
        # The manifest last: if this is cut short, what is left still belongs to the old one.
        files = (path for path in folder.path.iterdir() if path.name != NAME)
        own = [path for path in files if is_own(path)]
        for path in own:
            path.unlink()
        log.info("%s %s: %s removed, made with other settings", folder.flag, folder.path,
                 counted({"file": len(own)}))  # fmt: skip
    write_manifest(folder.path, settings)


def check_folder(folder: OutputFolder, options: dict, overwrite: bool = False) -> bool:
    """Raise UserError where `claim_folder` would for these options; inputs may still be made.

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
        if seal_of(content) is Seal.BROKEN:
            raise ValueError(Seal.BROKEN.value)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        raise UserError(
            f"{folder / NAME}: is damaged, so nothing says what made the files beside it; "
            f"remove the folder {folder} to have them made again"
        ) from None
    settings = _plain(noted)
    settings.pop(JSON_KEY, None)
    return settings if settings or not noted_files(folder) else None


def folder_digest(folder: Path) -> str:
    """Stands for what made a folder's files, in the manifests of what is made from them."""
    noted = read_manifest(folder)
    if noted is None:
        return f"no manifest: {folder}"
    return hashlib.sha256(json.dumps(noted, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def weights_digest(path: Path | None) -> str:
    """Stands for the weights that training starts from; None are torchvision's."""
    if name := weights_name(path):
        return name if ":" in name else f"torchvision {name} IMAGENET1K_V1"
    return file_digest(path) if path else "torchvision IMAGENET1K_V1"


def weights_name(path: str | Path | None) -> str:
    """The name of published weights that is there in place of a file, "" where there is a file.

    A single word such as "resnet18", or one behind the name of a library, "timm:resnet18.a1_in1k".
    """
    text = "" if path is None else str(path)
    return text if re.fullmatch(r"\w+|timm:.+", text) and not Path(text).exists() else ""


def ids_digest(image_ids: tuple[str, ...]) -> str:
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
    noted, now = ({**s, **(s.get("inputs") or {}), "inputs": None} for s in (noted, now))
    names = [name for name in sorted({*noted, *now}) if noted.get(name) != now.get(name)]
    return ", ".join(
        f"{reason(name)} is {reason(noted.get(name))} {places[0]} and {now.get(name)} {places[1]}"
        for name in names
    )


def _plain(noted: object) -> dict:
    """What a file notes, without what `settings_of` never gives: the file may be anybody's."""
    noted = noted if isinstance(noted, dict) else {}
    inputs = noted.get("inputs")
    settings = {name: value for name, value in noted.items() if _is_setting(name, value)}
    if isinstance(inputs, dict):
        settings["inputs"] = {name: v for name, v in inputs.items() if _is_setting(name, v)}
    return settings


def _is_setting(name: object, value: object) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    plain = all(v is None or isinstance(v, (bool, int, float, str)) for v in values)
    return isinstance(name, str) and plain and (name != "inputs" or value is None)


def _difference(folder: OutputFolder, settings: dict, overwrite: bool) -> str:
    """How settings differ from the noted ones; UserError where that cannot be overwritten."""
    noted, where = read_manifest(folder.path), f"{folder.flag} {folder.path}"
    if noted is None:
        files = len(list(folder.path.glob(f"*{folder.suffix}"))) if folder.path.is_dir() else 0
        if files:
            raise UserError(
                f"{where}: holds {counted({f'{folder.suffix} file': files})} and no {NAME} "
                f"that says what made them; move them away or give another {folder.flag}"
            )
        return ""
    if noted.get("step") != settings.get("step"):
        step = reason(noted.get("step", "another program"))
        raise UserError(f"{where}: holds the files of {step}; give another {folder.flag}")
    difference = settings_difference(noted, settings)
    if difference and is_foreign(folder.path / NAME):
        raise UserError(foreign_line(folder.path / NAME))
    if difference and not overwrite:
        raise UserError(
            f"{where}: was made with other settings ({difference}); give --overwrite to redo it, "
            f"or another {folder.flag}"
        )
    return difference
