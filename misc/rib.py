"""RIB: a trained classifier is fine-tuned on one image, and its maps are summed (RIB, Sec. 3).

>>> from net.resnet50_cam import CAM
>>> pairs, label = [torch.rand(2, 3, 64, 64), torch.rand(2, 3, 32, 32)], torch.tensor([1.0, 0.0])
>>> batch = (torch.rand(4, 3, 64, 64), torch.tensor([[0.0, 1.0]] * 4))  # of the other class
>>> settings = RIBSettings(iterations=3, scales=(1.0, 0.5))
>>> *_, last = fine_tune(CAM(2, width=8, stem=8), pairs, label, iter([batch] * 3), settings)
>>> [tuple(of_scale.shape) for of_scale in last.map_sums]
[(2, 4, 4), (2, 2, 2)]
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from misc.cams import pair_map
from misc.runtime.optimizer import PolyOptimizer, parameter_groups

Maps = list[Tensor]  # C x h x w for each scale
Batch = tuple[Tensor, Tensor]  # images and their labels


@dataclass(frozen=True)
class RIBSettings:
    """Numbers of the method; the values are the paper's for VOC."""

    iterations: int = 10  # K
    learning_rate: float = 8e-6  # lambda, of the backbone; the classifier learns 10 times faster
    weight_decay: float = 1e-4
    tau: float = 0.4  # pixels at or above this fraction of a map's peak do not enter the pooling
    margin: float = 600.0  # m: stop once the target logits sum to more
    explode_th: float = 0.3
    explode_ratio: float = 0.7
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)  # those below 1.0 make maps only
    num_pooled_classes: int | None = None  # None: all; see gndp2d
    final_activation: str = "none"  # or "sigmoid", which is what the paper argues against


class Iteration(NamedTuple):
    """State after one iteration."""

    map_sums: Maps  # A = sum of the maps of theta_0 .. theta_k
    loss: float | None = None  # None where the map exploded: there is no loss then, and no step
    target_score: float | None = None  # sum of the target logits, from before the step
    stopped: bool = True  # no iteration follows because of an early stop


def gndp2d(
    x: Tensor, present: Tensor, score_th: float = 0.4, num_pooled_classes: int | None = None
) -> Tensor:
    """GNDRP, global non-discriminative region pooling (RIB, Sec. 3.2), B x C x H x W -> B x C.

    Per class present the mean over all pixels of A where A / max A < tau, and of 0 elsewhere.
    x: raw class maps A, negative scores included. present: B x C, or C for all images alike, bool
    or 0/1: the classes of the image; the others are averaged in full. score_th: tau. The choice of
    pixels carries no gradient. The maximum has its sign: a map that is negative everywhere keeps
    no pixel. num_pooled_classes: leaves pixels out for the first so many classes only. 20 gives
    what the original implementation does on COCO, None treats all classes alike, 0 is global
    average pooling.
    """
    present = present.bool()
    if num_pooled_classes is not None:
        first = torch.arange(x.shape[1], device=present.device) < num_pooled_classes
        present = present & first
    with torch.no_grad():
        # With a maximum of 0 the quotient is -inf (kept) or, at the maximum itself, nan (left out).
        kept = x / x.amax(dim=(2, 3), keepdim=True) < score_th
        left_out = ~kept & present[..., None, None]
    return x.masked_fill(left_out, 0).mean(dim=(2, 3))


def logit_sum(raw: Tensor, labels: Tensor, s: RIBSettings) -> Tensor:
    """Sum over images and their classes of y^c = GNDRP(A^c), scalar: -L_RIB (RIB, Sec. 3.1).

    raw: signed maps, B x C x h x w. labels: B x C multi-hot. No final activation, so that nothing
    saturates; with "sigmoid", for comparison, the sum of log(sigmoid(y^c)).
    """
    logits = gndp2d(raw, labels, s.tau, s.num_pooled_classes)
    if s.final_activation == "sigmoid":
        logits = F.logsigmoid(logits)
    return (logits * labels).sum()


def exploded(maps: Tensor, s: RIBSettings) -> bool:
    """Return True where maps of the target's classes, T x h x w, cover most of the image."""
    peaks = maps.amax(dim=(1, 2), keepdim=True) + 1e-5
    covered = (maps / peaks > s.explode_th).any(dim=0)
    return covered.float().mean().item() > s.explode_ratio


def fine_tune(
    model: nn.Module, pairs: list[Tensor], label: Tensor, batches: Iterator[Batch], s: RIBSettings
) -> Iterator[Iteration]:
    """RIB on one image (RIB, Sec. 3): yields the sums of the maps after every iteration.

    theta_k = theta_{k-1} - lambda grad L_RIB(x; theta_{k-1}), A = sum over k of CAM(x; theta_k).
    model: a CAM with its trained weights theta_0, which change. pairs: the image and its mirror
    image at each scale, 2 x 3 x h x w, scale 1.0 first. label: multi-hot C, not all zero.
    batches: normalised images B x 3 x S x S and labels B x C that share no class with the image,
    one for each iteration: they keep the classifier from raising the target's logits for any input.
    """
    groups = parameter_groups(*model.trainable_parameters(), s.learning_rate, s.weight_decay)
    optimizer = PolyOptimizer(groups, s.learning_rate, s.weight_decay, s.iterations)
    frozen = [model.frozen_features(pair) for pair in pairs]  # the same in all iterations
    sums: Maps = [0.0] * len(pairs)
    for k in range(s.iterations):
        optimizer.zero_grad()
        target = torch.zeros((), dtype=torch.float64, device=label.device)
        for i, (features, scale) in enumerate(zip(frozen, s.scales, strict=True)):
            in_loss = scale >= 1.0  # smaller scales only make maps
            with torch.set_grad_enabled(in_loss):
                raw = model.maps(features)
            current = pair_map(raw.detach())
            sums[i] = sums[i] + current
            if i == 0 and k > 0 and exploded(current[label.bool()], s):
                # Scale 1.0 has been added and the others have not, as in the original.
                yield Iteration(list(sums))
                return
            if in_loss:
                score = logit_sum(raw, label.expand(2, -1), s)
                (-score).backward()  # frees the activations of this scale
                target += score.detach()
        images, labels = next(batches, (None, None))
        if images is None:
            raise ValueError(f"batches: fewer than the {s.iterations} iterations; give one each")
        others = logit_sum(model(images), labels, s)
        (-others).backward()
        optimizer.step()
        score, of_others = torch.stack([target, others.detach()]).tolist()  # a GPU waits once
        stopped = abs(score) > s.margin  # the score from before the step, which counts
        yield Iteration(list(sums), -(score + of_others), score, stopped)
        if stopped:
            return
