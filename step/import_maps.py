"""Maps of other methods as CAMs of this project, so that all later steps serve them."""

import logging
from functools import partial
from pathlib import Path

import numpy as np

from misc.cams import save_cam
from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.data.dataset_info import joined
from misc.data.imported_maps import find_maps, read_maps
from misc.data.label_file import labelled_keys, load_labels
from misc.errors import UserError, some
from misc.runtime.image_task import prepare_output, run_over_images
from misc.storage.manifest import Sources, content_hashes
from step.base import FolderStep

log = logging.getLogger(__name__)

_ZERO = "images have no map above zero for any of their classes"
_SOME_ZERO = "images have no map above zero for one of their classes"


class ImportMaps(FolderStep):
    name, flag, suffix = "import_maps", "--cam_out_dir", ".npy"
    lists, options = ("infer", "labels"), ("dataset",)
    on_gpu = False
    images_worth_a_process = 100

    def __init__(self, args: Options):
        super().__init__(args)
        self.labels = load_labels(args.cls_labels, self.ids(args), args.info)
        self.files = find_maps(args.import_maps, args.info, self.ids(args))

    @classmethod
    def check(cls, args: Options, preflight: Preflight) -> None:
        if not args.import_maps:
            raise UserError("--import_maps: give the folder of the maps to import")
        super().check(args, preflight)
        preflight.collect(lambda: cls(args).check_maps(preflight), "import")

    def check_maps(self, preflight: Preflight) -> None:
        root, ids = self.args.import_maps, self.ids(self.args)
        log.info("%s: maps of %d of %d images", root, len(self.files), len(ids))
        preflight.each(f"map in {root}", ids, self._looked_at, partial(_judged, root))

    def maps(self, image_id: str) -> dict[str, np.ndarray]:
        """Keys, cam and high_res of an image; an image without classes needs no file."""
        info, present = self.args.info, self.labels.classes_of(image_id)
        if image_id in self.files:
            size, numbering = info.image_size(image_id), self.args.import_keys
            return read_maps(self.files[image_id], info, size, present.tolist(), numbering)
        if len(present):
            root, name = self.args.import_maps, info.class_names[present[0]]
            raise UserError(f"--import_maps {root}: has no maps of image {image_id}, which shows "
                            f"{name!r}; add them, or leave it out of --infer_list")  # fmt: skip
        none = np.zeros((0, 0, 0), np.float32)
        return {"keys": present, "cam": none, "high_res": none}

    def _looked_at(self, image_id: str) -> str | None:
        maps, present = self.maps(image_id), self.labels.classes_of(image_id)
        unknown = np.setdiff1d(maps["keys"], present)
        if self.args.import_keys == "auto" and len(unknown):
            path, name = self.files[image_id][0].path, self.args.info.class_names[unknown[0]]
            raise UserError(f"{path}: has the class {name!r}, which is no label of its image; say "
                            "how classes are numbered: --import_keys class or label")  # fmt: skip
        peaks = {key: one.max() for key, one in zip(maps["keys"], maps["high_res"], strict=True)}
        own = [peaks.get(key, 0) > 0 for key in present.tolist()]
        return None if not own else "" if all(own) else _SOME_ZERO if any(own) else _ZERO

    def one(self, image_id: str) -> None:
        save_cam(self.outputs(image_id)[0], **self.maps(image_id))

    def made_from(self) -> Sources:
        ids = self.ids(self.args)
        paths = [file.path for image_id in ids for file in self.files.get(image_id, ())]
        hash_of = dict(zip(paths, content_hashes(paths, self.args.list_dir), strict=True))
        files = {i: ",".join(hash_of[f.path] for f in self.files.get(i, ())) for i in ids}
        return Sources(joined(labelled_keys(self.args, ids), files))

    @classmethod
    def run(cls, args: Options) -> None:
        task, ((folder, settings),) = cls(args), cls.folders(args)
        numbering = "label" if args.import_keys == "label" else "class"
        prepare_output(folder, settings, {"keys": numbering}, args.overwrite, task.made_from)
        run_over_images(task, cls.ids(args), args.resources)


def _judged(root: Path, found: dict[str, str]) -> tuple[list[str], list[str]]:
    ids = {text: [i for i, one in found.items() if one == text] for text in (_ZERO, _SOME_ZERO)}
    if found and len(ids[_ZERO]) == len(found):
        return [
            f"--import_maps {root}: the maps of all {len(found)} images are zero, or not there, "
            f"for the classes of their labels ({some(ids[_ZERO])}); are they of other classes, or "
            "numbered otherwise (--import_keys class or label)?"
        ], []
    return [], [f"{len(of)} {text}; the first: {some(of)}" for text, of in ids.items() if of]


LISTS, settings, writes, check, run = ImportMaps.as_step()
