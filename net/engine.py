"""The engine: maps and gradients of a classifier, fast and within the memory of its device.

Behind it are folded normalisations (`net.folded`), features of the frozen part that are computed
once for an image, passes that are cut into smaller ones where memory ends, and float32 where the
range of float16 does.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from misc.cams import pair_map
from misc.data.datasets import Crops
from misc.rib import RIBSettings
from misc.runtime.memory import PixelBudget
from misc.torchutils import PolyOptimizer, parameter_groups
from net.folded import FoldedCAM
from net.overflow import LOSS_SCALE, Overflow
from net.resnet50_cam import CAM

Loss = Callable[[Tensor, Tensor], Tensor]  # raw maps B x C x h x w, labels B x C -> scalar
Work = Callable[[], tuple[Any, Tensor]]  # -> what it gives, and numbers (N,) to be read
Given = TypeVar("Given")


class Engine:
    """Computes with one classifier, on its device.

    precision: as in `net.folded.FoldedCAM`. budget: the memory that passes may take; it
    is kept for later images. The model's trained weights move with `step`. for_gpu: to work as on a
    GPU, which waits for every answer that it is asked for, and is used as one where it is not said.
    """

    def __init__(self, model: CAM, precision: str = "float32", for_gpu: bool | None = None):
        self.budget = PixelBudget()
        self.device = model.classifier.weight.device
        self._for_gpu = self.device.type == "cuda" if for_gpu is None else for_gpu
        self._folded_in = partial(FoldedCAM, model, for_gpu=self._for_gpu)
        self._usual = self._network = self._folded_in(precision)
        # Of float16 alone: who looks for numbers beyond its range, and whether there were any.
        self._overflow = Overflow(self.device) if precision == "fp16" else None
        self._overflowed = False
        self._groups = model.trainable_parameters()
        self._trained = [p for group in self._groups for p in group]
        self._initial = [p.detach().clone() for p in self._trained]
        # Of the iteration so far: of the target, and of the other images. Sums of floating-point
        # numbers depend on their order, which is to be that of the method, not of the passes.
        self._gradients: dict[str, list[Tensor]] = {}
        self._no_loss = torch.zeros((), dtype=torch.float64, device=self.device)

    def plain_map(self, pair: Tensor) -> Tensor:
        """CAM of an image and its mirror image, 2 x 3 x H x W -> C x H/16 x W/16."""
        raw = self.in_range(partial(self._plain_scores, pair.to(self.device)))
        self._network = self._usual
        return pair_map(raw)

    def _plain_scores(self, pair: Tensor) -> Tensor:
        self._forget()
        raw, _ = self._pass(self._network, pair, None, pair.shape[-2:], None, "")
        if self._scaled:
            self._read(torch.zeros(0, device=self.device))
        return raw

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
        self._pairs = pairs
        # What is frozen stays frozen: its output is the same in all iterations.
        self._frozen = {self._usual: self._frozen_features(self._usual)}
        if not self._overflow:
            self._pairs = []
        self._begin_iteration()

    def _frozen_features(self, network: FoldedCAM) -> list[Tensor]:
        return [
            self._pass(network.frozen_features, pair.to(self.device), None, size, None, "")[0]
            for pair, size in zip(self._pairs, self._sizes, strict=True)
        ]

    def _begin_iteration(self) -> None:
        self._network = self._usual
        self._network.refresh()
        self._forget()

    def _forget(self) -> None:
        """Drop what the iteration has collected so far."""
        self._gradients, self._overflowed = {}, False
        if self._overflow:
            self._overflow.begin()

    def in_range(self, iteration: Callable[[], Given]) -> Given:
        """What an iteration's passes give, computed again in float32 where 16 bits overflow.

        The weights have not moved by then, and nothing of the first attempt is kept.
        """
        result = iteration()
        if self._overflowed:
            self._compute_in_float32()
            result = iteration()
        return result

    @property
    def _scaled(self) -> bool:
        """Whether float16 computes now: its loss is scaled, and overflows are looked for."""
        return self._overflow is not None and self._network is self._usual

    def _compute_in_float32(self) -> None:
        """Use another network until the next iteration, which follows the same weights."""
        self._forget()
        self._network = self._exact
        self._network.refresh()

    @cached_property
    def _exact(self) -> FoldedCAM:
        return self._folded_in("float32")

    def target_pass(self, scale: int, loss: Loss | None) -> tuple[Tensor, Tensor]:
        """CAM of the image at a scale, C x h x w, and its loss (0 without one) in float64.

        The gradient of the loss is added to that of the iteration.
        """
        if self._network not in self._frozen:
            self._frozen[self._network] = self._frozen_features(self._network)
        rows, size = self._frozen[self._network][scale], self._sizes[scale]
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
            if stop is not None and self._read(stop[None]) != [False]:
                return None
            result, numbers = work()
            return result, self._read(numbers, complete=True)
        result, numbers = work()
        numbers = torch.cat([stop[None].to(numbers.dtype), numbers])
        stopped, *numbers = self._read(numbers, complete=True)
        if stopped:
            self._gradients = {}
            return None
        return result, numbers

    def _read(self, numbers: Tensor, complete: bool = False) -> list[float]:
        """Numbers (N,) of the device and, in the same read, whether 16 bits have sufficed.

        complete: the gradients of the iteration are, which are unscaled here.
        """
        if not self._scaled:
            return numbers.tolist()
        sufficed = self._overflow.sufficed(self._gradients.values() if complete else ())
        *values, fine = torch.cat([numbers, sufficed[None].to(numbers.dtype)]).tolist()
        self._overflowed |= not fine or not all(map(math.isfinite, values))
        return values

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
        if self._scaled:
            self._overflow.see(outputs)
        if of in self._gradients and gradients is not None:
            torch._foreach_add_(self._gradients[of], gradients)
        elif gradients is not None:
            self._gradients[of] = self._in_full(gradients)
        return outputs, value

    def _in_full(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Gradients that others can be added to: of one pass they may have 16 bits, sums never."""
        return [gradient.to(self._trained[0].dtype) for gradient in gradients]

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
                if self._scaled:
                    of_part = of_part * LOSS_SCALE
                new = torch.autograd.grad(of_part, self._network.trained)
                if gradients is None:
                    gradients = new
                else:
                    gradients = self._in_full(gradients)
                    torch._foreach_add_(gradients, new)
            outputs.append(output.detach())
        value = self._no_loss if value is None else value
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs), value, gradients
