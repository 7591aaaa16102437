"""What steps compute: floating-point operations of their networks, and seconds of the rest."""

import random
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from misc.advcam import AdvCAMSettings
from misc.cams import CAM_STRIDE
from misc.cli.options import Options
from misc.cli.speed import Speed
from misc.data.datasets import load_labels
from misc.runtime.devices import pick_devices
from misc.runtime.image_task import MAPS_WORTH_A_PROCESS, ImageTask
from misc.runtime.processes import cpu_count
from net.backbones import FixedBatchNorm
from net.checkpoint import backbone_arch
from net.deeplab_v2 import SCALES, DeepLabV2
from net.resnet50_cam import CAM
from net.resnet50_irn import Net as BoundaryNet

_LOOKED_AT = 60  # images whose sizes and classes stand for all
WALKS_LOOKED_AT = 200  # images on which the threshold of the walk is chosen
_BACKWARD = 2  # a backward pass is two forward ones: by inputs and by weights
_WORTH_A_PROCESS = ImageTask.images_worth_a_process
_FILTERED = 4  # maps that a CRF filters in the time of one
_MAP_BYTES = 4 * (1 + 1 / 16)  # of a pixel of a map: at full size and at stride 4, float32


class Operations:
    """Floating-point operations of the steps with a network, for all images."""

    def __init__(self, args: Options):
        self.args, self.images = args, len(args.image_ids("infer"))
        self.size = usual_size(args)
        trained = args.cam_weights_name
        path = trained if trained.is_file() else args.imagenet_weights
        self.arch = backbone_arch(path)
        self._counted: dict[tuple[int, ...], tuple[float, float]] = {}
        with torch.device("meta"):  # shapes alone: nothing is computed
            self.classifier = _convolutions(CAM(args.info.num_classes, **self.arch))
            self.boundary = _convolutions(BoundaryNet(**self.arch))

    def of(self, steps: Iterable[str]) -> dict[str, float]:
        """Floating-point operations by step, of those with a network."""
        known = {
            "train_cam": self._train_cam, "make_cam": self._make_cam,
            "make_recam_with_RIB": self._rib, "make_recam_with_AdvCAM": self._advcam,
            "train_irn": self._train_irn, "make_sem_seg_labels": self._boundaries,
            "make_ins_seg_labels": self._boundaries, "train_seg": self._train_seg,
            "make_seg": self._make_seg, "suggest_walk_thres": self._some_boundaries,
        }  # fmt: skip
        return {name: known[name]() for name in self.computing(steps) if name in known}

    def computing(self, steps: Iterable[str]) -> list[str]:
        """The steps without make_cam where its maps are those of RIB's first iteration."""
        steps = list(steps)
        from_rib = "make_recam_with_RIB" in steps and not self.args.RIB_climbed
        return [name for name in steps if not (from_rib and name == "make_cam")]

    def rate(self, speed: Speed) -> float:
        """Operations a second of the classifier on a single image, by which passes are sized."""
        side = speed.measured_side
        model = CAM(self.args.info.num_classes, **self.arch).eval().to(speed.device)
        return speed.operations(model, sum(self.forward(side, side)))

    @cached_property
    def classes(self) -> float:
        """Classes of an image, on average."""
        ids = _some(self.args.image_ids("infer"))
        labels = load_labels(self.args.cls_labels, ids, self.args.info)
        return float(np.mean([row.sum() for row in labels]))

    def forward(self, height: float, width: float) -> tuple[float, float]:
        """Of one pass of the classifier: in the frozen part, in the trained one."""
        image = torch.empty(1, 3, max(32, round(height)), max(32, round(width)), device="meta")
        size = tuple(image.shape)
        if size not in self._counted:  # for it takes a tenth of a second
            frozen, features = _count(self.classifier.frozen_features, image)
            self._counted[size] = frozen, _count(self.classifier.maps, features)[0]
        return self._counted[size]

    def _train_cam(self) -> float:
        crop = self.args.cam_crop_size
        frozen, trained = self.forward(crop, crop)
        seen = self.args.cam_num_epoches * len(self.args.image_ids("train"))
        return seen * of_training(frozen, trained)

    @cached_property
    def shown(self) -> tuple[float, float]:
        """Height and width of an image as the classifier sees it at scale 1.0."""
        shrunk = min(1.0, (self.args.max_long or max(self.size)) / max(self.size))
        return self.size[0] * shrunk, self.size[1] * shrunk

    @cached_property
    def _views(self) -> dict[float, tuple[float, float]]:
        """Of an image and its mirror image at every scale."""
        height, width = self.shown
        sizes = {s: (height * s, width * s) for s in self.args.cam_scales}
        return {s: tuple(2 * part for part in self.forward(*size)) for s, size in sizes.items()}

    def processes(self, step: str) -> int:
        """That share the images of a step with a network."""
        images = len(self.args.image_ids("seg")) if step == "make_seg" else self.images
        if step == "suggest_walk_thres":
            images = min(images, WALKS_LOOKED_AT)
        worth = 1 if step.startswith("make_recam") else _WORTH_A_PROCESS
        return len(pick_devices(self.args.resources, max(1, images // worth)))

    def _make_cam(self) -> float:
        return self.images * sum(sum(parts) for parts in self._views.values())

    def _rib(self) -> float:
        views = self._views
        once = sum(frozen for frozen, _ in views.values())
        again = sum(trained for _, trained in views.values())
        again += _BACKWARD * sum(
            part[1] for s, part in views.items() if s >= 1.0
        )  # takes part in the loss
        frozen, trained = self.forward(self.args.cam_crop_size, self.args.cam_crop_size)
        again += self.args.RIB_batch_size * of_training(frozen, trained)
        return self.images * (once + self.args.RIB_iter * again)

    def _advcam(self) -> float:
        climbing = AdvCAMSettings(iterations=self.args.adv_iter)
        # The gradient is that of the image alone: a backward pass is one forward pass.
        passes = {s: climbing.iterations_at(s) * 2 * sum(v) for s, v in self._views.items()}
        return self.images * self.classes * sum(passes.values())

    def irn_crop(self, side: int) -> float:
        """Of a crop that IRN is trained on, whose backbone is frozen."""
        backbone = sum(self.forward(side, side))
        heads = max(0.0, self.boundaries(side, side) / 2 - backbone)
        return of_training(backbone, heads)

    def boundaries(self, height: float, width: float) -> float:
        """Of IRN on an image and its mirror image."""
        pair = torch.empty(2, 3, round(height), round(width), device="meta")
        return _count(self.boundary, pair)[0]

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of an image as IRN sees it."""
        return tuple(max(side, self.args.irn_pad_size) for side in self.size)

    def _train_irn(self) -> float:
        side = self.args.irn_crop_size
        seen = self.args.irn_num_epoches * len(self.args.image_ids("train"))
        return seen * self.irn_crop(side) + self.images * self.boundaries(side, side) / 2

    def _boundaries(self) -> float:
        return self.images * self.boundaries(*self.padded)

    def _some_boundaries(self) -> float:
        return self._boundaries() * min(1.0, WALKS_LOOKED_AT / self.images)

    @cached_property
    def seg_arch(self) -> dict:
        """The backbone of the segmentation network."""
        return backbone_arch(self.args.seg_init, "--seg_init")

    @cached_property
    def _seg_network(self) -> DeepLabV2:
        with torch.device("meta"):
            return _convolutions(DeepLabV2(self.args.info.num_labels, **self.seg_arch))

    def segmentation(self, height: float, width: float) -> float:
        """Of the segmentation network on an image, at all its scales."""
        image = torch.empty(1, 3, round(height), round(width), device="meta")
        return _count(self._seg_network.scores, image)[0] * sum(scale**2 for scale in SCALES)

    def _train_seg(self) -> float:
        args = self.args
        crops = args.seg_iterations * args.seg_batch_size * args.seg_runs
        crop = self.segmentation(args.seg_crop_size, args.seg_crop_size)
        return crops * of_training(0.0, crop)

    def _make_seg(self) -> float:
        images = len(self.args.image_ids("seg")) * (1 + self.args.seg_flip) * self.args.seg_runs
        return images * self.segmentation(*self.size)

    def disk(self, steps: Iterable[str]) -> float:
        """Bytes of the maps of all images; masks are a hundredth of them."""
        folders = sum(name.startswith(("make_cam", "make_recam")) for name in steps)
        if not folders:
            return 0.0
        return folders * self.images * self.classes * _MAP_BYTES * self.size[0] * self.size[1]


def of_training(frozen: float, trained: float) -> float:
    """Of a pass and its way back, which leads through the trained part alone."""
    return frozen + (1 + _BACKWARD) * trained


class Rest:
    """Seconds of what is no network, for all images: CRF, random walk, pixel pairs, reading."""

    def __init__(self, operations: Operations, speed: Speed):
        self.args, self.speed, self.images = operations.args, speed, operations.images
        self.operations = operations
        self.pixels = operations.size[0] * operations.size[1]
        self.classes = operations.classes  # of an image
        self.on_cpu = speed.device.type == "cpu"

    def of(self, steps: Iterable[str]) -> dict[str, float]:
        """Seconds by step, of those that are known here."""
        known = {
            "train_cam": self._train_crops, "make_recam_with_RIB": self._rib_crops,
            "make_cam": self._maps_read, "make_recam_with_AdvCAM": self._maps_read,
            "eval_cam": self._seeds, "suggest_thres": self._suggestion,
            "eval_seed_crf": self._seed_crf, "cam_to_ir_label": self._confident_labels,
            "train_irn": self._irn_crops, "make_sem_seg_labels": self._walks,
            "eval_sem_seg": self._masks, "make_ins_seg_labels": self._walks,
            "make_seg": self._prediction_crf, "eval_seg": self._predictions,
            "suggest_walk_thres": self._some_walks,
        }  # fmt: skip
        return {n: known[n]() for n in self.operations.computing(steps) if n in known}

    def _train_crops(self) -> float:
        seen = self.args.cam_num_epoches * len(self.args.image_ids("train"))
        return self._beside(seen * (self.speed.read + self.speed.crop))

    def _rib_crops(self) -> float:
        seen = self.images * self.args.RIB_iter * self.args.RIB_batch_size
        return self._started("make_recam_with_RIB") + self._beside(seen * self.speed.crop)

    def _maps_read(self) -> float:
        return self._started("make_recam_with_AdvCAM") + self._beside(self.images * self.speed.read)

    def _seeds(self) -> float:
        folders = 2 if self.args.recam == "rib" else 1
        return folders * self._scored(self.pixels * self.speed.score, worth=MAPS_WORTH_A_PROCESS)

    def _suggestion(self) -> float:
        return self._shared(
            self.images * self.pixels * self.speed.score, worth=MAPS_WORTH_A_PROCESS
        )

    def _seed_crf(self) -> float:
        return self._scored(self.speed.read + self._crf(self.classes))

    def _confident_labels(self) -> float:
        return self._shared(self.images * (self.speed.read + self._crf(2 * self.classes)))

    def _irn_crops(self) -> float:
        seen = self.args.irn_num_epoches * len(self.args.image_ids("train")) + self.images
        return self._beside(seen * (self.speed.read + self.speed.crop))

    def _walks(self) -> float:
        walk = self.pixels / CAM_STRIDE**2 * self.classes * self.speed.walk
        return self._shared(self.images * (self.speed.read + walk), on_gpu=True)

    def _some_walks(self) -> float:
        return self._walks() * min(1.0, WALKS_LOOKED_AT / self.images)

    def _masks(self) -> float:
        return self._scored(self.pixels * self.speed.score, worth=MAPS_WORTH_A_PROCESS)

    def _prediction_crf(self) -> float:
        predicted = len(self.args.image_ids("seg")) * self.args.seg_runs
        crf = self._crf(self.args.info.num_labels) if self.args.seg_crf != "none" else 0.0
        return self._shared(predicted * (self.speed.read + crf))

    def _predictions(self) -> float:
        scored = len(self.args.image_ids("seg")) * self.pixels * self.speed.score
        return self._shared(scored, worth=MAPS_WORTH_A_PROCESS)

    def _crf(self, maps: float) -> float:
        """Of an image whose CRF filters a number of maps."""
        return self.pixels * self.speed.crf * max(1.0, np.ceil(maps / _FILTERED))

    def _scored(self, of_image: float, worth: int = _WORTH_A_PROCESS) -> float:
        scored = len((*self.args.scored_ids(), *self.args.tuning_ids()))
        return self._shared(scored * of_image, worth=worth)

    def _shared(self, seconds: float, on_gpu: bool = False, worth: int = _WORTH_A_PROCESS) -> float:
        """On all processes that share the images of a step, until the last has started."""
        count = len(self._devices(worth, on_gpu))
        return seconds / count + (self.speed.start if count > 1 else 0.0)

    def _started(self, step: str) -> float:
        return self.speed.start if self.operations.processes(step) > 1 else 0.0

    def _devices(self, worth: int, on_gpu: bool) -> list[torch.device]:
        return pick_devices(self.args.resources, max(1, self.images // worth), on_gpu)

    def _beside(self, seconds: float) -> float:
        """What reading processes take from those that compute: beside a GPU nothing."""
        return self.on_cpu * seconds / cpu_count()


def usual_size(args: Options) -> tuple[int, int]:
    """Mean (height, width) of some images, from their headers."""
    sizes = [args.info.image_size(image_id) for image_id in _some(args.image_ids("infer"))]
    return tuple(round(side) for side in np.mean(sizes, axis=0))


def _count(function: Callable, tensor: Tensor) -> tuple[float, Tensor]:
    """Operations of a call, and its result."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        result = function(tensor)
    return float(counter.get_total_flops()), result


def _convolutions(model: nn.Module) -> nn.Module:
    """The network without its normalisations, which take most of the time of counting."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, FixedBatchNorm):
                setattr(module, name, nn.Identity())
    return model.eval()


def _some(image_ids: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(random.Random(0).sample(image_ids, min(_LOOKED_AT, len(image_ids))))
