"""RIB: a trained classifier is fine-tuned on a single image, and its maps are summed (RIB, Sec. 3).

`fine_tune` is the algorithm. What computes maps and gradients is an engine (`net.engine.Engine`),
which also sees to speed and memory. The same method without either is `rib_map_sums` in
tests/references.py.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

Maps = list[Tensor]  # C x h x w for each scale

_EPSILON = 1e-5


@dataclass(frozen=True)
class RIBSettings:
    """Numbers of the method; the values are the paper's for VOC."""

    iterations: int = 10  # K
    learning_rate: float = 8e-6  # of the backbone; the classifier learns 10 times faster
    weight_decay: float = 1e-4
    tau: float = 0.4  # pixels at or above this share of a map's peak do not enter the pooling
    margin: float = 600.0  # m: stop once the target logits sum to more
    explode_th: float = 0.3
    explode_ratio: float = 0.7
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    num_pooled_classes: int | None = None  # None: all; see gndp2d
    final_activation: str = "none"  # or "sigmoid", which is what the paper argues against


@dataclass
class Iteration:
    """State after one iteration."""

    map_sums: Maps  # so far
    loss: float | None  # None where the map exploded: there is no loss then, and no step
    target_score: float | None  # sum of the target logits, from before the step
    stopped: bool  # no iteration follows because of an early stop


def gndp2d(
    x: Tensor,
    present: Tensor,
    score_th: float = 0.4,
    num_pooled_classes: int | None = None,
) -> Tensor:
    """Global non-discriminative region pooling (RIB, Sec. 3.2), B x C x H x W -> B x C.

    x: raw class maps, negative scores included.
    present: B x C, or C for all images alike, bool or 0/1: the classes whose discriminative pixels
        are left out, i.e. count as zero in the average over the whole map. The others are averaged
        in full.
    score_th: threshold tau; a pixel is kept when its score divided by the map's maximum is strictly
        below it. The choice of pixels carries no gradient. The maximum is taken with its sign: a
        map that is negative everywhere keeps no pixel.
    num_pooled_classes: leaves pixels out for the first so many classes only. 20 gives what the
        original implementation does on COCO; None treats all classes alike, 0 leaves out nothing,
        which is global average pooling.
    """
    present = present.bool()
    if num_pooled_classes is not None:
        first = torch.arange(x.shape[1], device=present.device) < num_pooled_classes
        present = present & first
    with torch.no_grad():
        # With a maximum of 0 the quotient is -inf (kept) or, at the maximum itself, nan (left out).
        left_out = (x / x.amax(dim=(2, 3), keepdim=True) < score_th).logical_not_()
        left_out &= present[..., None, None]
    return x.masked_fill(left_out, 0).mean(dim=(2, 3))


def rib_loss(raw: Tensor, labels: Tensor, settings: RIBSettings) -> Tensor:
    """Minus the sum of logits x labels: no sigmoid, so that nothing saturates (RIB, Sec. 3.1).

    With the final activation "sigmoid", for comparison, minus the sum of log(sigmoid(logits)) x
    labels: the same but that a gradient fades as its logit grows.
    raw: maps B x C x h x w, signed. labels: B x C multi-hot. Returns a scalar.
    """
    logits = gndp2d(raw, labels, settings.tau, settings.num_pooled_classes)
    if settings.final_activation == "sigmoid":
        logits = torch.nn.functional.logsigmoid(logits)
    return -(logits * labels).sum()


def exploded(maps: Tensor, settings: RIBSettings) -> Tensor:
    """Whether current maps, T x h x w, of the target's classes cover most of the image (bool)."""
    peaks = maps.amax(dim=(1, 2), keepdim=True) + _EPSILON
    covered = (maps / peaks > settings.explode_th).any(dim=0)
    return covered.float().mean().double() > settings.explode_ratio


class Engine(Protocol):
    """What computes; see `net.engine.Engine`."""

    def start(self, pairs: list[Tensor], label: Tensor, settings: RIBSettings) -> None:
        """Return to the trained classifier, and get ready for one image."""

    def target_pass(self, scale: int, loss) -> tuple[Tensor, Tensor]:
        """Map of the image at a scale, and its loss, whose gradient is collected."""

    def other_pass(self, images, labels: Tensor, loss) -> Tensor:
        """Loss of other images, whose gradient is collected."""

    def in_range(self, iteration):
        """What `iteration` gives, called again in float32 where fewer bits have overflowed."""

    def unless(self, stop: Tensor | None, work) -> tuple | None:
        """What `work` gives, its numbers read; None where `stop` holds, with nothing collected."""

    def step(self) -> None:
        """Move the weights by the gradients collected since the last step."""


def fine_tune(
    engine: Engine,
    pairs: list[Tensor],
    label: Tensor,
    batches: Iterator[tuple],
    settings: RIBSettings,
) -> Iterator[Iteration]:
    """RIB on one image: yields the sums of the maps after every iteration (RIB, Sec. 3).

    pairs: the image and its mirror image at each scale, 2 x 3 x h x w, the first at scale 1.0.
    label: multi-hot C of the image, not all zero.
    batches: other images, B x 3 x S x S, with labels B x C, that share no class with the image:
    they keep the classifier from raising the target's logits for any input. One batch is taken for
    each iteration that gets as far as its loss.
    Raises RowTooLargeError where one image of a pass does not fit into memory.
    """
    classes = label.nonzero()[:, 0]
    engine.start(pairs, label, settings)
    sums = None
    for _ in range(settings.iterations):
        others = functools.cache(partial(next, batches))  # one batch, whoever asks again
        passes = partial(_passes, engine, classes if sums else None, others, settings)
        first, rest = engine.in_range(passes)
        if rest is None:
            # Scale 1.0 has been added then and the others have not, as in the original.
            yield Iteration([sums[0] + first[0], *sums[1:]], None, None, stopped=True)
            return
        maps, (target_score, other_score) = rest
        sums = maps if sums is None else [a + b for a, b in zip(sums, maps, strict=True)]
        engine.step()
        # The margin is compared with the score from before the step; the step counts.
        stopped = abs(target_score) > settings.margin
        yield Iteration(sums, -(target_score + other_score), target_score, stopped)
        if stopped:
            return


def _passes(
    engine: Engine,
    classes: Tensor | None,
    others: Callable[[], tuple],
    settings: RIBSettings,
) -> tuple[tuple[Tensor, Tensor], tuple | None]:
    """Map and loss at scale 1.0, and what `_further_passes` gives; None where the map exploded.

    classes: of the target, (K,) indices; None where it is too early to explode.
    """
    first = engine.target_pass(0, partial(rib_loss, settings=settings))
    stop = None if classes is None else exploded(first[0][classes], settings)
    rest = engine.unless(stop, partial(_further_passes, engine, first, others, settings))
    return first, rest


def _further_passes(
    engine: Engine,
    first: tuple[Tensor, Tensor],
    others: Callable[[], tuple],
    settings: RIBSettings,
) -> tuple[Maps, Tensor]:
    """The maps of all scales, C x h x w each, and the sums of target and of other logits (2,).

    first: map and loss at scale 1.0. others: gives the iteration's batch.
    """
    loss = partial(rib_loss, settings=settings)
    # The other images come first: a GPU is busy with them while the rest is prepared.
    of_others = engine.other_pass(*others(), loss)
    # The small scale makes maps only.
    parts = [loss if scale >= 1.0 else None for scale in settings.scales[1:]]
    further = [engine.target_pass(i, part) for i, part in enumerate(parts, start=1)]
    maps, losses = zip(first, *further, strict=True)
    return list(maps), -torch.stack([sum(losses), of_others])
