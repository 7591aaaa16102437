"""The engine: maps and gradients of a classifier, fast and within the memory of its device.

Behind it are folded normalisations (`net.folded`), features of the frozen part that are computed
once for an image, and passes that are cut into smaller ones where memory ends.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from misc.cams import pair_map
from misc.rib import RIBSettings
from misc.runtime.memory import PixelBudget
from misc.torchutils import PolyOptimizer, parameter_groups
from net.folded import FoldedCAM
from net.resnet50_cam import CAM

Loss = Callable[[Tensor, Tensor], Tensor]  # raw maps B x C x h x w, labels B x C -> scalar


class Engine:
    """Computes with one classifier, on its device.

    precision, compiled: as in `net.folded.FoldedCAM`. budget: the memory that passes may take; it
    is kept for later images. The model's trained weights move with `step`.
    """

    def __init__(self, model: CAM, precision: str = "float32", compiled: bool = False):
        self.budget = PixelBudget()
        self.device = model.classifier.weight.device
        self._network = FoldedCAM(model, precision, compiled)
        self._groups = model.trainable_parameters()
        self._trained = [p for group in self._groups for p in group]
        self._initial = [p.detach().clone() for p in self._trained]
        self._gradients: list[Tensor] | None = None  # of the iteration, so far

    def plain_map(self, pair: Tensor) -> Tensor:
        """CAM of an image and its mirror image, 2 x 3 x H x W -> C x H/16 x W/16."""
        raw, _ = self._pass(self._network, pair.to(self.device), None, pair.shape[-2:], None)
        return pair_map(raw)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model the weights that it had in the beginning."""
        torch._foreach_copy_(self._trained, self._initial)

    def start(self, pairs: list[Tensor], label: Tensor, settings: RIBSettings) -> None:
        """Return to the trained classifier, and get ready to fine-tune it on one image.

        pairs: the image and its mirror image at each scale, 2 x 3 x h x w. label: multi-hot C.
        """
        self.restore()
        rate, decay = settings.learning_rate, settings.weight_decay
        groups = parameter_groups(*self._groups, rate, decay)
        self._optimizer = PolyOptimizer(groups, rate, decay, settings.iterations)
        self._labels = label.to(self.device).expand(2, -1)
        self._sizes = [tuple(pair.shape[-2:]) for pair in pairs]
        # What is frozen stays frozen: its output is the same in all iterations.
        features = self._network.frozen_features
        self._frozen = [
            self._pass(features, pair.to(self.device), None, size, None)[0]
            for pair, size in zip(pairs, self._sizes, strict=True)
        ]
        self._begin_iteration()

    def _begin_iteration(self) -> None:
        self._network.refresh()
        self._gradients = None

    def target_pass(self, scale: int, loss: Loss | None) -> tuple[Tensor, Tensor]:
        """CAM of the image at a scale, C x h x w, and its loss (0 without one) in float64.

        The gradient of the loss is added to that of the iteration.
        """
        rows = self._frozen[scale]
        raw, value = self._pass(self._network.maps, rows, self._labels, self._sizes[scale], loss)
        return pair_map(raw), value

    def other_pass(self, images, labels: Tensor, loss: Loss) -> Tensor:
        """Loss of other images, B x 3 x S x S (or Crops), which is added to the iteration's."""
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        return self._pass(self._network, images, labels, images.shape[-2:], loss)[1]

    def step(self) -> None:
        """Move the weights by the gradients of the iteration."""
        self._network.set_gradients(self._gradients)
        self._optimizer.step()
        self._begin_iteration()

    def _pass(self, network: Callable, rows: Tensor, labels, size, loss: Loss | None):
        """What the network gives for all rows, and the sum of their losses.

        It is tried again in smaller parts where memory ends; only what succeeds is kept.
        """
        attempt = partial(self._attempt, network, rows, labels, tuple(size), loss)
        outputs, value, gradients = self.budget.fitted(attempt)
        if self._gradients is None or gradients is None:
            self._gradients = gradients or self._gradients
        else:
            torch._foreach_add_(self._gradients, gradients)
        return outputs, value

    def _attempt(self, network, rows, labels, size, loss):
        """`_pass` once: output, loss, gradients (None without a loss).

        A loss is a sum over rows, so that of each part is propagated as soon as it is known: the
        activations of one part are held at a time.
        """
        outputs, gradients = [], None
        value = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in self.budget.parts(len(rows), size):
            with torch.set_grad_enabled(loss is not None):
                output = network(rows[part])
            if loss is not None:
                of_part = loss(output, labels[part])
                value += of_part.detach()
                new = torch.autograd.grad(of_part, self._network.trained)
                if gradients is None:
                    gradients = list(new)
                else:
                    torch._foreach_add_(gradients, new)
            outputs.append(output.detach())
        return torch.cat(outputs), value, gradients
