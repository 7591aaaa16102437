"""Passes of the networks as the steps make them, of a size that is timed in half a second."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from misc.advcam import AdvCAMSettings, climb
from misc.affinity_loss import PairLoss
from misc.cams import CAM_STRIDE
from misc.cli.costs import Operations, of_training
from misc.cli.speed import AT_ONCE, Speed, ended
from misc.data.datasets import Crops
from misc.indexing import PathIndex, affinity_labels
from misc.rib import RIBSettings, fine_tune
from misc.runtime.devices import threads_per_process, training_threads
from misc.seg_loss import scale_losses
from misc.torchutils import weights_in
from net.deeplab_v2 import DeepLabV2
from net.engine import Engine
from net.folded import frozen_copy
from net.resnet50_cam import CAM
from net.resnet50_cam import Net as Classifier
from net.resnet50_irn import Net as BoundaryNet

Pass = Callable[[], object]

_SECONDS = 0.5  # that a pass is to take
_SMALLEST = 64  # side of a measured image, pixels


class Rates:
    """Floating-point operations a second that the steps reach, all their processes together.

    A step's own pass is timed: a network that is trained, in batches, and in processes of one
    thread each, has not the rate of one that looks at a single image.
    """

    def __init__(self, operations: Operations, speed: Speed):
        self.args, self.operations, self.speed = operations.args, operations, speed
        self.device = speed.device
        self._measured: dict[str, float] = {}

    def of(self, step: str) -> float:
        """Operations a second of a step with a network."""
        kinds = {
            "train_cam": self._classifier, "make_cam": self._maps,
            "make_recam_with_RIB": self._rib, "make_recam_with_AdvCAM": self._climb,
            "train_irn": self._boundaries_trained, "make_sem_seg_labels": self._boundaries,
            "make_ins_seg_labels": self._boundaries, "suggest_walk_thres": self._boundaries,
            "train_seg": self._segmentation_trained, "make_seg": self._segmentation,
        }  # fmt: skip
        kind = kinds[step]
        if kind.__name__ not in self._measured:
            self._measured[kind.__name__] = kind(*self._processes(step))
        return self._measured[kind.__name__]

    def _processes(self, step: str) -> tuple[int, int]:
        """Processes of a step in this rank, and the threads of each."""
        args = self.args
        if step.startswith("train"):
            return 1, training_threads(args.resources)
        return self.operations.processes(step), threads_per_process(args.resources)

    def _rate(self, prepare: Callable[[], Pass], flops: float, processes: int, threads: int):
        measured = min(processes, AT_ONCE) if self.device.type == "cpu" else 1
        seconds = self.speed.at_once(prepare, measured, threads)
        return flops / seconds * processes

    def _classifier(self, processes: int, threads: int) -> float:
        """A step of the classifier's training."""
        side = self.args.cam_crop_size
        one = of_training(*self.operations.forward(side, side))
        side, count = self._fitting(side, self.args.cam_batch_size, one)
        flops = count * of_training(*self.operations.forward(side, side))

        def prepare() -> Pass:
            model = self._built(Classifier, self.args.info.num_classes).train()
            images, labels = self._images(count, side, side), self._labels(count)

            def once() -> None:
                F.multilabel_soft_margin_loss(model(images), labels).backward()
                ended(labels)

            return once

        return self._rate(prepare, flops, processes, threads)

    def _maps(self, processes: int, threads: int) -> float:
        """Plain maps of an image and its mirror image."""
        height, width = self._image_size(2 * sum(self.operations.forward(*self.operations.shown)))
        flops = 2 * sum(self.operations.forward(height, width))

        def prepare() -> Pass:
            engine, pair = self._engine(), self._images(2, height, width)
            return lambda: ended(engine.plain_map(pair))

        return self._rate(prepare, flops, processes, threads)

    def _rib(self, processes: int, threads: int) -> float:
        """An iteration of RIB: the image at its own scale, and other images."""
        args, side = self.args, self.args.cam_crop_size
        one = of_training(*self.operations.forward(side, side))
        side, count = self._fitting(side, args.RIB_batch_size, one)
        height, width = self._image_size(6 * sum(self.operations.forward(*self.operations.shown)))
        frozen, trained = self.operations.forward(height, width)
        flops = 2 * of_training(frozen, trained)
        flops += count * of_training(*self.operations.forward(side, side))
        settings = RIBSettings(iterations=1, explode_ratio=1.0, scales=(1.0,))

        def prepare() -> Pass:
            engine, pair = self._engine(), self._images(2, height, width)
            label = torch.zeros(args.info.num_classes)
            label[0] = 1
            others = torch.zeros(count, side, side, 3, dtype=torch.uint8)
            crops = Crops(others, torch.tensor([[0, side, 0, side]] * count))
            batch = (crops, self._labels(count).cpu())
            return lambda: list(fine_tune(engine, [pair], label, iter([batch]), settings))

        return self._rate(prepare, flops, processes, threads)

    def _climb(self, processes: int, threads: int) -> float:
        """An iteration of AdvCAM on an image and its mirror image."""
        height, width = self._image_size(4 * sum(self.operations.forward(*self.operations.shown)))
        flops = 4 * sum(self.operations.forward(height, width))

        def prepare() -> Pass:
            model = self._built(CAM, self.args.info.num_classes).requires_grad_(False)
            backbone = frozen_copy(model.backbone)
            pair = self._images(2, height, width)

            def scores(rows: Tensor) -> Tensor:
                rows = rows.contiguous(memory_format=torch.channels_last)
                return model.classifier(backbone(rows)[-1])

            return lambda: [
                ended(state.gradient) for state in climb(scores, pair, 0, 1, 1, AdvCAMSettings())
            ]

        return self._rate(prepare, flops, processes, threads)

    def _boundaries_trained(self, processes: int, threads: int) -> float:
        """A step of IRN's training, with its loss over pixel pairs."""
        args, operations = self.args, self.operations
        side, smallest = args.irn_crop_size, CAM_STRIDE * (2 * args.irn_radius + 2)
        one = operations.irn_crop(side)
        side, count = self._fitting(side, args.irn_batch_size, one, smallest)
        flops = count * operations.irn_crop(side)
        positions = side // CAM_STRIDE
        index = PathIndex(args.irn_radius, (positions, positions))

        def prepare() -> Pass:
            model = self._built(BoundaryNet).train()
            model.fold_backbone()
            loss, images = PairLoss(index), self._images(count, side, side)
            labels = torch.zeros(count, positions, positions, dtype=torch.uint8)
            labels[:, positions // 3 :] = 1
            labels = labels.to(self.device)

            def once() -> None:
                pairs = affinity_labels(labels, index, args.info.num_labels)
                loss(*model(images), pairs).total.backward()
                ended(model.fc_edge6.weight.grad)

            return once

        return self._rate(prepare, flops, processes, threads)

    def _boundaries(self, processes: int, threads: int) -> float:
        """Boundaries of an image and its mirror image."""
        operations = self.operations
        height, width = self._smaller(operations.padded, operations.boundaries(*operations.padded))
        flops = operations.boundaries(height, width)

        def prepare() -> Pass:
            model = self._built(BoundaryNet).eval()
            model.fold_backbone()
            pair = self._images(2, height, width)
            return torch.no_grad()(lambda: ended(model(pair)[0]))

        return self._rate(prepare, flops, processes, threads)

    def _segmentation_trained(self, processes: int, threads: int) -> float:
        """A step of the segmentation network's training."""
        side = self.args.seg_crop_size
        one = of_training(0.0, self.operations.segmentation(side, side))
        side, count = self._fitting(side, self.args.seg_batch_size, one)
        flops = count * of_training(0.0, self.operations.segmentation(side, side))

        def prepare() -> Pass:
            model, images = self._segmentation_network().train(), self._images(count, side, side)
            images = images.contiguous(memory_format=torch.channels_last)
            labels = torch.zeros(count, side, side, dtype=torch.uint8, device=self.device)

            def once() -> None:
                losses = scale_losses(model(images), labels, self.args.seg_loss)
                sum(losses).backward()
                ended(losses[0].detach())

            return once

        return self._rate(prepare, flops, processes, threads)

    def _segmentation(self, processes: int, threads: int) -> float:
        """A prediction of the segmentation network."""
        size = self.operations.size
        height, width = self._smaller(size, self.operations.segmentation(*size))
        flops = self.operations.segmentation(height, width)

        def prepare() -> Pass:
            model, image = self._segmentation_network().eval(), self._images(1, height, width)
            return torch.no_grad()(lambda: ended(model(image)))

        return self._rate(prepare, flops, processes, threads)

    def _fitting(self, side: int, most: int, one: float, smallest: int = _SMALLEST):
        """Side and number of crops of a pass that takes about as long as it shall.

        one: operations of a crop of this side.
        """
        wanted = self._wanted
        count = max(1, min(most, int(wanted / one)))
        if wanted < one:
            shrunk = round(side * math.sqrt(wanted / one) / 16) * 16
            side = min(side, max(smallest, shrunk))
        return side, count

    @functools.cached_property
    def _wanted(self) -> float:
        """Operations of a pass that takes as long as it shall, if it is as fast as a plain one."""
        return _SECONDS * self.operations.rate(self.speed)

    def _image_size(self, flops: float) -> tuple[int, int]:
        return self._smaller(self.operations.shown, flops)

    def _smaller(self, size: tuple[float, float], flops: float) -> tuple[int, int]:
        """A size at which a pass that has `flops` at this one takes about as long as it shall."""
        shrunk = min(1.0, math.sqrt(self._wanted / flops))
        return tuple(max(_SMALLEST // 2, round(side * shrunk)) for side in size)

    def _built(self, kind: type, *numbers: int) -> torch.nn.Module:
        return kind(*numbers, **self.operations.arch).to(self.device)

    def _engine(self) -> Engine:
        args = self.args
        model = self._built(CAM, args.info.num_classes).to(dtype=weights_in(args.precision))
        return Engine(model, args.precision)

    def _segmentation_network(self) -> DeepLabV2:
        model = DeepLabV2(self.args.info.num_labels, **self.operations.seg_arch).to(self.device)
        model.fold_backbone()
        return model

    def _images(self, count: int, height: int, width: int) -> Tensor:
        return torch.rand(count, 3, height, width, device=self.device)

    def _labels(self, count: int) -> Tensor:
        labels = torch.zeros(count, self.args.info.num_classes, device=self.device)
        labels[:, -1] = 1
        return labels
