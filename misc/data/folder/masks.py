"""Which photographs have ground truth in --masks."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from misc.data.dataset_info import DatasetInfo
from misc.data.folder.scan import Walk
from misc.errors import UserError, counted, raise_problems
from misc.storage.files import reason

log = logging.getLogger(__name__)


def masked(info: DatasetInfo, image_ids: Sequence[str]) -> list[str]:
    """The images that have a mask; the log names unused masks.

    UserError where --masks has none of them, or one for two.

    info: a `dataset.FolderInfo`.
    """
    if not info.mask_dirs:
        return []
    folder = info.mask_dirs[0]
    found = {i: path for i in image_ids if (path := info.mask_path(i)).is_file()}
    used = set(found.values())
    others = sorted(path for path in Walk(folder).files() if folder / path not in used)
    if not found:
        names = [reason(path.relative_to(folder)) for path in info.mask_paths(image_ids[0])]
        there = "it has no files"
        if others:
            there = f"it has {counted({'file': len(others)})}, such as {reason(others[0])}"
        raise UserError(
            f"--masks {folder}: has no mask of {info.image_path(image_ids[0])}, nor of any other "
            f"photograph with a label; looked for were {', '.join(dict.fromkeys(names))}; "
            f"{there}: give the masks the photographs' names"
        )
    _require_one_each(info, found)
    if others := [path for path in others if path.lower().endswith(".png")]:
        log.warning("--masks %s: %s of no photograph with a label, such as %s", folder,
                    counted({"PNG file": len(others)}), reason(others[0]))  # fmt: skip
    return list(found)


def _require_one_each(info: DatasetInfo, found: Mapping[str, Path]) -> None:
    """Raise UserError for a mask that is found for two photographs: of which one is it?"""
    first: dict[Path, str] = {}
    messages = []
    for image_id, path in found.items():
        other = first.setdefault(path, image_id)
        if other != image_id:
            messages.append(
                f"--masks {info.mask_dirs[0]}: {path.name} is found for "
                f"{info.image_path(other)} and for {info.image_path(image_id)}; put masks into "
                "the same folders as the photographs, or call the mask of x.jpg x.jpg.png"
            )
    raise_problems("mask", messages)
