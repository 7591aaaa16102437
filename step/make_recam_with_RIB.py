"""RIB maps: the classifier is fine-tuned on every image, maps of all iterations are summed."""

import contextlib
from pathlib import Path

import torch

from misc.cli.options import Options
from misc.cli.preflight import Preflight
from misc.data.datasets import CropSource, RIBBatches, load_labels, multi_scale_pairs, read_image
from misc.data.image_cache import ImageCache
from misc.rib import RIB, RIBSettings
from misc.runtime import distributed
from misc.runtime.devices import read_ahead_workers
from misc.runtime.image_task import ImageTask, claim, run_over_images
from misc.runtime.memory import about_image, available_bytes
from misc.storage.files import remove_leftovers
from misc.storage.manifest import OutputFolder, file_digest, ids_digest
from net.checkpoint import load_classifier
from step.make_cam import save_merged

# Iterations that --visualize draws (as far as an image gets there).
SHOWN_ITERATIONS = (1, 5, 10)


def folder(args: Options) -> OutputFolder:
    """Where the maps go."""
    return OutputFolder("--cam_out_dir", args.cam_out_dir, ".npy")


def settings(args: Options) -> dict:
    """The options that the maps depend on."""
    names = (
        "dataset",
        "cam_scales",
        "max_long",
        "cam_crop_size",
        "cam_long",
        "cam_weight_decay",
        "RIB_iter",
        "RIB_lr",
        "RIB_batch_size",
        "score_th",
        "stop_th",
        "explode_th",
        "explode_ratio",
        "disjoint_prob",
        "num_pooled_classes",
        "precision",
        "compile",
        "seed",
    )
    return {"step": "make_recam_with_RIB", **args.settings(*names)}


def writes(args: Options) -> dict[str, Path]:
    """Folders and files that the step writes, by the option that names them."""
    return {"--cam_out_dir": args.cam_out_dir}


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first image."""
    preflight.output(folder(args), settings(args))
    preflight.classifier(args.cam_weights_name)
    preflight.disjoint_images()
    preflight.images(args.image_ids("infer"))
    preflight.images(args.image_ids("train", limited=False))


def shown_path(args: Options, image_id: str, iteration: int) -> Path:
    """Maps after some iterations, kept for the images that --visualize draws."""
    return args.result_dir / "visualize" / "iterations" / f"{image_id}_{iteration}.npy"


class MakeRIBCAM(ImageTask):
    """RIB on one image."""

    name = "make_recam_with_RIB"
    images_worth_a_process = 1

    def __init__(self, args: Options, image_ids: tuple[str, ...]):
        self.args = args
        labels = load_labels(args.cls_labels, image_ids, args.info)
        self.labels = dict(zip(image_ids, labels, strict=True))
        self.shown = frozenset(image_ids[: args.visualize])
        self.train_ids = args.image_ids("train", limited=False)
        self.cache = ImageCache(len(self.train_ids), cache_bytes(args))

    def outputs(self, image_id: str) -> list[Path]:
        path = self.args.cam_out_dir / f"{image_id}.npy"
        return [path, *self._shown_paths(image_id).values()]

    def _shown_paths(self, image_id: str) -> dict[int, Path]:
        shown = SHOWN_ITERATIONS if image_id in self.shown else ()
        return {k: shown_path(self.args, image_id, k) for k in shown if k <= self.args.RIB_iter}

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        args, self.device = self.args, device
        model = load_classifier(args.cam_weights_name, args.info.num_classes)
        self.rib = RIB(model.to(device), rib_settings(args), args.precision, args.compile)
        source = CropSource(
            args.info,
            self.train_ids,
            load_labels(args.cls_labels, self.train_ids, args.info),
            args.cam_long,
            args.cam_crop_size,
            args.seed,
            self.cache,
        )
        self.batches = RIBBatches(
            source,
            {i: self.labels[i] for i in image_ids if self.labels[i].any()},
            args.RIB_iter,
            args.RIB_batch_size,
            args.disjoint_prob,
            read_ahead_workers(args.resources),
            pin_memory=device.type == "cuda",
        )

    def one(self, image_id: str) -> None:
        image, label = read_image(self.args.info.image_path(image_id)), self.labels[image_id]
        size, (path, *_) = image.shape[:2], self.outputs(image_id)
        shown = self._shown_paths(image_id)
        maps, advice = [torch.zeros(len(label), 1, 1)], "give a smaller --RIB_lr"
        if label.any():  # an image without classes has no maps: nothing to fine-tune
            pairs = multi_scale_pairs(image, self.args.cam_scales, self.args.max_long)
            pairs = [pair.to(self.device) for pair in pairs]
            target = torch.from_numpy(label).to(self.device)
            about, own = about_image(image_id, self.device), self.batches.of(image_id)
            with about, contextlib.closing(own) as batches:
                for k, state in enumerate(self.rib.iterate(pairs, target, batches), start=1):
                    maps = state.map_sums
                    if k in shown:
                        save_merged(shown.pop(k), maps, size, label, advice)
        for later in shown.values():  # ended before this iteration
            save_merged(later, maps, size, label, advice)
        save_merged(path, maps, size, label, advice)


def cache_bytes(args: Options) -> int:
    """Bytes of decoded images that each rank of this machine keeps."""
    if args.image_cache is None:
        return available_bytes() // 8 // distributed.local_size()
    return int(args.image_cache * 2**30) // distributed.local_size()


def rib_settings(args: Options) -> RIBSettings:
    """RIB's numbers from the options."""
    return RIBSettings(
        iterations=args.RIB_iter,
        learning_rate=args.RIB_lr,
        weight_decay=args.cam_weight_decay,
        tau=args.score_th,
        margin=args.stop_th,
        explode_th=args.explode_th,
        explode_ratio=args.explode_ratio,
        scales=args.cam_scales,
        num_pooled_classes=args.num_pooled_classes,
    )


def run(args: Options) -> None:
    """Make and save the RIB maps of every image of the inference list."""
    image_ids = args.image_ids("infer")
    inputs = {
        "classifier": file_digest(args.cam_weights_name),
        "labels": file_digest(args.cls_labels),
        "train list": ids_digest(args.image_ids("train", limited=False)),
    }
    claim(folder(args), settings(args), inputs, args.overwrite)
    shown_dir = shown_path(args, "", 0).parent
    shown_dir.mkdir(parents=True, exist_ok=True)
    remove_leftovers(shown_dir)
    run_over_images(MakeRIBCAM(args, image_ids), image_ids, args.resources)
