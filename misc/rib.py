"""RIB's per-image fine-tuning (RIB, Sec. 3)."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from misc.cams import pair_map
from misc.runtime.memory import PixelBudget
from misc.torchutils import PolyOptimizer, gndp2d, parameter_groups
from net.folded import FoldedCAM
from net.resnet50_cam import CAM

Maps = list[torch.Tensor]  # C x h x w for each scale
Size = tuple[int, int]

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

    map_sums: Maps  # so far
    loss: float | None  # None where the map exploded: there is no loss then, and no step
    target_score: float | None  # sum of the target logits, from before the step
    stopped: bool  # no iteration follows because of an early stop


@dataclass(frozen=True)
class Target:
    """The image that RIB fine-tunes on, with its mirror image, at each scale."""

    frozen: list[torch.Tensor]  # 2 x C2 x h/8 x w/8: what the layers give that never train
    sizes: list[Size]  # h, w
    labels: torch.Tensor  # 2 x C multi-hot
    classes: torch.Tensor  # (T,) its classes


class RIB:
    """Fine-tunes a classifier on one image after the other, each time from its first weights."""

    def __init__(
        self,
        model: CAM,
        settings: RIBSettings,
        precision: str = "float32",
        compiled: bool = False,
    ):
        self.settings = settings
        self.budget = PixelBudget()
        self._network = FoldedCAM(model, precision, compiled)
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
        Raises RowTooLargeError where one image of a pass does not fit into memory.
        """
        self._reset()
        optimizer = self._optimizer()
        target = Target(
            # What is frozen stays frozen: layer2's output is the same in all iterations.
            [self.budget.fitted(functools.partial(self._frozen_features, p)) for p in pairs],
            [tuple(pair.shape[-2:]) for pair in pairs],
            label.expand(2, -1),
            label.nonzero()[:, 0],
        )
        sums = None
        for _ in range(self.settings.iterations):
            self._network.refresh()
            # Drawn once, and only when it is needed; a repeated attempt gets the same batch.
            draw = functools.cache(functools.partial(next, batches))
            attempt = functools.partial(self._gradients, target, sums, draw)
            sums, scores = self.budget.fitted(attempt)
            if scores is None:
                yield Iteration(sums, None, None, stopped=True)
                return
            self._network.return_gradients()
            optimizer.step()
            target_score, other_score = scores.tolist()  # the only wait for the GPU but one
            # The margin is compared with the score from before the step; the step counts.
            stopped = abs(target_score) > self.settings.margin
            yield Iteration(sums, -(target_score + other_score), target_score, stopped)
            if stopped:
                return

    def _frozen_features(self, pair: torch.Tensor) -> torch.Tensor:
        """2 x 3 x h x w -> 2 x C2 x h/8 x w/8."""
        parts = self.budget.parts(len(pair), tuple(pair.shape[-2:]))
        return torch.cat([self._network.frozen_features(pair[part]) for part in parts])

    def _gradients(
        self, target: Target, sums: Maps | None, draw: Callable
    ) -> tuple[Maps, torch.Tensor | None]:
        """Maps of all scales added to `sums`, gradients of the loss collected in the network.

        Returns the new sums and the logits' sums of the target and of the others (2,), or None for
        these when the map exploded: then the map of scale 1.0 has been added and the others have
        not (as in the original implementation).
        """
        self._network.zero_grad()  # a failed attempt may have left a part
        new_sums, score = [], 0.0
        for i, scale in enumerate(self.settings.scales):
            raw, part = self._pass(
                self._network.maps, target.frozen[i], target.labels, target.sizes[i], scale >= 1.0
            )
            score = score + part
            current = pair_map(raw)
            new_sums.append(current if sums is None else sums[i] + current)
            if i == 0 and sums is not None and self._exploded(current[target.classes]):
                return new_sums + sums[1:], None
        images, labels = (part.to(raw.device, non_blocking=True) for part in draw())
        # They keep the classifier from raising the target's logits for any input.
        _, others = self._pass(self._network, images, labels, tuple(images.shape[-2:]), True)
        return new_sums, torch.stack([score, others])

    def _pass(self, network, rows, labels, size, in_loss: bool):
        """Raw maps B x C x h x w of all rows, and the sum of their own classes' logits."""
        maps, score = [], torch.zeros((), dtype=torch.float64, device=rows.device)
        for part in self.budget.parts(len(rows), size):
            with torch.set_grad_enabled(in_loss):
                raw = network(rows[part])
            if in_loss:
                score += self._backward(raw, labels[part])
            maps.append(raw.detach())
        return torch.cat(maps), score

    def _backward(self, raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss = - sum of logits x labels: no sigmoid, so nothing saturates (RIB, Sec. 3).

        The loss is a plain sum over rows, so each part is propagated as soon as it is known and
        only one part's activations are held at a time.
        """
        s = self.settings
        logits = gndp2d(raw, labels, s.tau, num_pooled_classes=s.num_pooled_classes)
        score = (logits * labels).sum()
        (-score).backward()
        return score.detach()

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
