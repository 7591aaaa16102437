"""RIB's per-image fine-tuning (RIB, Sec. 3)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from misc.cams import pair_map
from misc.torchutils import PolyOptimizer, gndp2d, parameter_groups
from net.resnet50_cam import CAM

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
    num_pooled_classes: int | None = None  # None: all; see misc.torchutils.gndp2d


@dataclass
class Iteration:
    """State after one iteration."""

    map_sums: list[torch.Tensor]  # C x h x w for each scale, so far; the list changes
    loss: float | None  # None where the map exploded: there is no loss then, and no step
    target_score: float | None  # sum of the target logits, from before the step
    stopped: bool  # no iteration follows because of an early stop


class RIB:
    """Fine-tunes a classifier on one image after the other, each time from its first weights."""

    def __init__(self, model: CAM, settings: RIBSettings):
        self.model, self.settings = model, settings
        self._groups = [list(group) for group in model.trainable_parameters()]
        self._trained = [p for group in self._groups for p in group]
        self._initial = [p.detach().clone() for p in self._trained]

    def iterate(
        self,
        pairs: list[torch.Tensor],
        label: torch.Tensor,
        batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    ) -> Iterator[Iteration]:
        """Fine-tune on one image and yield after every iteration.

        pairs: the image and its mirror image at each scale, 2 x 3 x h x w, the first at scale 1.0.
        label: multi-hot C of the image, not all zero.
        batches: images B x 3 x S x S with labels B x C that share no class with the image; one
        batch is taken for each iteration that gets as far as its loss.
        """
        self._reset()
        optimizer = self._optimizer()
        # What is frozen stays frozen: layer2's output is the same in all iterations.
        frozen = [self.model.frozen_features(pair) for pair in pairs]
        sums: list[torch.Tensor | None] = [None] * len(pairs)
        for k in range(self.settings.iterations):
            optimizer.zero_grad()
            target_score = self._target_pass(frozen, label, sums, first=k == 0)
            if target_score is None:
                yield Iteration(sums, None, None, stopped=True)
                return
            other_score = self._other_pass(*next(batches))
            optimizer.step()
            # The margin is compared with the score from before the step; the step counts.
            stopped = abs(target_score) > self.settings.margin
            yield Iteration(sums, -(target_score + other_score), target_score, stopped)
            if stopped:
                return

    def _target_pass(self, frozen, label, sums, first: bool) -> float | None:
        """Maps of all scales added to `sums`, gradients of the target's loss accumulated.

        Returns the sum of the target logits, or None when the map exploded: then the map of scale
        1.0 has been added and the others have not (as in the original implementation).
        """
        score = 0.0
        for i, (features, scale) in enumerate(zip(frozen, self.settings.scales, strict=True)):
            in_loss = scale >= 1.0
            with torch.set_grad_enabled(in_loss):
                raw = self.model.maps(features)  # 2 x C x h x w
            current = pair_map(raw.detach())
            sums[i] = current if first else sums[i] + current
            if i == 0 and not first and self._exploded(current[label > 0]):
                return None
            if in_loss:
                score += self._backward(raw, label.expand(2, -1))
        return score

    def _other_pass(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Sum of the logits of other images' own classes, their gradients accumulated.

        They keep the classifier from raising the target's logits for any input.
        """
        device = self._trained[0].device
        raw = self.model(images.to(device, non_blocking=True))
        return self._backward(raw, labels.to(device))

    def _backward(self, raw: torch.Tensor, labels: torch.Tensor) -> float:
        """Loss = - sum of logits x labels: no sigmoid, so nothing saturates (RIB, Sec. 3).

        The loss is a plain sum over rows, so each part is propagated as soon as it is known and
        only one part's activations are held at a time.
        """
        s = self.settings
        logits = gndp2d(raw, labels, s.tau, num_pooled_classes=s.num_pooled_classes)
        score = (logits * labels).sum()
        (-score).backward()
        return score.item()

    def _exploded(self, maps: torch.Tensor) -> bool:
        """Whether the current maps T x h x w of the target classes cover most of the image."""
        peaks = maps.amax(dim=(1, 2), keepdim=True) + _EPSILON
        covered = (maps / peaks > self.settings.explode_th).any(dim=0)
        return covered.float().mean().item() > self.settings.explode_ratio

    def _reset(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._trained, self._initial)

    def _optimizer(self) -> PolyOptimizer:
        s = self.settings
        groups = parameter_groups(*self._groups, s.learning_rate, s.weight_decay)
        return PolyOptimizer(
            groups, lr=s.learning_rate, weight_decay=s.weight_decay, max_step=s.iterations
        )
