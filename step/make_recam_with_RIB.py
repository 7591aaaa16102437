"""RIB maps: the classifier is fine-tuned on every image, the maps of all iterations are summed."""

import contextlib
import copy
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.data.label_file import load_labels
from misc.data.rib_batches import CropSource, RIBBatches, require_disjoint
from misc.rib import Maps, RIBSettings, fine_tune
from misc.runtime.devices import read_ahead_workers
from misc.storage.manifest import Sources
from step.maps import MapMethod


class MakeRIBCAM(MapMethod):
    """RIB on one image (RIB, Sec. 3): see `misc.rib.fine_tune`."""

    name, version = "make_recam_with_RIB", 3
    options = (
        "cam_crop_size", "cam_long", "cam_weight_decay", "RIB_iter", "RIB_lr", "RIB_batch_size",
        "score_th", "stop_th", "explode_th", "explode_ratio", "disjoint_prob",
        "num_pooled_classes", "seed",
    )  # fmt: skip
    lists = ("infer", "train", "labels")
    trains, images_worth_a_process, iterations = True, 1, "RIB_iter"
    memory_options = ("--RIB_batch_size", "--max_long", "--cam_crop_size", "--num_processes")
    advice = "give a smaller --RIB_lr"

    @classmethod
    def settings(cls, args: Options) -> dict:
        # An option that has left the program; folders that were made with it off are continued.
        recorded = super().settings(args) | {"RIB_climbed": False}
        if args.RIB_final_activation != "none":
            recorded |= args.settings("RIB_final_activation")
        return recorded

    @classmethod
    def sources(cls, args: Options) -> Sources:
        return super().sources(args)._replace(drawn=args.image_ids("train", limited=False))

    @classmethod
    def check(cls, args: Options, preflight: Preflight) -> None:
        super().check(args, preflight)
        drawn = args.image_ids("train", limited=False)
        preflight.labels(drawn)
        preflight.collect(partial(require_disjoint, args, drawn, cls.ids(args)), "label")
        preflight.images(drawn)

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        super().start(device, image_ids)
        self.trained, args = copy.deepcopy(self.model.state_dict()), self.args
        others = load_labels(args.cls_labels, args.image_ids("train", limited=False), args.info)
        crops = CropSource(args.info, others, args.cam_long, args.cam_crop_size, args.seed)
        own = self.labels.of(i for i in image_ids if len(self.labels.classes_of(i)))
        drawn = args.RIB_iter, args.RIB_batch_size, args.disjoint_prob
        self.batches = RIBBatches(crops, own, *drawn, read_ahead_workers(args.resources), device)

    def maps(self, image_id: str, pairs: list[Tensor], label: Tensor) -> Iterator[Maps]:
        args = self.args
        numbers = RIBSettings(
            iterations=args.RIB_iter, learning_rate=args.RIB_lr, weight_decay=args.cam_weight_decay,
            tau=args.score_th, margin=args.stop_th, explode_th=args.explode_th,
            explode_ratio=args.explode_ratio, scales=args.cam_scales,
            num_pooled_classes=args.num_pooled_classes, final_activation=args.RIB_final_activation,
        )  # fmt: skip
        self.model.load_state_dict(self.trained)
        with contextlib.closing(self.batches.of(image_id)) as batches:
            for state in fine_tune(self.model, pairs, label, batches, numbers):
                yield state.map_sums


LISTS, settings, writes, check, run = MakeRIBCAM.as_step()
