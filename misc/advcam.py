"""AdvCAM: an image is manipulated so that a class scores higher (Lee et al., CVPR 2021).

Weights are never changed. The image and its mirror image are manipulated together: they share the
mask, the largest gradient and the bounds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from misc.rib import Maps


@dataclass(frozen=True)
class AdvCAMSettings:
    """Numbers of the method; the values are the published ones for VOC."""

    iterations: int = 27
    coefficient: float = 7.0  # of what keeps discriminative pixels as they are
    step_size: float = 0.08
    tau: float = 0.5  # pixels above this fraction of a map's peak are discriminative
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)

    @property
    def factor(self) -> int:
        """Weight of a map in the sum. It was meant for the small scale, but is that of all."""
        return 2 if self.iterations > 10 else 1

    def iterations_at(self, scale: float) -> int:
        """Iterations at a scale: fewer below the image's own size."""
        if scale >= 1.0 or self.iterations < 6:
            return self.iterations
        return self.iterations // 2 if self.iterations > 10 else 5


@dataclass
class Iteration:
    """One iteration on an image: its maps and scores, and the image after the step."""

    map: Tensor  # h x w, of the class
    mask: Tensor  # h x w bool, the discriminative pixels
    active: Tensor  # (2,) positions with a positive score, of image and mirror image
    logits: Tensor  # 2 x C
    score_loss: Tensor
    difference: Tensor  # from the map of the untouched image, over the mask
    objective: Tensor
    gradient: Tensor  # 2 x 3 x H x W
    pair: Tensor  # 2 x 3 x H x W, after the step


def class_map(raw: Tensor, index: int, positive: int) -> Tensor:
    """Map of a class, h x w, from raw scores 2 x C x h x w of an image and its mirror image.

    Each is weighted by its fraction of the positions with a positive score, as Grad-CAM does it for
    this network and this score. positive: number of positive weights of the class.
    """
    active = (raw[:, index] > 0).sum(dim=(1, 2))
    weight = active / (positive * active.sum().clamp_min(1))
    image, mirrored = F.relu(raw[:, index]) * weight[:, None, None].to(raw.dtype)
    return image + mirrored.flip(-1)


def ascent_step(pair: Tensor, gradient: Tensor, step_size: float) -> Tensor:
    """Move by the gradient, scaled to its largest entry, within the range of the pair's values."""
    moved = pair + step_size * gradient / (gradient.abs().max() + 1e-12)
    return moved.clamp(pair.min(), pair.max())


def ascent(
    scores: Callable[[Tensor], Tensor],
    pair: Tensor,
    index: int,
    positive: int,
    iterations: int,
    settings: AdvCAMSettings,
) -> Iterator[Iteration]:
    """Raise the score of a class, lower those of all others (AdvCAM, Sec. 3.2 and 3.3).

    scores: 2 x 3 x H x W -> raw scores 2 x C x h x w, differentiable down to the image. pair: the
    image and its mirror image. positive: number of positive classifier weights of the class.
    """
    first = None
    for _ in range(iterations):
        pair = pair.detach().requires_grad_()
        raw = scores(pair)
        current = class_map(raw, index, positive)
        seen = current.detach()
        first = seen if first is None else first
        mask = seen / seen.max() > settings.tau  # of a map of zeros no pixel
        logits = F.relu(raw).mean(dim=(2, 3))
        own = logits[:, index].sum()
        score_loss = (logits.sum() - own) - own
        difference = ((current - first).abs() * mask).sum()
        objective = -score_loss - settings.coefficient * difference
        (gradient,) = torch.autograd.grad(objective, pair)
        after = ascent_step(pair.detach(), gradient, settings.step_size)
        active = (raw.detach()[:, index] > 0).sum(dim=(1, 2))
        values = (part.detach() for part in (logits, score_loss, difference, objective))
        yield Iteration(seen, mask, active, *values, gradient, after)
        pair = after


def advcam(
    scores: Callable[[Tensor], Tensor],
    weights: Tensor,
    pairs: list[Tensor],
    label: Tensor,
    settings: AdvCAMSettings,
) -> Iterator[Maps]:
    """Sums of the maps of all scales, C x h x w each, after every iteration of AdvCAM.

    weights: of the classifier, C x channels x 1 x 1. pairs: the image and its mirror image at each
    scale, 2 x 3 x H x W. label: multi-hot C, not all zero. Classes and scales are independent.
    """
    positive = (weights > 0).flatten(1).sum(dim=1).tolist()
    ascents = [
        (i, c, ascent(scores, pair, c, positive[c], settings.iterations_at(scale), settings))
        for i, (pair, scale) in enumerate(zip(pairs, settings.scales, strict=True))
        for c in label.nonzero()[:, 0].tolist()
    ]
    sums: dict[int, Tensor] = {}
    for _ in range(settings.iterations):
        for i, c, states in ascents:
            state = next(states, None)
            if state is not None:
                if i not in sums:
                    sums[i] = state.map.new_zeros(len(label), *state.map.shape)
                sums[i][c] += settings.factor * state.map
        yield [sums[i].clone() for i in range(len(pairs))]
