"""The paper's toy experiment (Sec. 3, Figure 1): at which layer a network loses information.

    python -m Demo.toy_experiment --mnist_root DIR [--mnist_download]

Twos and eights on a canvas; few come with a small shape that tells the class as well. HGR (high
gradient ratio), the fraction of a region's pixels on which a layer depends, falls at the last layer
far more on the shapes than on the digits. RIB's fine-tuning is then tried on the same network.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import argparse
import copy
import gzip
import logging
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.datasets import MNIST

from misc.cli.flags import numbers
from misc.errors import UserError
from misc.runtime.programs import said_plainly
from misc.storage.manifest import make_writable
from misc.storage.outputs import require_own, write_json
from step.visualize import save_figure

log = logging.getLogger("toy_experiment")

DIGITS = (2, 8)  # the classes
NUM_LAYERS = 6  # five convolutions and a fully connected layer
WEIGHT_DECAY = 1e-4  # of the fine-tuning, as in RIB
FIGURE = "toy_experiment.png"
REGIONS = ("discriminative", "non_discriminative", "irrelevant")  # digit, shape, the rest
# Read off Figure 1, within 0.02; nan where the curve is hidden behind others.
PUBLISHED = {
    "discriminative": (1.0, 1.0, 0.99, 0.93, 0.62, 0.40),
    "non_discriminative": (1.0, 1.0, 1.0, 1.0, 0.86, 0.12),
    "irrelevant": (1.0, 0.0, np.nan, np.nan, 0.03, 0.05),
}
_DIAMOND, _SQUARE = 0.16, 0.13  # of the canvas' side: the shapes of a two and of an eight
_TRAINED = 0.8  # fraction of the images
_KEPT = 0.5  # grey value above which a pixel belongs to the digit's region
_COLOURS = dict(zip(REGIONS, ("tab:red", "tab:blue", "tab:gray"), strict=True))


@dataclass(frozen=True)
class Toy:
    """Settings that the paper leaves free; README has a table of what was tried."""

    seeds: tuple[int, ...] = (0, 1, 2)
    images: int = 2000
    side: int = 35
    channels: int = 8
    strides: tuple[int, ...] = (1, 1, 1, 1, 1)
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 3e-3
    final_activation: str = "sigmoid"
    shape_share: float = 0.1
    threshold: float = 0.3
    rib_iter: int = 10
    rib_lr: float = 5e-5
    rib_stop: float = 100.0  # the paper's margin of 600 is that of six rows
    rib_batch_size: int = 20
    rib_images: int = 30


class Canvases(NamedTuple):
    """images: N x 1 x H x W in 0..1. labels: N, indices of DIGITS. digits, shapes: N x H x W."""

    images: Tensor
    labels: Tensor
    digits: Tensor
    shapes: Tensor

    def regions(self) -> dict[str, Tensor]:
        """N x H x W bool by name."""
        both = self.digits | self.shapes
        return dict(zip(REGIONS, (self.digits, self.shapes, ~both), strict=True))


class ToyNet(nn.Module):
    """Five 3x3 convolutions without biases, ReLU after each, and a fully connected layer.

    side: of the images. channels, strides: of the convolutions. Padding is circular, so that the
    border of the canvas is like every other place of it.
    """

    def __init__(self, side: int, channels: int = 8, strides: tuple[int, ...] = (1,) * 5):
        super().__init__()
        inputs = (1, *[channels] * (len(strides) - 1))
        kind = {"padding": 1, "padding_mode": "circular", "bias": False}
        self.convs = nn.ModuleList(
            nn.Conv2d(inner, channels, 3, stride=stride, **kind)
            for inner, stride in zip(inputs, strides, strict=True)
        )
        for stride in strides:
            side = (side - 1) // stride + 1
        self.fc = nn.Linear(channels * side * side, len(DIGITS), bias=False)

    def layers(self, images: Tensor) -> list[Tensor]:
        """N x 1 x H x W -> output of each convolution, before its ReLU, and the logits N x C."""
        outputs, features = [], images
        for conv in self.convs:
            outputs.append(conv(features))
            features = F.relu(outputs[-1])
        return [*outputs, self.fc(features.flatten(1))]

    def forward(self, images: Tensor) -> Tensor:
        """N x 1 x H x W -> logits, N x C."""
        return self.layers(images)[-1]


def gradient_maps(network: ToyNet, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient maps G1 .. G6 of images N x 1 x H x W and labels N (paper, Sec. 3).

    Returns N x 6 x H x W in 0..1: the absolute gradient of a layer's summed features, for the last
    one of the logit of the image's class, over its maximum.
    """
    images = images.detach().requires_grad_()
    *features, logits = network.layers(images)
    sums = [*(f.sum() for f in features), logits.gather(1, labels[:, None]).sum()]
    gradients = [torch.autograd.grad(s, images, retain_graph=True)[0].abs().sum(1) for s in sums]
    return normalized(torch.stack(gradients, dim=1))


def normalized(maps: Tensor) -> Tensor:
    """Maps ... x H x W over their maxima; maps of zeros stay so."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def high_gradient_ratio(maps: Tensor, region: Tensor, threshold: float = 0.3) -> Tensor:
    """HGR: the fraction of a region's pixels whose map is above the threshold, mean over images.

    maps: N x L x H x W in 0..1. region: N x H x W bool, no image without a pixel. Returns L values.
    """
    high = ((maps > threshold) & region[:, None]).sum((-2, -1))
    return (high / region.sum((-2, -1))[:, None]).mean(0)


def fine_tuned_gradients(
    network: ToyNet, image: Tensor, label: int, others: list, rate: float, stop: float = np.inf
) -> Iterator[Tensor]:
    """RIB on the toy network: a copy is fine-tuned on one image by its logits alone.

    image: 1 x H x W. others: of each iteration images B x 1 x H x W and labels B of other classes,
    which keep all logits from growing together. stop: margin; the map whose logit is above it is
    the last. Yields |gradient of the logit| H x W before each step, first that of `network` itself.
    """
    tuned, own = copy.deepcopy(network), torch.tensor([label])
    optimizer = torch.optim.SGD(tuned.parameters(), rate, weight_decay=WEIGHT_DECAY)
    for batch, labels in others:
        yield _logit_gradient(tuned, image, label)
        logits = tuned(torch.cat([image[None], batch]))
        if not logits[0, label].abs() <= stop:
            return
        loss = -logits.gather(1, torch.cat([own, labels])[:, None]).sum()  # no final activation
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _logit_gradient(network: ToyNet, image: Tensor, label: int) -> Tensor:
    image = image[None].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(image)[0, label], image)
    return gradient[0].abs().sum(0)


def final_loss(logits: Tensor, labels: Tensor, activation: str) -> Tensor:
    """Loss of a training by its final activation; none: own logits up, others down, endlessly."""
    if activation == "softmax":
        return F.cross_entropy(logits, labels)
    truth = F.one_hot(labels, logits.shape[1]).to(logits)
    if activation == "sigmoid":
        return F.multilabel_soft_margin_loss(logits, truth)
    return -(logits * (2 * truth - 1)).mean()


def read_mnist(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Twos and eights of MNIST, N x 28 x 28 uint8, and which they are: of one part or both."""
    folder, parts = root / "MNIST" / "raw", []
    for part in ("train", "t10k"):
        files = [f"{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        found = [next(iter(sorted(folder.glob(f"{name}*"))), None) for name in files]
        if None not in found:
            images, labels = _read_idx(found[0], 3), _read_idx(found[1], 1)
            if len(images) != len(labels) or images.shape[1:] != (28, 28):
                raise UserError(f"{folder}: images and labels of {part} do not belong together")
            chosen = np.isin(labels, DIGITS)
            parts.append((images[chosen], labels[chosen]))
    if not parts:
        raise UserError(f"--mnist_root {root}: has no MNIST/raw/; say --mnist_download")
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        if data[:4] != bytes((0, 0, 8, dimensions)):
            raise ValueError
        shape = np.frombuffer(data, ">u4", dimensions, offset=4).tolist()
        return np.frombuffer(data, np.uint8, offset=4 * (1 + dimensions)).reshape(shape)
    except (OSError, ValueError, EOFError, zlib.error):
        raise UserError(f"{path}: is damaged, or not a file of MNIST; download it again") from None


def shape_mask(value: int, side: int) -> np.ndarray:
    """The shape that goes with a digit, n x n bool: a diamond with a 2, a square with an 8."""
    n = round((_DIAMOND if value == DIGITS[0] else _SQUARE) * side)
    if value != DIGITS[0]:
        return np.ones((n, n), bool)
    offsets = np.abs(np.arange(n) - (n - 1) / 2)
    return offsets[:, None] + offsets <= (n - 1) / 2 + 1e-6


def compose(
    rng: np.random.Generator, digits: np.ndarray, values: np.ndarray, side: int, fraction: float
) -> Canvases:
    """Each digit in the middle of a canvas, a fraction with their shape somewhere beside it.

    digits: N x 28 x 28 uint8. values: N, of DIGITS. side: of the canvas, pixels.
    """
    images = np.zeros((len(digits), side, side), np.float32)
    shapes = np.zeros(images.shape, bool)
    for image, shape, digit, value in zip(images, shapes, digits, values, strict=True):
        rows, columns = (np.nonzero(digit.any(axis))[0] for axis in (1, 0))
        cut = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / 255
        top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
        image[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
        if rng.random() < fraction:
            shape[:] = _placed(rng, shape_mask(value, side), image > 0)
    digit_pixels = images > _KEPT
    images[shapes] = 1.0
    labels = np.asarray(values == DIGITS[1], np.int64)
    arrays = (images[:, None], labels, digit_pixels, shapes)
    return Canvases(*map(torch.from_numpy, arrays))


def _placed(rng: np.random.Generator, mask: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The shape at a random place that neither meets nor touches what is taken, H x W bool."""
    n, side = len(mask), len(taken)
    room = np.pad(taken, 1)
    windows = np.lib.stride_tricks.sliding_window_view(room, (n + 2, n + 2))
    places = np.argwhere(~windows.any((2, 3)))
    if len(places) == 0:
        raise UserError(f"--side {side}: a digit leaves no place for a shape; give a larger one")
    y, x = places[rng.integers(len(places))]
    placed = np.zeros_like(taken)
    placed[y : y + n, x : x + n] = mask
    return placed


def trained(
    digits: np.ndarray, values: np.ndarray, toy: Toy, seed: int
) -> tuple[ToyNet, Canvases, Canvases]:
    """A network, the canvases that it was trained on, and others that all have their shape."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits))[: toy.images]
    first, rest = np.split(order, [round(_TRAINED * len(order))])
    learned = compose(rng, digits[first], values[first], toy.side, toy.shape_share)
    shown = compose(rng, digits[rest], values[rest], toy.side, 1.0)
    torch.manual_seed(seed)
    network = ToyNet(toy.side, toy.channels, toy.strides)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), toy.learning_rate)
    for _ in range(toy.epochs):
        for chosen in torch.randperm(len(first), generator=generator).split(toy.batch_size):
            logits = network(learned.images[chosen])
            loss = final_loss(logits, learned.labels[chosen], toy.final_activation)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network, learned, shown


def measure(network: ToyNet, shown: Canvases, toy: Toy) -> dict[str, list[float]]:
    """HGR by region, one value for each of the six layers."""
    pairs = zip(shown.images.split(100), shown.labels.split(100), strict=True)
    return _by_region(torch.cat([gradient_maps(network, *pair) for pair in pairs]), shown, toy)


def _by_region(maps: Tensor, shown: Canvases, toy: Toy) -> dict[str, list[float]]:
    return {
        name: high_gradient_ratio(maps, region[: len(maps)], toy.threshold).tolist()
        for name, region in shown.regions().items()
    }


def fine_tune_each(
    network: ToyNet, learned: Canvases, shown: Canvases, toy: Toy, seed: int
) -> dict[str, dict[str, list[float]]]:
    """RIB's counterpart: HGR of the logit's map in iterations k = 0 .. --rib_iter - 1, by region.

    "tuned": of the network after k steps. "summed": of all maps up to the k-th, as RIB adds them.
    Where an image stopped earlier its last map counts on.
    """
    generator, tuned, summed = torch.Generator().manual_seed(seed), [], []
    for image, label in zip(shown.images[: toy.rib_images], shown.labels, strict=False):
        other = (learned.labels != label).nonzero()[:, 0]
        others = []
        for _ in range(toy.rib_iter):
            draw = torch.randint(len(other), (toy.rib_batch_size,), generator=generator)
            others.append((learned.images[other[draw]], learned.labels[other[draw]]))
        rates = (toy.rib_lr, toy.rib_stop)
        steps = list(fine_tuned_gradients(network, image, int(label), others, *rates))
        last, padding = len(steps), toy.rib_iter - len(steps)
        summed.append(torch.stack(steps).cumsum(0)[[*range(last), *[last - 1] * padding]])
        tuned.append(torch.stack([*steps, *[steps[-1]] * padding]))
    kinds = {"tuned": tuned, "summed": summed}
    return {k: _by_region(normalized(torch.stack(maps)), shown, toy) for k, maps in kinds.items()}


def experiment(root: Path, toy: Toy) -> tuple[dict, ToyNet, Canvases]:
    """All seeds: the content of scores.json, and a network and canvases to draw."""
    digits, values = read_mnist(root)
    if len(digits) < toy.images:
        raise UserError(f"--images {toy.images}: {root} has {len(digits)} twos and eights")
    by_seed, tuned_by_seed, accuracies = [], [], []
    for seed in toy.seeds:
        network, learned, shown = trained(digits, values, toy, seed)
        with torch.no_grad():
            right = network(shown.images).argmax(1) == shown.labels
        accuracies.append(right.float().mean().item())
        by_seed.append(measure(network, shown, toy))
        tuned_by_seed.append(fine_tune_each(network, learned, shown, toy, seed))
        log.info("seed %d: accuracy %.3f%s", seed, accuracies[-1], _lines(by_seed[-1]))
    scores = {
        "made_by": "RIB, toy experiment",
        "data": "MNIST",
        "settings": asdict(toy),
        "accuracy": accuracies,
        "hgr": _mean(by_seed),
        "hgr_by_seed": by_seed,
        "fine_tuned": {kind: _mean([t[kind] for t in tuned_by_seed]) for kind in tuned_by_seed[0]},
        "fine_tuned_by_seed": tuned_by_seed,
    }
    scores["loss_at_last_layer"] = {name: h[-2] - h[-1] for name, h in scores["hgr"].items()}
    return scores, network, shown


def _mean(of_seeds: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    return {name: np.mean([h[name] for h in of_seeds], 0).tolist() for name in REGIONS}


def _lines(hgr: Mapping[str, list[float]]) -> str:
    return "".join(f"\n  {n:18s} " + " ".join(f"{h:.2f}" for h in hgr[n]) for n in REGIONS)


def draw(scores: dict, network: ToyNet, shown: Canvases) -> Figure:
    """The three panels of the paper's figure, and the fine-tuning without the final activation."""
    figure = Figure(figsize=(13, 5.2), dpi=90, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    classes = shown.labels.unique()  # very few images may all be of one
    chosen = torch.stack([(shown.labels == label).nonzero()[0, 0] for label in classes])
    maps = gradient_maps(network, shown.images[chosen], shown.labels[chosen])
    left.suptitle("an image of each class, and its gradient maps G1 .. G6")
    grid = left.subplots(len(chosen), 1 + NUM_LAYERS, squeeze=False)
    for row, image, of_image in zip(grid, shown.images[chosen], maps, strict=True):
        row[0].imshow(image[0], cmap="gray")
        for k, (axis, of_layer) in enumerate(zip(row[1:], of_image, strict=True), start=1):
            axis.imshow(of_layer, cmap="jet", vmin=0, vmax=1)
            axis.set_title(f"G{k}", fontsize=9)
        for axis in row:
            axis.axis("off")
    upper, lower = right.subplots(2, 1)
    layers = np.arange(1, NUM_LAYERS + 1)
    for name, colour in _COLOURS.items():
        values = np.array([h[name] for h in scores["hgr_by_seed"]])
        upper.plot(layers, scores["hgr"][name], "o-", color=colour, label=name.replace("_", "-"))
        upper.fill_between(layers, values.min(0), values.max(0), color=colour, alpha=0.2)
        known = ~np.isnan(PUBLISHED[name])
        published = np.array(PUBLISHED[name])[known]
        upper.plot(layers[known], published, "x--", color=colour, alpha=0.6)
        lower.plot(scores["fine_tuned"]["summed"][name], "o-", color=colour)
        lower.plot(scores["fine_tuned"]["tuned"][name], ":", color=colour)
    upper.set_title(f"HGR by layer, {scores['data']} (band: seeds; dashed: published)", fontsize=10)
    upper.set_xticks(layers, [f"G{k}" for k in layers])
    upper.legend(fontsize=8)
    lower.set_title("HGR of G6 while fine-tuned without activation (line: summed)", fontsize=10)
    lower.set_xlabel("iterations")
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
    return figure


def run_toy(root: Path, out_dir: Path, toy: Toy) -> None:
    """The whole experiment; UserError for bad input and where files of others are there."""
    make_writable(out_dir, "--toy_out_dir")
    path = out_dir / "scores.json"
    if path.exists() and b'"RIB, toy experiment"' not in path.read_bytes()[:100]:
        raise UserError(f"{path}: is not of a toy experiment; give another --toy_out_dir")
    for name in (FIGURE, "scores.json"):
        require_own(out_dir / name)
    scores, network, shown = experiment(root, toy)
    save_figure(draw(scores, network, shown), out_dir / FIGURE)
    write_json(path, scores)
    log.info("HGR of G1 .. G6, mean of %d seeds:%s", len(toy.seeds), _lines(scores["hgr"]))
    for kind, values in scores["fine_tuned"].items():
        log.info("HGR of G6 while fine-tuned without activation, %s:%s", kind, _lines(values))
    log.info("%s and %s", path, FIGURE)


def _parsed(argv: list[str] | None) -> tuple[argparse.Namespace, Toy]:
    parser = argparse.ArgumentParser(prog="python -m Demo.toy_experiment")
    add = parser.add_argument
    add("--mnist_root", type=Path, default=Path("Dataset"), help="folder with MNIST/raw/")
    add("--mnist_download", action="store_true", help="torchvision downloads MNIST there first")
    add("--toy_out_dir", type=Path, default=Path("result/toy"), help="scores.json and the figure")
    for field in fields(Toy):
        kind = numbers(int, 0, 1e9) if isinstance(field.default, tuple) else type(field.default)
        choices = ("sigmoid", "softmax", "none") if field.name == "final_activation" else None
        add(f"--{field.name}", type=kind, choices=choices, default=field.default,
            help="(default: %(default)s)")  # fmt: skip
    args = parser.parse_args(argv)
    toy = Toy(**{field.name: getattr(args, field.name) for field in fields(Toy)})
    for name, value in asdict(toy).items():
        smallest = min(value) if isinstance(value, tuple) else value
        low = 0 if name in ("seeds", "shape_share") else 1e-9
        if not isinstance(smallest, str) and not low <= smallest < 1e9:
            parser.error(f"argument --{name}: {smallest} is out of range")
    if len(toy.strides) != NUM_LAYERS - 1:
        parser.error(f"argument --strides: give {NUM_LAYERS - 1} numbers with commas between them")
    if toy.images < 10 or toy.side < 30:
        parser.error("at least 10 --images, and a canvas (--side) of at least 30 pixels")
    return args, toy


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args, toy = _parsed(argv)

    def work() -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        if args.mnist_download:
            try:
                MNIST(str(args.mnist_root), download=True)
            except (OSError, RuntimeError) as error:
                raise UserError(f"--mnist_download: MNIST could not be had ({error})") from None
        run_toy(args.mnist_root, args.toy_out_dir, toy)

    return said_plainly(work)


if __name__ == "__main__":
    sys.exit(main())
