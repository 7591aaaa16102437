"""What `tests/tools/benchmark.py` compares: made-up input, the project's way and the plain way."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from Dataset.make_sample import make_sample
from Dataset.objects import OBJECT_CLASSES, smooth_noise
from Dataset.scene import draw_scene
from misc import instances
from misc.advcam import AdvCAMSettings, advcam
from misc.affinity_loss import PairLoss
from misc.cams import CAM_STRIDE, label_map, load_cam, save_cam
from misc.cli.options import parse
from misc.data.datasets import multi_scale_pairs, normalized, read_image, training_crop
from misc.imutils import get_strided_size
from misc.indexing import PathIndex, affinity_labels, propagate_to_edge, upsampled_walk
from misc.labels import read_label_png, save_label_png
from misc.metrics import ThresholdScores
from misc.rib import RIBSettings, fine_tune
from misc.runtime.devices import freed_memory_kept
from misc.runtime.image_task import run_over_images
from misc.runtime.processes import cpu_count
from misc.runtime.programs import SPINS
from misc.seg_loss import scale_losses
from misc.storage.images import check_jpeg
from misc.storage.outputs import State, output_state
from misc.torchutils import gndp2d
from net.checkpoint import save_checkpoint
from net.deeplab_v2 import DeepLabV2
from net.resnet50_cam import CAM, Net
from net.resnet50_irn import AffinityDisplacementLoss, EdgeDisplacement
from step.cam_to_ir_label import MakeIRLabel, confident_labels
from step.make_recam_with_RIB import MakeRIBCAM
from step.make_seg import MakeSegmentation
from tests import references
from tests.tools.launches import Counting, Launches
from tests.weights import fill_by_recipe
from voc12.prepare import prepare

Size = tuple[int, int]
Results = Sequence[torch.Tensor | np.ndarray]

CPU = torch.device("cpu")
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # how OpenMP's threads wait


def timed(work: Callable[[], Any], device: torch.device = CPU) -> tuple[float, Any]:
    """Seconds that a call takes until the device has finished, and what it returns."""
    synchronize(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - start, result


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Comparison:
    """A piece of work on made-up input, done in the project's way and in the plain way."""

    what = ""  # with sizes
    images = 1  # that one run treats
    tolerance = 1e-4  # allowed difference of the results, as a share of the largest value
    with_memory = False
    with_flops = False
    on_gpu = False  # whether --device is for it
    device = CPU
    note = ""

    def here(self) -> Results:
        """The project's way."""
        raise NotImplementedError

    def plain(self) -> Results:
        """The plain way; returns the same as `here`."""
        raise NotImplementedError

    def use(self, device: torch.device) -> None:
        """Moves tensors and networks to a device."""
        self.device = device
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor | torch.nn.Module):
                setattr(self, name, value.to(device))

    def prepare_plain(self) -> None:
        """Makes what the plain way keeps between calls: part of its memory, not of its time."""

    def timed_plain(self) -> tuple[float, Any]:
        """Seconds of the plain way, and what `plain_results` takes."""
        return timed(self.plain, self.device)

    def plain_results(self, outcome: Any) -> Results:
        """The results of the plain way."""
        return outcome

    def here_results(self, outcome: Any) -> Results:
        """The results of the project's way, in the form of the plain way's."""
        return outcome

    def remark(self) -> str:
        """What the runs have shown beside their times."""
        return self.note

    def close(self) -> None:
        """Removes the files of the input."""


class Walk(Comparison):
    """Random walk: shifted views step by step, or a dense matrix that is squared."""

    with_memory = on_gpu = True
    beta, radius, exp_times = 10, 5, 8

    def __init__(self, size: Size, classes: int):
        rng = np.random.default_rng(0)
        self.what = f"random walk, {size[0]} x {size[1]}, {classes} classes"
        noise = smooth_noise(rng, size, cell=12)
        self.edge = torch.from_numpy(0.95 * np.exp(-((noise / 0.15) ** 2)))[None]
        self.x = torch.from_numpy(made_up_cams(rng, size, classes)) ** 1.3

    def here(self) -> Results:
        return [propagate_to_edge(self.x, self.edge, self.radius, self.beta, self.exp_times)]

    def plain(self) -> Results:
        return [references.dense_walk(self.x, self.edge, self.radius, self.beta, self.exp_times)]


class WalkByOneSquaring(Walk):
    """The same at a size at which 8 dense squarings take minutes: one of them is timed."""

    note = "the plain time is that of building the matrix + 8 x that of its first squaring"

    def __init__(self, size: Size, classes: int):
        super().__init__(size, classes)
        self.what += " (plain: one of 8 squarings timed, x 8)"

    def timed_plain(self) -> tuple[float, torch.Tensor]:
        building, matrix = timed(
            lambda: references.dense_transition_matrix(self.edge, self.radius, self.beta),
            self.device,
        )
        squaring, squared = timed(lambda: matrix @ matrix, self.device)
        return building + self.exp_times * squaring, squared

    def plain_results(self, outcome: torch.Tensor) -> Results:
        """The scores times the squared matrix, as often as the whole power needs; not timed."""
        walked = (self.x * (1 - self.edge)).flatten(1)
        for _ in range(2 ** (self.exp_times - 1)):
            walked = walked @ outcome
        return [walked.view(len(self.x), 1, *self.edge.shape[-2:])]


class Scoring(Comparison):
    """Scores of saved CAMs at many thresholds: one pass, or all files again for each of them."""

    tolerance = 0
    num_labels = 21
    note = "the files are in the page cache"

    def __init__(self, size: Size, images: int, thresholds: int):
        rng = np.random.default_rng(0)
        self.what = f"scores at {thresholds} thresholds, {images} files of {size[0]} x {size[1]}"
        self.images = images
        self.thresholds = np.arange(20, 20 + thresholds) / 100
        self.folder = tempfile.TemporaryDirectory()
        stems = [Path(self.folder.name) / f"image_{i}" for i in range(images)]
        self.cam_files = [stem.with_suffix(".npy") for stem in stems]
        self.truth_files = [stem.with_suffix(".png") for stem in stems]
        for i, (cam_file, truth_file) in enumerate(
            zip(self.cam_files, self.truth_files, strict=True)
        ):
            keys = np.sort(rng.choice(self.num_labels - 1, 1 + i % 3, replace=False))
            cams = made_up_cams(rng, size, len(keys))
            truth = references.argmax_labels(np.roll(cams, 9, axis=2), keys, 0.3).astype(np.uint8)
            truth[:3] = 255
            save_cam(cam_file, keys, cams[:, ::4, ::4], cams)
            save_label_png(truth_file, truth)

    def here(self) -> Results:
        scores = ThresholdScores(self.thresholds, self.num_labels)
        for cam_file, truth_file in zip(self.cam_files, self.truth_files, strict=True):
            maps = load_cam(cam_file)
            scores.add(maps["high_res"], maps["keys"], read_label_png(truth_file))
        return [scores.confusions]

    def plain(self) -> Results:
        files = self.cam_files, self.truth_files
        return [references.confusions_by_threshold(*files, self.thresholds, self.num_labels)]

    def close(self) -> None:
        self.folder.cleanup()


def photograph_and_cams(number: int, size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image H x W x 3 uint8, made-up CAMs of it K x H x W, 0..1, and their classes (K,)."""
    scene = draw_scene(np.random.default_rng(number), OBJECT_CLASSES[3 : 4 + number % 2], size)
    blurred = [
        gaussian_filter(instance.mask.astype(np.float32), sigma=max(size) / 40)
        for instance in scene.instances
    ]
    cams = np.stack([cam / cam.max() for cam in blurred])
    photographs = sorted(photograph_folder().glob("*.jpg")) if photograph_folder() else []
    image = scene.image
    if photographs:
        with Image.open(photographs[number % len(photographs)]) as file:
            image = np.array(file.convert("RGB").resize(size[::-1]))
    return image, cams, np.array([7, 11])[: len(cams)]


def photograph_folder() -> Path | None:
    """Real photographs to measure with; without them images are drawn."""
    root = os.environ.get("RIB_TEST_DATA")
    folder = Path(root) / "data" / "VOC2012_SEG_AUG" / "JPEGImages" if root else None
    return folder if folder and folder.is_dir() else None


class IRLabels(Comparison):
    """Confident labels: one CRF for all maps of an image, or one CRF for each."""

    tolerance = 0

    def __init__(self, size: Size, images: int):
        self.what = f"IR labels, {images} images of {size[0]} x {size[1]}, 1 or 2 classes"
        self.images = images
        self.inputs = [photograph_and_cams(number, size) for number in range(images)]

    def here(self) -> Results:
        return [confident_labels(*of_image, fg_th=0.35, bg_th=0.17) for of_image in self.inputs]

    def plain(self) -> Results:
        return [references.confident_labels(*of_image, 0.35, 0.17) for of_image in self.inputs]


class IRLabelProcesses(Comparison):
    """The step that makes IR labels with several processes, or with one."""

    tolerance = 0
    note = "plain: the project's own step with one process; the start of processes is included"

    def __init__(self, size: Size, images: int, processes: int):
        self.what = f"IR labels, {images} images of {size[0]} x {size[1]}, {processes} processes"
        self.images, self.processes = images, processes
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        for name in ("JPEGImages", "cam"):
            (self.root / name).mkdir()
        self.ids = tuple(f"2000_{number:06}" for number in range(images))
        for number, image_id in enumerate(self.ids):
            image, cams, keys = photograph_and_cams(number, size)
            Image.fromarray(image).save(self.root / "JPEGImages" / f"{image_id}.jpg", quality=95)
            save_cam(self.root / "cam" / f"{image_id}.npy", keys, cams[:, ::4, ::4], cams)

    def here(self) -> Results:
        return self._run(self.processes)

    def plain(self) -> Results:
        return self._run(1)

    def _run(self, processes: int) -> Results:
        words = ["--device", "cpu", "--num_processes", str(processes)]
        args = parse([*words, "--voc12_root", str(self.root), "--result_dir", str(self.root)])
        shutil.rmtree(args.ir_label_out_dir, ignore_errors=True)
        args.ir_label_out_dir.mkdir()
        run_over_images(MakeIRLabel(args), self.ids, args.resources)
        return [read_label_png(args.ir_label_out_dir / f"{i}.png") for i in self.ids]

    def close(self) -> None:
        self.folder.cleanup()


class Pooling(Comparison):
    """Non-discriminative pooling and its gradient: masked, or looping over images and classes."""

    tolerance = 1e-5
    on_gpu = True
    tau = 0.4
    note = (
        "plain: the gradient of each x[b, c] is as large as x; a loop over x.unbind() avoids that, "
        "and is several times faster"
    )

    def __init__(self, shape: tuple[int, int, int, int]):
        generator = torch.Generator().manual_seed(0)
        self.what = f"pooling with gradient, {' x '.join(map(str, shape))}"
        self.maps = torch.randn(shape, generator=generator)
        self.present = torch.rand(shape[:2], generator=generator) < 0.1
        self.present[:, 0] = True
        self.weights = torch.randn(shape[:2], generator=generator)

    def here(self) -> Results:
        return self._with_gradient(gndp2d)

    def plain(self) -> Results:
        return self._with_gradient(references.looped_pooling)

    def _with_gradient(self, pooling: Callable[..., torch.Tensor]) -> Results:
        maps = self.maps.clone().requires_grad_()
        logits = pooling(maps, self.present, self.tau)
        (logits * self.weights).sum().backward()
        return [logits.detach(), maps.grad]


def made_up_label_maps(batch: int, side: int) -> torch.Tensor:
    """Labels of blocks of pixels, B x side x side uint8: background, two classes, ignored."""
    generator = torch.Generator().manual_seed(0)
    block = max(side // 12, 1)
    coarse = torch.randint(0, 4, (batch, side, side), generator=generator)
    values = torch.tensor([0, 8, 12, 255], dtype=torch.uint8)
    fine = values[coarse].repeat_interleave(block, 1).repeat_interleave(block, 2)
    return fine[:, :side, :side].contiguous()


class IRNLoss(Comparison):
    """Loss of the boundary network and its gradient: sums over pairs, or maps of all pairs."""

    with_memory = on_gpu = True
    note = "the plain way's memory includes its index tensors; its time does not"
    num_labels = 21

    def __init__(self, batch: int, side: int, radius: int):
        generator = torch.Generator().manual_seed(0)
        self.what = f"IRN labels and loss, batch {batch} x {side} x {side}, radius {radius}"
        self.images = batch
        self.paths = PathIndex(radius, (side, side))
        self.loss = PairLoss(self.paths)
        self.edge = torch.randn(batch, 1, side, side, generator=generator)
        self.displacement = 5 * torch.randn(batch, 2, side, side, generator=generator)
        self.label_maps = made_up_label_maps(batch, side)

    def use(self, device: torch.device) -> None:
        super().use(device)
        self.label_maps = self.label_maps.cpu()  # as a loader gives them

    def prepare_plain(self) -> None:
        self.indices = references.PairIndices.of(self.paths, self.device)

    def here(self) -> Results:
        label_maps = self.label_maps.to(self.device)
        labels = affinity_labels(label_maps, self.paths, self.num_labels)
        return self._with_gradient(lambda *outputs: self.loss(*outputs, labels))

    def plain(self) -> Results:
        made = references.pair_labels(self.label_maps.numpy(), self.paths, self.num_labels)
        labels = [label.to(self.device) for label in made]
        return self._with_gradient(
            lambda *outputs: references.irn_losses(*outputs, labels, self.indices)
        )

    def _with_gradient(self, losses_of: Callable[..., Sequence[torch.Tensor]]) -> Results:
        outputs = [t.clone().requires_grad_() for t in (self.edge, self.displacement)]
        losses = torch.stack(list(losses_of(*outputs)))
        losses[-1].backward()
        return [losses.detach(), *(output.grad for output in outputs)]


class IRNLossAsOnGPU(IRNLoss):
    """The loss as it is computed on a GPU, against the processor's way: operations are counted."""

    with_memory = on_gpu = False
    tolerance = 0
    note = ""

    def __init__(self, batch: int, side: int, radius: int):
        super().__init__(batch, side, radius)
        self.what = f"IRN loss as on a GPU, batch {batch} x {side} x {side}, radius {radius}"
        self.found: dict[bool, Launches] = {}

    def _run(self, at_once: bool) -> Results:
        self.loss = PairLoss(self.paths, at_once)
        super().here()  # its tables are kept for the next steps
        with Counting() as counting:
            results = super().here()
        self.found[at_once] = counting.found()
        return results

    def here(self) -> Results:
        return self._run(at_once=True)

    def plain(self) -> Results:
        return self._run(at_once=False)

    def prepare_plain(self) -> None:
        """Nothing: the plain way is the processor's."""

    def remark(self) -> str:
        """Operations of a step's labels, loss and gradient."""
        now, before = self.found[True], self.found[False]
        return (
            f"labels, loss and gradient dispatch {now.operations} operations on a GPU "
            f"({before.operations} by the processor's way), {now.launches} of which are no views "
            f"({before.launches})"
        )


class IRNStep(IRNLoss):
    """A whole training step of the boundary network: forward, loss, backward, optimiser."""

    with_flops = True
    tolerance = 1e-3

    def __init__(self, batch: int, crop: int, radius: int, width: int):
        super().__init__(batch, crop // 4, radius)
        generator = torch.Generator().manual_seed(0)
        self.what = f"IRN training step, width {width}, batch {batch} x {crop}, radius {radius}"
        self.model = AffinityDisplacementLoss(self.paths, width=width, stem=min(width, 64)).train()
        with torch.no_grad():
            fill_by_recipe(self.model)
        self.inputs = torch.randn(batch, 3, crop, crop, generator=generator)

    def use(self, device: torch.device) -> None:
        super().use(device)
        self.parameters = [p for group in self.model.trainable_parameters() for p in group]
        # Rate 0: the work is the same, and so are the weights in all runs.
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.0, momentum=1e-4, weight_decay=1e-4)

    def here(self) -> Results:
        label_maps = self.label_maps.to(self.device)
        labels = affinity_labels(label_maps, self.paths, self.num_labels)
        with freed_memory_kept():  # as the training loop does
            return self._step(lambda: self.model(self.inputs, labels))

    @references.separate_normalisation()
    def plain(self) -> Results:
        made = references.pair_labels(self.label_maps.numpy(), self.paths, self.num_labels)
        labels = [label.to(self.device) for label in made]
        return self._step(
            lambda: references.irn_losses(
                *references.irn_outputs(self.model, self.inputs), labels, self.indices
            )
        )

    def _step(self, losses_of: Callable[[], Sequence[torch.Tensor]]) -> Results:
        self.optimizer.zero_grad()
        losses = torch.stack(list(losses_of()))
        losses[-1].backward()
        self.optimizer.step()
        gradients = torch.cat([parameter.grad.flatten() for parameter in self.parameters])
        return [losses.detach(), gradients]


class AdvCAMClimb(Comparison):
    """AdvCAM on one image: maps from the scores at hand, or by Grad-CAM with a second pass back."""

    tolerance = 1e-2  # single precision: entries of the gradient change sides

    def __init__(self, size: Size, width: int, iterations: int):
        self.what = (
            f"AdvCAM, {iterations} iterations, 2 classes, width {width}, {size[0]} x {size[1]}"
        )
        self.settings = AdvCAMSettings(iterations, scales=(1.0, 0.5))
        image, _, _ = photograph_and_cams(1, size)
        self.pairs = multi_scale_pairs(image, self.settings.scales)
        self.label = torch.zeros(20)
        self.label[[7, 11]] = 1
        self.model = CAM(20, width=width).requires_grad_(False)
        fill_by_recipe(self.model)

    def here(self) -> Results:
        weights = self.model.classifier.weight
        *_, sums = advcam(self._scores, weights, self.pairs, self.label, self.settings)
        return sums

    def _scores(self, pair: torch.Tensor) -> torch.Tensor:
        pair = pair.contiguous(memory_format=torch.channels_last)  # as the step does
        return self.model.classifier(self.model.backbone(pair)[-1])

    @references.separate_normalisation()
    def plain(self) -> Results:
        return references.advcam_maps(self.model, self.pairs, self.label, self.settings)


class Centroids(Comparison):
    """Where all pixels of a displacement field end: all at once, or one after the other."""

    tolerance = 1e-4

    def __init__(self, size: Size, moves: int):
        self.what = f"centroids, {size[0]} x {size[1]}, {moves} moves"
        rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
        self.field = np.stack([size[0] / 2 - rows, size[1] / 3 - columns]) * np.float32(0.1)
        self.moves = moves

    def here(self) -> Results:
        return [torch.from_numpy(instances.centroids(self.field, self.moves))]

    def plain(self) -> Results:
        return [torch.from_numpy(references.centroids(self.field, self.moves))]


class InstanceLabels(Comparison):
    """Instance labels of an image from its maps, boundaries and displacements."""

    tolerance = 1e-3  # scores, and shares of the image
    note = "compared: score, area and class of every instance"

    def __init__(self, size: Size):
        self.what = f"instance labels, {size[0]} x {size[1]}, 2 classes"
        self.size = size
        height, width = (-(-side // CAM_STRIDE) for side in size)
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        left = columns < width / 2  # two objects, side by side
        middle = np.where(left, 0.25, 0.75) * width
        self.field = np.stack([height / 2 - rows, middle - columns]) * np.float32(0.2)
        self.cams = np.stack([np.exp(-((columns - 0.25 * width) ** 2) / width), 0.8 * (1 - left)])
        self.cams = self.cams.astype(np.float32)
        self.edge = torch.from_numpy(0.9 * (np.abs(columns - width / 2) < 1))[None].float()
        self.keys = np.array([7, 11])

    def here(self) -> Results:
        found = instances.instances(self.cams, self.keys, self.field, self.edge, self.size)
        return self._compared(zip(*found, strict=True))

    def plain(self) -> Results:
        labels = references.instance_labels
        return self._compared(labels(self.cams, self.keys, self.field, self.edge, self.size))

    def _compared(self, found: Iterable[tuple[float, np.ndarray, int]]) -> Results:
        return [np.array([(score, mask.mean(), kind) for score, mask, kind in found])]


class SegStep(Comparison):
    """A training step of DeepLab-v2: forward at three scales, losses, backward, optimiser."""

    with_flops = True
    tolerance = 1e-3

    def __init__(self, batch: int, crop: int, width: int):
        self.what = f"DeepLab-v2 training step, ResNet-50 of width {width}, batch {batch} x {crop}"
        generator = torch.Generator().manual_seed(0)
        self.crops = torch.randn(batch, 3, crop, crop, generator=generator)
        self.images, size = batch, (batch, crop, crop)
        self.labels = torch.randint(0, 21, size, generator=generator, dtype=torch.uint8)
        arch = {"name": "resnet50", "width": width, "stem": min(width, 64)}
        self.model, self.plain_model = (DeepLabV2(**arch).train() for _ in range(2))
        with torch.no_grad():
            fill_by_recipe(self.model)
            fill_by_recipe(self.plain_model)

    def use(self, device: torch.device) -> None:
        super().use(device)
        self.model.to(memory_format=torch.channels_last)
        # Rate 0: the work is the same, and so are the weights in all runs.
        self.optimizers = [
            torch.optim.SGD(model.parameter_groups(0.0, 5e-4), lr=0.0, momentum=0.9)
            for model in (self.model, self.plain_model)
        ]

    def here(self) -> Results:
        images = self.crops.contiguous(memory_format=torch.channels_last)
        with freed_memory_kept():  # as the training loop does
            return self._step(0, lambda: scale_losses(self.model(images), self.labels))

    @references.separate_normalisation()
    def plain(self) -> Results:
        return self._step(
            1, lambda: references.seg_losses(self.plain_model, self.crops, self.labels)
        )

    def _step(self, which: int, losses_of: Callable[[], list[torch.Tensor]]) -> Results:
        optimizer = self.optimizers[which]
        optimizer.zero_grad()
        losses = torch.stack(losses_of())
        losses.sum().backward()
        optimizer.step()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return [losses.detach(), torch.cat([p.grad.flatten() for p in parameters])]


class SegPrediction(Comparison):
    """Predicting with a dense CRF: the step with its processes, or one image after the other."""

    tolerance = 1e-3  # shares of the labels
    note = "compared: share of every label in each image; the start of processes is included"

    def __init__(self, size: Size, images: int, processes: int, width: int):
        self.what = (
            f"segmentation with CRF, {images} images of {size[0]} x {size[1]}, width {width}, "
            f"{processes} processes"
        )
        self.images, self.folder = images, tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        (self.root / "JPEGImages").mkdir()
        self.ids = tuple(f"2000_{number:06}" for number in range(images))
        for number, image_id in enumerate(self.ids):
            image, _, _ = photograph_and_cams(number, size)
            Image.fromarray(image).save(self.root / "JPEGImages" / f"{image_id}.jpg", quality=95)
        words = ["--device", "cpu", "--num_processes", str(processes)]
        words += ["--voc12_root", str(self.root), "--result_dir", str(self.root)]
        self.args = parse(words)
        self.model = DeepLabV2(name="resnet50", width=width, stem=min(width, 64)).eval()
        with torch.no_grad():
            fill_by_recipe(self.model)
        save_checkpoint(self.args.seg_weights_name, self.model)

    def here(self) -> Results:
        task = MakeSegmentation(self.args)
        for folder in task.folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "palette").mkdir(parents=True)
        run_over_images(task, self.ids, self.args.resources)
        return _shares([read_label_png(task.folders["crf"] / f"{i}.png") for i in self.ids])

    def plain(self) -> Results:
        images = [read_image(self.args.info.image_path(i)) for i in self.ids]
        return _shares([references.seg_prediction(self.model, image) for image in images])

    def close(self) -> None:
        self.folder.cleanup()


def _shares(maps: list[np.ndarray]) -> Results:
    return [np.bincount(labels.ravel(), minlength=21) / labels.size for labels in maps]


class Neighbour(Comparison):
    """Training steps beside a busy process: threads that wait briefly, or as OpenMP does alone."""

    def __init__(self, crop: int, width: int, steps: int):
        self.steps, threads = steps, max(2, cpu_count())
        self.what = f"{steps} IRN training steps beside a busy process, {threads} threads"
        self.quiet: dict[bool, list[float]] = {True: [], False: []}
        self._processes = {}
        for briefly in (True, False):
            environment = {k: v for k, v in os.environ.items() if k not in _WAITING}
            environment |= {"GOMP_SPINCOUNT": SPINS} if briefly else {}
            words = ["-m", "tests.tools.neighbour_steps", *map(str, (crop, width, threads))]
            process = subprocess.Popen(
                [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=environment,
            )  # fmt: skip
            assert process.stdout.readline() == "ready\n"
            self._processes[briefly] = process

    def here(self) -> Results:
        return self._beside_a_neighbour(briefly=True)

    def plain(self) -> Results:
        return self._beside_a_neighbour(briefly=False)

    def _beside_a_neighbour(self, briefly: bool) -> Results:
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            return [np.array(self._steps(briefly))]
        finally:
            busy.kill()
            busy.wait()

    def _steps(self, briefly: bool) -> list[float]:
        process = self._processes[briefly]
        process.stdin.write(f"{self.steps}\n")
        process.stdin.flush()
        return list(map(float, process.stdout.readline().split()))

    def prepare_plain(self) -> None:
        for _ in range(3):
            for way, seconds in self.quiet.items():
                seconds.append(self._steps(way)[0])

    def plain_results(self, outcome: Any) -> Results:
        return [outcome[0][1:]]  # the loss, without the seconds

    here_results = plain_results

    def remark(self) -> str:
        briefly, alone = (median(self.quiet[way]) for way in (True, False))
        return f"without a neighbour: {alone:.2f} s / {briefly:.2f} s"

    def close(self) -> None:
        for process in self._processes.values():
            process.stdin.close()
            process.wait()


class Safeguards(Comparison):
    """Maps written and read with their seals and checks, a photograph checked; or as NumPy does."""

    def __init__(self, size: Size, images: int):
        self.what = f"maps of {images} images of {size[0]} x {size[1]} written and read"
        self.images, self.folder = images, tempfile.TemporaryDirectory()
        self.paths = [Path(self.folder.name, f"{n}.npy") for n in range(images)]
        image, self.cams, self.keys = photograph_and_cams(0, size)
        self.small = np.ascontiguousarray(self.cams[:, ::4, ::4])
        self.photograph = Path(self.folder.name, "a.jpg")
        Image.fromarray(image).save(self.photograph, quality=92)

    def here(self) -> Results:
        for path in self.paths:
            check_jpeg(self.photograph)
            save_cam(path, self.keys, self.small, self.cams)
        assert {output_state(path) for path in self.paths} == {State.WHOLE}
        return [load_cam(path)["high_res"] for path in self.paths]

    def plain(self) -> Results:
        content = {"keys": self.keys, "cam": self.small, "high_res": self.cams}
        for path in self.paths:
            np.save(path.with_name(f"plain_{path.name}"), content, allow_pickle=True)
        paths = [path.with_name(f"plain_{path.name}") for path in self.paths]
        return [np.load(path, allow_pickle=True).item()["high_res"] for path in paths]

    def close(self) -> None:
        self.folder.cleanup()


class PseudoMask(Comparison):
    """Pseudo mask of an image: boundary network, random walk, labels."""

    with_memory = on_gpu = True
    tolerance = 1e-3  # in a label map a single pixel would show
    threshold = 0.27

    def __init__(self, size: Size, width: int):
        self.what = f"pseudo mask, {size[0]} x {size[1]}, width {width}"
        self.size = size
        image, cams, self.keys = photograph_and_cams(1, size)
        (self.pair,) = multi_scale_pairs(image, (1.0,))
        self.cam = torch.from_numpy(cams[:, ::4, ::4].copy())
        self.model = EdgeDisplacement(crop_size=None, width=width, stem=min(width, 64)).eval()
        with torch.no_grad():
            fill_by_recipe(self.model)

    @torch.no_grad()
    def here(self) -> Results:
        edge, _ = self.model(self.pair)
        scores = upsampled_walk(propagate_to_edge(self.cam**1.3, edge), self.size)
        return [self._compared(label_map(scores.cpu().numpy(), self.keys, self.threshold))]

    @torch.no_grad()
    def plain(self) -> Results:
        logits, _ = references.irn_outputs(self.model, self.pair)
        edge = torch.sigmoid((logits[0] + logits[1].flip(-1)) / 2)
        mask = references.pseudo_mask(self.cam, edge, self.keys, self.threshold, self.size)
        return [self._compared(mask)]

    def _compared(self, mask: np.ndarray) -> np.ndarray:
        """Share of every label: the rounding of a dense walk decides a few pixels otherwise."""
        return np.bincount(mask.ravel(), minlength=21) / mask.size


class RIBIterations(Comparison):
    """RIB on one image: frozen layers run once, or whole passes and a single backward pass."""

    with_memory = with_flops = on_gpu = True
    num_classes = 20

    def __init__(self, size: Size, batch: int, crop: int, iterations: int, width: int):
        self.what = (
            f"RIB, {iterations} iterations, width {width}, {size[0]} x {size[1]}, "
            f"batch {batch} x {crop}"
        )
        # A higher rate than the paper's, so that the iterations differ by more than the tolerance.
        self.settings = RIBSettings(
            iterations=iterations, learning_rate=1e-4, margin=float("inf"), explode_ratio=1.0
        )
        image, _, _ = photograph_and_cams(1, size)
        self.pairs = multi_scale_pairs(image, self.settings.scales)
        self.label = torch.zeros(self.num_classes)
        self.label[[7, 11]] = 1
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(iterations, batch, 3, crop, crop, generator=generator)
        labels = (
            torch.rand(iterations, batch, self.num_classes, generator=generator) < 0.1
        ).float()
        self.batches = list(zip(images, labels * (1 - self.label), strict=True))
        self.model, self.plain_model = (CAM(self.num_classes, width=width) for _ in range(2))
        with torch.no_grad():
            fill_by_recipe(self.model)
        self.initial = {name: t.clone() for name, t in self.model.state_dict().items()}

    def use(self, device: torch.device) -> None:
        super().use(device)
        self.pairs = [pair.to(device) for pair in self.pairs]
        self.batches = [tuple(part.to(device) for part in batch) for batch in self.batches]

    def here(self) -> Results:
        self.model.load_state_dict(self.initial)
        batches = iter(self.batches)
        *_, last = fine_tune(self.model, self.pairs, self.label, batches, self.settings)
        return last.map_sums

    @references.separate_normalisation()
    def plain(self) -> Results:
        self.plain_model.load_state_dict(self.initial)
        return references.rib_map_sums(
            self.plain_model, self.settings, self.pairs, self.label, iter(self.batches)
        )


class CropLoading(Comparison):
    """What a loader does for RIB's batches: bytes, or normalised crops."""

    tolerance = 1e-6
    long_range = (320, 640)
    note = "here: the crops are normalised later, on the device"

    def __init__(self, size: Size, crops: int, crop: int):
        self.what = f"{crops} crops of {crop} from JPEGs of {size[0]} x {size[1]}"
        self.images, self.crop = crops, crop
        self.folder = tempfile.TemporaryDirectory()
        self.paths = [Path(self.folder.name) / f"{number}.jpg" for number in range(crops)]
        for number, path in enumerate(self.paths):
            Image.fromarray(photograph_and_cams(number, size)[0]).save(path, quality=90)

    def here(self) -> Results:
        crops = []
        for number, path in enumerate(self.paths):
            image, rng = read_image(path), Random(number)
            crops.append(training_crop(image, self.long_range, self.crop, rng))
        return torch.stack(crops)

    def here_results(self, outcome: torch.Tensor) -> Results:
        return [normalized(outcome, self.device)]

    def plain(self) -> Results:
        crops = [
            references.training_crop(path, self.long_range, self.crop, Random(number))
            for number, path in enumerate(self.paths)
        ]
        return [torch.stack(crops)]

    def close(self) -> None:
        self.folder.cleanup()


class _TimedBatches:
    """In place of a task's batches: adds up the seconds spent waiting for them."""

    def __init__(self, batches: Any):
        self.batches, self.seconds = batches, 0.0

    def of(self, image_id: str) -> Iterator:
        with contextlib.closing(self.batches.of(image_id)) as batches:
            while True:
                seconds, batch = timed(lambda: next(batches, None))
                self.seconds += seconds
                if batch is None:
                    return
                yield batch


class RIBLoading(Comparison):
    """The RIB step with crops read ahead by other processes, or read when they are needed."""

    on_gpu = True
    note = "plain: the project's own step with --num_workers 0"

    def __init__(self, images: int, batch: int, crop: int, iterations: int, width: int):
        self.what = (
            f"RIB step with its loader, {images} images, width {width}, batch {batch} x {crop}"
        )
        self.images = images
        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name)
        make_sample(root / "data", num_train=max(images, 8), num_val=2)
        model = Net(20, width=width, stem=min(width, 64))
        with torch.no_grad():
            fill_by_recipe(model)
        save_checkpoint(root / "cam.pth", model)
        self.words = ["--voc12_root", root / "data", "--result_dir", root / "result"]
        self.words += ["--cam_weights_name", root / "cam.pth", "--cam_crop_size", crop]
        self.words += ["--RIB_iter", iterations, "--RIB_batch_size", batch, "--num_processes", 1]
        args = parse(list(map(str, self.words)))
        prepare(args.info, args.list_dir)
        self.waiting: dict[bool, list[float]] = {True: [], False: []}

    def here(self) -> Results:
        return self._run(read_ahead=True)

    def plain(self) -> Results:
        return self._run(read_ahead=False)

    def _run(self, read_ahead: bool) -> Results:
        words = [
            *self.words,
            "--device",
            self.device,
            *([] if read_ahead else ["--num_workers", 0]),
        ]
        args = parse(list(map(str, words)))
        shutil.rmtree(args.cam_out_dir, ignore_errors=True)
        args.cam_out_dir.mkdir(parents=True)
        ids = args.image_ids("infer")[: self.images]
        task = MakeRIBCAM(args)
        task.start(self.device, list(ids))
        task.batches = _TimedBatches(task.batches)
        seconds, _ = timed(lambda: [task.one(image_id) for image_id in ids], self.device)
        task.finish()
        self.waiting[read_ahead].append(task.batches.seconds / seconds)
        return [load_cam(args.cam_out_dir / f"{image_id}.npy")["high_res"] for image_id in ids]

    def remark(self) -> str:
        ahead, in_turn = (median(self.waiting[way]) for way in (True, False))
        return (
            f"{self.note}; share of the time spent waiting for crops: {in_turn:.1%} / {ahead:.1%}"
        )

    def close(self) -> None:
        self.folder.cleanup()


class Entry(NamedTuple):
    """A comparison with its sizes (those of the report, and toy sizes) and its goals."""

    kind: type[Comparison]
    sizes: dict[str, Any]
    toy_sizes: dict[str, Any]
    goal_ratio: float | None = None
    goal_seconds: float | None = None  # of the project's way
    goal_memory: float | None = None  # plain over here
    goal_share: float | None = None  # of the project's way in the rate of a matrix product
    # Sizes for an image or crop whose longer side is given, and the longest that the plain way can
    # treat in some minutes and 16 GiB.
    at: Callable[[int], dict[str, Any]] | None = None
    largest: int | None = None


def photo_size(side: int) -> Size:
    """A photograph's size by its longer side: 3 to 4."""
    return (side * 3 // 4, side)


def _walk_at(side: int) -> dict[str, Any]:
    return {"size": get_strided_size(photo_size(side), 4), "classes": 2}


def _irn_at(width: int) -> Callable[[int], dict[str, Any]]:
    return lambda side: {"batch": 4, "crop": side, "radius": 10, "width": width}


_TOY_STEP = {"batch": 2, "crop": 64, "radius": 4, "width": 8}
_RIB = {"batch": 4, "crop": 256, "iterations": 3, "width": 32}

COMPARISONS = {
    "walk": Entry(
        WalkByOneSquaring,
        {"size": (94, 125), "classes": 2},
        {"size": (11, 14), "classes": 2},
        goal_ratio=100,
        goal_seconds=2,
        goal_memory=20,
        at=_walk_at,
        largest=512,
    ),
    "walk_small": Entry(Walk, {"size": (32, 42), "classes": 2}, {"size": (9, 12), "classes": 1}),
    "scoring": Entry(
        Scoring,
        {"size": (375, 500), "images": 24, "thresholds": 30},
        {"size": (40, 52), "images": 3, "thresholds": 4},
        goal_ratio=20,
        at=lambda side: {"size": photo_size(side), "images": 24, "thresholds": 30},
    ),
    "ir_labels": Entry(
        IRLabels,
        {"size": (375, 500), "images": 4},
        {"size": (60, 80), "images": 2},
        goal_ratio=1.15,
        at=lambda side: {"size": photo_size(side), "images": 4},
    ),
    "ir_label_processes": Entry(
        IRLabelProcesses,
        {"size": (375, 500), "images": 192, "processes": 2},
        {"size": (30, 40), "images": 2, "processes": 1},
        goal_ratio=1.8,
    ),
    "pooling": Entry(
        Pooling,
        {"shape": (26, 20, 32, 32)},
        {"shape": (3, 4, 6, 5)},
        goal_ratio=20,
        at=lambda side: {"shape": (26, 20, side // 16, side // 16)},
    ),
    "irn_loss": Entry(
        IRNLoss,
        {"batch": 4, "side": 128, "radius": 10},
        {"batch": 2, "side": 16, "radius": 4},
        at=lambda side: {"batch": 4, "side": side // 4, "radius": 10},
    ),
    "irn_step": Entry(
        IRNStep,
        {"batch": 4, "crop": 512, "radius": 10, "width": 64},
        _TOY_STEP,
        goal_ratio=2,
        goal_memory=2,
        at=_irn_at(width=64),
    ),
    "irn_step_thin": Entry(
        IRNStep,
        {"batch": 4, "crop": 512, "radius": 10, "width": 16},
        _TOY_STEP,
        goal_ratio=2,
        goal_memory=2,
        at=_irn_at(width=16),
    ),
    "irn_launches": Entry(
        IRNLossAsOnGPU,
        {"batch": 4, "side": 128, "radius": 10},
        {"batch": 2, "side": 20, "radius": 4},
    ),
    "rib": Entry(
        RIBIterations,
        {"size": (240, 320), **_RIB},
        {"size": (64, 80), "batch": 2, "crop": 32, "iterations": 2, "width": 8},
        goal_ratio=1.1,
        goal_share=0.65,
        at=lambda side: {"size": photo_size(side), **_RIB},
    ),
    "advcam": Entry(
        AdvCAMClimb,
        {"size": (240, 320), "width": 32, "iterations": 4},
        {"size": (48, 64), "width": 8, "iterations": 2},
    ),
    "centroids": Entry(
        Centroids,
        {"size": (24, 32), "moves": 100},
        {"size": (6, 8), "moves": 10},
        goal_ratio=10,
    ),
    "instance_labels": Entry(
        InstanceLabels,
        {"size": (120, 160)},
        {"size": (40, 56)},
        goal_ratio=10,
    ),
    "seg_step": Entry(
        SegStep,
        {"batch": 5, "crop": 161, "width": 32},
        {"batch": 2, "crop": 33, "width": 8},
        goal_ratio=1.3,
    ),
    "seg_prediction": Entry(
        SegPrediction,
        {"size": (375, 500), "images": 96, "processes": 2, "width": 16},
        {"size": (40, 52), "images": 2, "processes": 1, "width": 8},
        goal_ratio=2,
        at=lambda side: {"size": photo_size(side), "images": 8, "processes": 2, "width": 16},
    ),
    "crops": Entry(
        CropLoading,
        {"size": (375, 500), "crops": 20, "crop": 512},
        {"size": (40, 60), "crops": 3, "crop": 400},
        goal_ratio=2,
        at=lambda side: {"size": photo_size(side), "crops": 20, "crop": 512},
    ),
    "rib_loading": Entry(
        RIBLoading,
        {"images": 4, "batch": 20, "crop": 128, "iterations": 4, "width": 16},
        {"images": 2, "batch": 2, "crop": 32, "iterations": 1, "width": 8},
    ),
    "neighbour": Entry(
        Neighbour,
        {"crop": 192, "width": 16, "steps": 10},
        {"crop": 64, "width": 8, "steps": 1},
        goal_ratio=2,
    ),
    "safeguards": Entry(
        Safeguards,
        {"size": (375, 500), "images": 20},
        {"size": (40, 52), "images": 2},
    ),
    "pseudo_mask": Entry(
        PseudoMask,
        {"size": (144, 192), "width": 16},
        {"size": (48, 64), "width": 8},
        at=lambda side: {"size": photo_size(side), "width": 16},
        largest=256,
    ),
}


def made_up_cams(rng: np.random.Generator, size: Size, classes: int) -> np.ndarray:
    """Smooth random maps, K x H x W float32 in 0..1."""
    noise = np.stack([smooth_noise(rng, size, cell=max(size) / 5) for _ in range(classes)])
    cams = np.maximum(noise, 0)
    return cams / cams.max(axis=(1, 2), keepdims=True)
