"""The engine: maps and gradients of a classifier, fast and within the memory of its device.

Behind it are folded normalisations (`net.folded`), features of the frozen part that are computed
once for an image, and passes that are cut into smaller ones where memory ends.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from misc.cams import pair_map
from misc.data.datasets import Crops
from misc.rib import RIBSettings
from misc.runtime.memory import PixelBudget
from misc.torchutils import PolyOptimizer, parameter_groups
from net.folded import FoldedCAM
from net.resnet50_cam import CAM

Loss = Callable[[Tensor, Tensor], Tensor]  # raw maps B x C x h x w, labels B x C -> scalar
Work = Callable[[], tuple[Any, Tensor]]  # -> what it gives, and numbers (N,) to be read


class Engine:
    """Computes with one classifier, on its device.

    precision, compiled: as in `net.folded.FoldedCAM`. budget: the memory that passes may take; it
    is kept for later images. The model's trained weights move with `step`. for_gpu: to work as on a
    GPU, which waits for every answer that it is asked for, and is used as one where it is not said.
    """

    def __init__(
        self,
        model: CAM,
        precision: str = "float32",
        compiled: bool = False,
        for_gpu: bool | None = None,
    ):
        self.budget = PixelBudget()
        self.device = model.classifier.weight.device
        self._for_gpu = self.device.type == "cuda" if for_gpu is None else for_gpu
        self._network = FoldedCAM(model, precision, compiled, self._for_gpu)
        self._groups = model.trainable_parameters()
        self._trained = [p for group in self._groups for p in group]
        self._initial = [p.detach().clone() for p in self._trained]
        # Of the iteration so far: of the target, and of the other images. Sums of floating-point
        # numbers depend on their order, which is to be that of the method, not of the passes.
        self._gradients: dict[str, list[Tensor]] = {}
        self._no_loss = torch.zeros((), dtype=torch.float64, device=self.device)

    def plain_map(self, pair: Tensor) -> Tensor:
        """CAM of an image and its mirror image, 2 x 3 x H x W -> C x H/16 x W/16."""
        raw, _ = self._pass(self._network, pair.to(self.device), None, pair.shape[-2:], None, "")
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
        self._optimizer = PolyOptimizer(groups, rate, decay, settings.iterations, foreach=True)
        self._labels = label.to(self.device).expand(2, -1)
        self._sizes = [tuple(pair.shape[-2:]) for pair in pairs]
        # What is frozen stays frozen: its output is the same in all iterations.
        features = self._network.frozen_features
        self._frozen = [
            self._pass(features, pair.to(self.device), None, size, None, "")[0]
            for pair, size in zip(pairs, self._sizes, strict=True)
        ]
        self._begin_iteration()

    def _begin_iteration(self) -> None:
        self._network.refresh()
        self._gradients = {}

    def target_pass(self, scale: int, loss: Loss | None) -> tuple[Tensor, Tensor]:
        """CAM of the image at a scale, C x h x w, and its loss (0 without one) in float64.

        The gradient of the loss is added to that of the iteration.
        """
        rows, size = self._frozen[scale], self._sizes[scale]
        raw, value = self._pass(self._network.maps, rows, self._labels, size, loss, "target")
        return pair_map(raw), value

    def other_pass(self, images: Tensor | Crops, labels: Tensor, loss: Loss) -> Tensor:
        """Loss of other images, B x 3 x S x S, which is added to the iteration's."""
        if isinstance(images, Crops):
            images = images.to(self.device, non_blocking=True, at_once=self._for_gpu)
        else:
            images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        return self._pass(self._network, images, labels, images.shape[-2:], loss, "others")[1]

    def unless(self, stop: Tensor | None, work: Work) -> tuple[Any, list[float]] | None:
        """What the work gives, with its numbers read, or None where `stop` (a bool, 0-dim) holds.

        A processor asks first. A GPU would stand still between the question and the next work, so
        it works ahead, answers everything at once, and drops what should not have been done: the
        weights have not moved yet.
        """
        if stop is None or not self._for_gpu:
            if stop is not None and stop.item():
                return None
            result, numbers = work()
            return result, numbers.tolist()
        result, numbers = work()
        stopped, *numbers = torch.cat([stop[None].to(numbers.dtype), numbers]).tolist()
        if stopped:
            self._gradients = {}
            return None
        return result, numbers

    def step(self) -> None:
        """Move the weights by the gradients of the iteration."""
        gradients = self._gradients["target"]
        torch._foreach_add_(gradients, self._gradients["others"])
        self._network.set_gradients(gradients)
        self._optimizer.step()
        self._begin_iteration()

    def _pass(self, network: Callable, rows: Tensor, labels, size, loss: Loss | None, of: str):
        """What the network gives for all rows, and the sum of their losses.

        It is tried again in smaller parts where memory ends; only what succeeds is kept. of: whom
        the gradient belongs to.
        """
        attempt = partial(self._attempt, network, rows, labels, tuple(size), loss)
        outputs, value, gradients = self.budget.fitted(attempt)
        if of in self._gradients and gradients is not None:
            torch._foreach_add_(self._gradients[of], gradients)
        elif gradients is not None:
            self._gradients[of] = gradients
        return outputs, value

    def _attempt(self, network, rows, labels, size, loss):
        """`_pass` once: output, loss, gradients (None without a loss).

        A loss is a sum over rows, so that of each part is propagated as soon as it is known: the
        activations of one part are held at a time.
        """
        outputs, value, gradients = [], None, None
        for part in self.budget.parts(len(rows), size):
            with torch.set_grad_enabled(loss is not None):
                output = network(rows[part])
            if loss is not None:
                of_part = loss(output, labels[part])
                seen = of_part.detach().double()
                value = seen if value is None else value + seen
                new = torch.autograd.grad(of_part, self._network.trained)
                if gradients is None:
                    gradients = list(new)
                else:
                    torch._foreach_add_(gradients, new)
            outputs.append(output.detach())
        value = self._no_loss if value is None else value
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs), value, gradients
