"""Maps of other methods as CAMs of this project, so that all later steps serve them."""

import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misc.cams import save_cam
from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.data.dataset_info import joined
from misc.data.foreign_maps import UnclearChannelsError, converted, numbering_of, read_maps
from misc.data.foreign_tree import MapFile, Tree, find_maps
from misc.data.label_file import labelled_keys, load_labels
from misc.errors import UserError, about, some
from misc.runtime import distributed
from misc.runtime.image_task import ImageTask, prepare_output, run_over_images
from misc.storage.manifest import Sources, content_hashes
from misc.storage.outputs import Output

log = logging.getLogger(__name__)

LISTS = ("infer", "labels")

_LOOKED_AT = 200  # images whose maps tell how classes are numbered
_FEWER = "images have maps of some of their classes alone"


def folder(args: Options) -> Output:
    """Where the maps go."""
    return Output("--cam_out_dir", args.cam_out_dir, suffix=".npy")


def settings(args: Options) -> dict:
    """The options that the maps depend on; how classes are numbered is among the inputs."""
    as_before = {"import_norm": "none", "import_resize": False}  # what earlier versions recorded
    return {"step": "import_maps", "version": 1, **as_before, **args.settings("dataset")}


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return (Output("--cam_out_dir", args.cam_out_dir),)


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    if not args.import_maps:
        raise UserError("--import_maps: give the folder of the maps to import")
    ids = args.image_ids("infer")
    preflight.output(folder(args), settings(args))
    preflight.images(ids)
    preflight.labels(ids)
    preflight.collect(lambda: _check_maps(args, preflight), "import")


def _check_maps(args: Options, preflight: Preflight) -> None:
    task = ImportMaps(args)
    log.info("%s: maps of %d of %d images, classes counted from %d; %d other files",
             args.import_maps, len(task.tree.files), len(args.image_ids("infer")),
             task.numbering == "label", task.tree.others)  # fmt: skip
    kind, ids = f"map in {args.import_maps}", args.image_ids("infer")
    preflight.each(kind, ids, partial(_checked, task), partial(_judged, args.import_maps))


class Looked(NamedTuple):
    """What the maps of an image with classes are like, for its classes."""

    zero: bool  # no map of any of its classes has a value above zero
    some_zero: bool  # that of one of them has none
    fewer: bool  # one of them has no map


def _checked(task: "ImportMaps", image_id: str) -> Looked | None:
    """Read the maps of an image; None where it shows no class."""
    maps = task.maps(image_id)
    keys, present = maps["keys"], task.labels[image_id].nonzero()[0]
    unknown = np.setdiff1d(keys, present)
    if task.args.import_keys == "auto" and len(unknown):
        raise UserError(
            f"{task.tree.files[image_id][0].path}: has the class "
            f"{task.args.info.class_names[unknown[0]]!r}, which is no label of its image; say "
            "how classes are numbered, to take it as it is: --import_keys class or label"
        )
    if not len(present):
        return None
    peaks = {int(k): one.max() for k, one in zip(keys, maps["high_res"], strict=True)}
    own = [peaks[k] for k in present.tolist() if k in peaks]
    return Looked(not any(own), not all(own), len(own) < len(present))


def _judged(root: Path, found: dict[str, Looked]) -> tuple[list[str], list[str]]:
    """What is wrong with all maps together, and what to warn of."""
    zero = [image_id for image_id, one in found.items() if one.zero]
    if zero and len(zero) == len(found):
        return [
            f"--import_maps {root}: the maps of all {len(zero)} images are zero, or not there, for "
            f"the classes of their labels ({some(zero)}); are they of other classes, or numbered "
            "otherwise (--import_keys class or label)?"
        ], []
    lists = {
        "images have no map above zero for any of their classes": zero,
        "images have a map that is zero for one of their classes": [
            image_id for image_id, one in found.items() if one.some_zero and not one.zero
        ],
        _FEWER: [i for i, one in found.items() if one.fewer and not one.zero],
    }
    return [], [f"{len(ids)} {what}; the first: {some(ids)}" for what, ids in lists.items() if ids]


class ImportMaps(ImageTask):
    """Reads the maps of one image and saves them as its CAM."""

    name = "import_maps"
    on_gpu = False
    images_worth_a_process = 100

    def __init__(self, args: Options, found: tuple[Tree, str] | None = None):
        """found: the files and how their classes are numbered; without it that is looked for."""
        ids = args.image_ids("infer")
        self.args = args
        self.labels = load_labels(args.cls_labels, ids, args.info)
        self.tree, self.numbering = found or self._look(ids)

    def _look(self, ids: tuple[str, ...]) -> tuple[Tree, str]:
        args, tree = self.args, find_maps(self.args.import_maps, self.args.info, ids)
        numbering = args.import_keys
        if numbering == "auto":
            shown = [image_id for image_id in ids if image_id in tree.files]
            looked_at = shown[:: -(-len(shown) // _LOOKED_AT)]
            where = f"--import_maps {tree.root}"
            numbering = numbering_of(self._readable(tree.files, looked_at), where)
        return tree, numbering

    def _readable(self, files: dict[str, tuple[MapFile, ...]], ids: list[str]) -> list[tuple]:
        """Maps and classes of the images whose files can be read; UserError where none can."""
        found, first = [], None
        for image_id in ids:
            present = self.labels[image_id].nonzero()[0]
            try:
                size = self.args.info.image_size(image_id)
                maps = read_maps(files[image_id], self.args.info, size, present)
                found.append((maps._replace(maps=()), present.tolist()))
            except UnclearChannelsError:
                raise
            except UserError as error:
                first = first or error
        if not found:
            raise first
        return found

    def outputs(self, image_id: str) -> list[Path]:
        return [self.args.cam_out_dir / f"{image_id}.npy"]

    def maps(self, image_id: str) -> dict[str, np.ndarray]:
        """Keys, cam and high_res of an image; an image without classes needs no file."""
        info, present = self.args.info, self.labels[image_id].nonzero()[0]
        files = self.tree.files.get(image_id)
        if not files:
            if len(present):
                raise UserError(
                    f"--import_maps {self.tree.root}: has no maps of image {image_id}, which shows "
                    f"{info.class_names[present[0]]!r}; add them, or leave it out of --infer_list"
                )
            none = np.zeros((0, 0, 0), np.float32)
            return {"keys": present, "cam": none, "high_res": none}
        size = info.image_size(image_id)
        found = read_maps(files, info, size, present, self.args.import_keys)
        with about(files[0].path):
            return converted(found, self.numbering, info, size)

    def one(self, image_id: str) -> None:
        save_cam(self.outputs(image_id)[0], **self.maps(image_id))


def sources(args: Options, tree: Tree) -> Sources:
    """What the maps of each image are made from: its photograph, labels and files of maps."""
    ids = args.image_ids("infer")
    paths = [file.path for image_id in ids for file in tree.files.get(image_id, ())]
    digest_of = dict(zip(paths, content_hashes(paths, args.list_dir), strict=True))
    files = {i: ",".join(digest_of[f.path] for f in tree.files.get(i, ())) for i in ids}
    return Sources(joined(labelled_keys(args, ids), files))


def run(args: Options) -> None:
    """Save the maps of every image of the inference list."""

    def look() -> tuple[Tree, str]:
        task = ImportMaps(args)
        return task.tree, task.numbering

    tree, numbering = distributed.on_first_rank(look)
    inputs = {"keys": numbering}
    prepare_output(
        folder(args), settings(args), inputs, args.overwrite, partial(sources, args, tree)
    )
    run_over_images(ImportMaps(args, (tree, numbering)), args.image_ids("infer"), args.resources)
