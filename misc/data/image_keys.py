"""What the results of each image depend on: the contents of its files, and its labels.

A key is a text of words, each a hash or the classes of the image; manifests have one for each
image. Of an image whose key is another one, results are made again, or a training is refused.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from misc.data.label_file import known_classes
from misc.storage.manifest import IMAGES, content_hashes, read_manifest

Keys = dict[str, str]  # by image id


def photograph_keys(args: SimpleNamespace, image_ids: Sequence[str]) -> Keys:
    """Hashes of the photographs. args: the options of a run."""
    paths = [args.info.image_path(image_id) for image_id in image_ids]
    return dict(zip(image_ids, content_hashes(paths, args.list_dir), strict=True))


def labelled_keys(args: SimpleNamespace, image_ids: Sequence[str]) -> Keys:
    """Hashes of the photographs, with the classes of their labels."""
    classes = known_classes(args.cls_labels, image_ids, args.info)
    return {
        image_id: f"{key} {','.join(map(str, sorted(classes.get(image_id, ()))))}"
        for image_id, key in photograph_keys(args, image_ids).items()
    }


def keys_in(args: SimpleNamespace, folder: Path, suffix: str, image_ids: Sequence[str]) -> Keys:
    """What the files of a folder depend on, by its manifest; of others, their own hashes too."""
    known = (read_manifest(folder) or {}).get(IMAGES) or {}
    others = [image_id for image_id in image_ids if image_id not in known]
    files = content_hashes([folder / f"{i}{suffix}" for i in others], args.list_dir)
    found = joined(photograph_keys(args, others), dict(zip(others, files, strict=True)))
    return {image_id: known.get(image_id) or found[image_id] for image_id in image_ids}


def joined(*parts: Keys) -> Keys:
    """Keys of several sources of the same images, in one."""
    first, *others = parts
    return {i: " ".join([key, *(other[i] for other in others)]) for i, key in first.items()}
