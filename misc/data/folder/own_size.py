"""Pseudo masks as the owner of the photographs wants them: their names, folders and sizes."""

from collections import Counter
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
from PIL import Image

from misc.data.dataset_info import keys_in
from misc.data.folder.dataset import FolderInfo
from misc.data.folder.photographs import own_size
from misc.labels import read_label_png, save_label_png, save_palette_png
from misc.runtime import distributed
from misc.runtime.image_task import ImageTask, prepare_output, run_over_images
from misc.storage.images import MAX_PIXELS
from misc.storage.manifest import Sources, check_folder, folder_hash, read_manifest
from misc.storage.outputs import Output, remove_output, require_places

# The version is raised when the same masks give other files.
_SETTINGS = {"step": "masks", "version": 1}
_BAND = 1 << 22  # pixels of a large mask that are enlarged at a time


class OwnSizeMasks(ImageTask):
    """The mask of a photograph at its own size, in the same folders as the photograph."""

    name = "masks at the photographs' size"
    images_worth_a_process = 200
    on_gpu = False

    def __init__(self, info: FolderInfo, image_ids: tuple[str, ...], source: Path, out_dir: Path):
        self.info, self.source, self.out_dir = info, source, out_dir
        paths = {i: PurePosixPath(info.image_path(i).relative_to(info.root)) for i in image_ids}
        alike = Counter(path.with_suffix("") for path in paths.values())
        self.names = {
            i: path.with_suffix(".png") if alike[path.with_suffix("")] == 1
            else path.with_name(f"{path.name}.png")
            for i, path in paths.items()
        }  # fmt: skip

    def outputs(self, image_id: str) -> list[Path]:
        return [self.out_dir / self.names[image_id]]

    def one(self, image_id: str) -> None:
        mask = read_label_png(self.source / f"{image_id}.png")
        mask = enlarged(mask, own_size(self.info.image_path(image_id)))
        (path,) = self.outputs(image_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        (save_palette_png if mask.dtype == np.uint8 else save_label_png)(path, mask)


def writes(args: SimpleNamespace) -> tuple[Output, ...]:
    """Return where the masks go."""
    return (Output("--result_dir", args.result_dir / "masks"),)


def _folder(args: SimpleNamespace) -> Output:
    (output,) = writes(args)
    return Output(output.flag, output.path, suffix=".png")


def check(args: SimpleNamespace) -> None:
    """Raise UserError where `run` would; called before the first step."""
    folder, ids = _folder(args), args.image_ids("infer")
    check_folder(folder, _SETTINGS, overwrite=True)
    task = OwnSizeMasks(args.info, ids, args.sem_seg_out_dir, folder.path)
    require_places({str(args.info.image_path(i)): task.outputs(i)[0] for i in ids})


def run(args: SimpleNamespace) -> None:
    """Write RESULT_DIR/masks from the pseudo masks; every rank calls it.

    args: the options of a run.
    """
    folder = _folder(args)
    inputs = {"pseudo masks": folder_hash(args.sem_seg_out_dir)}
    distributed.on_first_rank(lambda: _remove_older(folder, inputs))
    image_ids = args.image_ids("infer")
    task = OwnSizeMasks(args.info, image_ids, args.sem_seg_out_dir, folder.path)

    def sources() -> Sources:
        keys = keys_in(args, args.sem_seg_out_dir, ".png", image_ids)
        return Sources(keys, path_of=lambda image_id: task.outputs(image_id)[0])

    prepare_output(folder, _SETTINGS, inputs, True, sources)
    run_over_images(task, image_ids, args.resources)


def _remove_older(folder: Output, inputs: dict) -> None:
    """Remove the masks that were made from other pseudo masks, in all folders below."""
    noted = read_manifest(folder.path)
    if noted and noted.get("inputs") != inputs:
        for path in folder.path.rglob("*.png"):
            remove_output(path)


def enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map at another size: every pixel the label that bilinear weights give most of.

    mask: h x w labels. size: H, W. A map of this size is returned itself. Memory does not grow with
    the labels.
    """
    if mask.shape == tuple(size):
        return mask
    whole = size[0] * size[1] <= MAX_PIXELS
    rows = size[0] if whole else max(1, _BAND // size[1])
    bands = (slice(top, min(size[0], top + rows)) for top in range(0, size[0], rows))
    return np.concatenate([_enlarged_band(mask, size, band) for band in bands])


def _enlarged_band(mask: np.ndarray, size: tuple[int, int], band: slice) -> np.ndarray:
    """Some rows of a label map at another size."""
    height, width = mask.shape
    part = (band.stop - band.start, size[1])
    box = (0, band.start * height / size[0], width, band.stop * height / size[0])
    labels = np.unique(mask)
    best, strongest = np.full(part, labels[0], mask.dtype), np.zeros(part, np.uint8)
    for label in labels:
        share = Image.fromarray((mask == label).astype(np.uint8) * 255)
        weight = np.asarray(share.resize(part[::-1], Image.Resampling.BILINEAR, box=box))
        higher = weight > strongest
        best[higher] = label
        strongest[higher] = weight[higher]
    return best
