"""The comparisons of `tests/tools/benchmark.py`: input, this project, reference implementation."""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from Dataset.objects import OBJECT_CLASSES, smooth_noise
from Dataset.scene import draw_scene
from misc.affinity_loss import PairLoss
from misc.cams import load_cam, save_cam
from misc.data.datasets import multi_scale_pairs
from misc.indexing import PathIndex, affinity_labels, propagate_to_edge
from misc.labels import read_label_png, save_label_png
from misc.metrics import ThresholdScores
from misc.rib import RIBSettings, fine_tune
from misc.runtime.devices import freed_memory_kept
from misc.torchutils import gndp2d
from net.backbones import fold_norms
from net.resnet50_cam import CAM
from net.resnet50_irn import Net
from tests import references
from tests.weights import fill_by_recipe

Size = tuple[int, int]
Results = Sequence[torch.Tensor | np.ndarray]

CPU = torch.device("cpu")


def timed(work: Callable[[], Any], device: torch.device = CPU) -> tuple[float, Any]:
    """Return the seconds of a call until the device has finished, and its result."""
    synchronize(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - start, result


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Comparison:
    """A computation on made-up input, by the project and by a reference implementation."""

    tolerance = 1e-4  # allowed difference of the results, as a fraction of the largest value
    with_memory = False  # peaks are measured too
    on_gpu = False  # --device applies

    def __init__(self, title: str, device: torch.device):
        self.title, self.device = title, device if self.on_gpu else CPU

    def ours(self) -> Results:
        """The results of this project."""
        raise NotImplementedError

    def reference(self) -> Results:
        """The results of the reference implementation."""
        raise NotImplementedError

    def timed_reference(self) -> tuple[float, Results]:
        """The seconds of the reference implementation, and its results."""
        return timed(self.reference, self.device)


class Walk(Comparison):
    """Random walk: shifted views step by step, or a dense matrix that is squared.

    Eight squarings take minutes: one is timed and counted eight times.
    """

    with_memory = on_gpu = True
    beta, radius, exp_times = 10, 5, 8

    def __init__(self, device: torch.device, size: Size, classes: int):
        super().__init__(f"random walk, {size[0]} x {size[1]}, {classes} classes", device)
        rng = np.random.default_rng(0)
        noise = smooth_noise(rng, size, cell=12)
        edge = torch.from_numpy(0.95 * np.exp(-((noise / 0.15) ** 2)))[None]
        self.edge = edge.to(self.device)
        self.x = torch.from_numpy(made_up_cams(rng, size, classes)).to(self.device) ** 1.3

    def ours(self) -> Results:
        return [propagate_to_edge(self.x, self.edge, self.radius, self.beta, self.exp_times)]

    def timed_reference(self) -> tuple[float, Results]:
        building, matrix = timed(
            lambda: references.dense_transition_matrix(self.edge, self.radius, self.beta),
            self.device,
        )
        squaring, squared = timed(lambda: matrix @ matrix, self.device)
        walked = (self.x * (1 - self.edge)).flatten(1)
        for _ in range(2 ** (self.exp_times - 1)):  # as often as the whole power needs; not timed
            walked = walked @ squared
        walked = walked.view(len(self.x), 1, *self.edge.shape[-2:])
        return building + self.exp_times * squaring, [walked]


class Scoring(Comparison):
    """Scores of saved CAMs at many thresholds: one pass, or all files again for each of them."""

    tolerance = 0
    num_labels = 21

    def __init__(self, device: torch.device, size: Size, images: int, thresholds: int):
        title = f"scores at {thresholds} thresholds, {images} files of {size[0]} x {size[1]}"
        super().__init__(title, device)
        rng = np.random.default_rng(0)
        self.thresholds = np.arange(20, 20 + thresholds) / 100
        self.folder = tempfile.TemporaryDirectory()  # removed with this object
        stems = [Path(self.folder.name) / f"image_{i}" for i in range(images)]
        self.files = [(stem.with_suffix(".npy"), stem.with_suffix(".png")) for stem in stems]
        for i, (cam_file, mask_file) in enumerate(self.files):
            keys = np.sort(rng.choice(self.num_labels - 1, 1 + i % 3, replace=False))
            cams = made_up_cams(rng, size, len(keys))
            mask = references.argmax_labels(np.roll(cams, 9, axis=2), keys, 0.3).astype(np.uint8)
            mask[:3] = 255
            save_cam(cam_file, keys, cams[:, ::4, ::4], cams)
            save_label_png(mask_file, mask)

    def ours(self) -> Results:
        scores = ThresholdScores(self.thresholds, self.num_labels)
        for cam_file, mask_file in self.files:
            maps = load_cam(cam_file)
            scores.add(maps["high_res"], maps["keys"], read_label_png(mask_file))
        return [scores.confusions]

    def reference(self) -> Results:
        files = zip(*self.files, strict=True)
        return [references.confusions_by_threshold(*files, self.thresholds, self.num_labels)]


class Pooling(Comparison):
    """GNDRP and its gradient: masked, or in a loop over images and classes."""

    tolerance = 1e-5
    on_gpu = True

    def __init__(self, device: torch.device, shape: tuple[int, int, int, int]):
        super().__init__(f"pooling with gradient, {' x '.join(map(str, shape))}", device)
        generator = torch.Generator().manual_seed(0)
        self.maps = torch.randn(shape, generator=generator).to(self.device)
        present = torch.rand(shape[:2], generator=generator) < 0.1
        present[:, 0] = True
        self.present = present.to(self.device)
        self.weights = torch.randn(shape[:2], generator=generator).to(self.device)

    def ours(self) -> Results:
        return self._with_gradient(gndp2d)

    def reference(self) -> Results:
        return self._with_gradient(references.looped_pooling)

    def _with_gradient(self, pooling: Callable[..., torch.Tensor]) -> Results:
        maps = self.maps.clone().requires_grad_()
        logits = pooling(maps, self.present, 0.4)
        (logits * self.weights).sum().backward()
        return [logits.detach(), maps.grad]


class IRNStep(Comparison):
    """A training step of IRN: labels, forward, loss, backward, optimizer.

    The loss is a sum over pairs, or taken from maps of all pairs.
    """

    with_memory = on_gpu = True
    tolerance = 1e-3
    num_labels = 21

    def __init__(self, device: torch.device, batch: int, crop: int, radius: int, width: int):
        title = f"IRN training step, width {width}, batch {batch} x {crop}, radius {radius}"
        super().__init__(title, device)
        side = crop // 4
        self.paths = PathIndex(radius, (side, side))
        self.indices = references.PairIndices.of(self.paths, self.device)
        self.label_maps = made_up_label_maps(batch, side)  # on the host, as a loader gives them
        self.pair_loss = PairLoss(self.paths)
        model = Net(width=width, stem=min(width, 64)).train()
        fill_by_recipe(model)
        self.model = model.to(self.device)
        fold_norms(self.model.backbone)  # as in the training loop
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(batch, 3, crop, crop, generator=generator).to(self.device)
        self.parameters = [p for group in model.trainable_parameters() for p in group]
        # At a learning rate of 0 the work is the same, and the weights are those of all runs.
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.0, momentum=1e-4, weight_decay=1e-4)

    def ours(self) -> Results:
        labels = affinity_labels(self.label_maps.to(self.device), self.paths, self.num_labels)
        with freed_memory_kept():  # as in the training loop
            return self._step(lambda: self.pair_loss(*self.model(self.images), labels))

    @references.separate_normalisation()
    def reference(self) -> Results:
        made = references.pair_labels(self.label_maps.numpy(), self.paths, self.num_labels)
        labels = [label.to(self.device) for label in made]
        return self._step(
            lambda: references.irn_losses(
                *references.irn_outputs(self.model, self.images), labels, self.indices
            )
        )

    def _step(self, losses_of: Callable[[], Sequence[torch.Tensor]]) -> Results:
        self.optimizer.zero_grad()
        losses = torch.stack(list(losses_of()))
        losses[-1].backward()
        self.optimizer.step()
        gradients = torch.cat([parameter.grad.flatten() for parameter in self.parameters])
        return [losses.detach(), gradients]


class RIB(Comparison):
    """RIB on one image: frozen layers run once, or whole passes and a single backward pass."""

    with_memory = on_gpu = True
    num_classes = 20

    def __init__(
        self, device: torch.device, size: Size, batch: int, crop: int, iterations: int, width: int
    ):
        title = f"RIB, {iterations} iterations, width {width}, {size[0]} x {size[1]}"
        super().__init__(f"{title}, batch {batch} x {crop}", device)
        # A higher learning rate than the paper's: iterations differ by more than the tolerance.
        self.settings = RIBSettings(
            iterations=iterations, learning_rate=1e-4, margin=float("inf"), explode_ratio=1.0
        )
        scene = draw_scene(np.random.default_rng(1), OBJECT_CLASSES[3:5], size)
        pairs = multi_scale_pairs(scene.image, self.settings.scales)
        self.pairs = [pair.to(self.device) for pair in pairs]
        label = torch.zeros(self.num_classes)
        label[[7, 11]] = 1
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(iterations, batch, 3, crop, crop, generator=generator)
        labels = torch.rand(iterations, batch, self.num_classes, generator=generator) < 0.1
        labels = labels * (1 - label)
        self.label = label.to(self.device)
        self.batches = list(zip(images.to(self.device), labels.to(self.device), strict=True))
        model = CAM(self.num_classes, width=width)
        fill_by_recipe(model)
        self.plain = copy.deepcopy(model).to(self.device)
        layout = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        self.model = model.to(self.device, memory_format=layout)  # as the step does it
        self.trained = {name: t.clone() for name, t in model.state_dict().items()}

    def ours(self) -> Results:
        self.model.load_state_dict(self.trained)
        batches = iter(self.batches)
        *_, last = fine_tune(self.model, self.pairs, self.label, batches, self.settings)
        return last.map_sums

    @references.separate_normalisation()
    def reference(self) -> Results:
        self.plain.load_state_dict(self.trained)
        return references.rib_map_sums(
            self.plain, self.settings, self.pairs, self.label, iter(self.batches)
        )


class Entry(NamedTuple):
    """A comparison with the sizes that are reported, and with sizes for a test."""

    kind: type[Comparison]
    sizes: dict[str, Any]
    small: dict[str, Any]


_SMALL_STEP = {"batch": 2, "crop": 64, "radius": 4, "width": 8}
_IRN = {"batch": 4, "crop": 512, "radius": 10}
_RIB = {"size": (240, 320), "batch": 4, "crop": 256, "iterations": 3, "width": 32}
_SMALL_RIB = {"size": (64, 80), "batch": 2, "crop": 32, "iterations": 2, "width": 8}

COMPARISONS = {
    "walk": Entry(Walk, {"size": (94, 125), "classes": 2}, {"size": (11, 14), "classes": 2}),
    "scoring": Entry(
        Scoring,
        {"size": (375, 500), "images": 24, "thresholds": 30},
        {"size": (40, 52), "images": 3, "thresholds": 4},
    ),
    "pooling": Entry(Pooling, {"shape": (26, 20, 32, 32)}, {"shape": (3, 4, 6, 5)}),
    "irn_step": Entry(IRNStep, {**_IRN, "width": 64}, _SMALL_STEP),
    "irn_step_width16": Entry(IRNStep, {**_IRN, "width": 16}, _SMALL_STEP),
    "rib": Entry(RIB, _RIB, _SMALL_RIB),
}


def made_up_cams(rng: np.random.Generator, size: Size, classes: int) -> np.ndarray:
    """Smooth random maps, K x H x W float32 in 0..1."""
    noise = np.stack([smooth_noise(rng, size, cell=max(size) / 5) for _ in range(classes)])
    cams = np.maximum(noise, 0)
    return cams / cams.max(axis=(1, 2), keepdims=True)


def made_up_label_maps(batch: int, side: int) -> torch.Tensor:
    """Labels of blocks of pixels, B x side x side uint8: background, two classes, ignored."""
    generator = torch.Generator().manual_seed(0)
    block = max(side // 12, 1)
    coarse = torch.randint(0, 4, (batch, side, side), generator=generator)
    values = torch.tensor([0, 8, 12, 255], dtype=torch.uint8)
    fine = values[coarse].repeat_interleave(block, 1).repeat_interleave(block, 2)
    return fine[:, :side, :side].contiguous()
