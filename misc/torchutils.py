"""Pooling of class maps, the optimiser, and seeded randomness."""

import hashlib
import random
from collections.abc import Callable, Iterable

import torch


def gap2d(x: torch.Tensor, keepdims: bool = False) -> torch.Tensor:
    """Global average pooling, B x C x H x W -> B x C (B x C x 1 x 1 with keepdims)."""
    return x.mean(dim=(2, 3), keepdim=keepdims)


def gndp2d(
    x: torch.Tensor,
    present: torch.Tensor,
    score_th: float = 0.4,
    keepdims: bool = False,
    num_pooled_classes: int | None = None,
) -> torch.Tensor:
    """Global non-discriminative region pooling (RIB, Sec. 3), B x C x H x W -> B x C.

    x: raw class maps, negative scores included.
    present: B x C, or C for all images alike, bool or 0/1: the classes whose discriminative pixels
        are left out, i.e. count as zero in the average over the whole map. The others are averaged
        in full.
    score_th: threshold tau; a pixel is kept when its score divided by the map's maximum is strictly
        below it. The choice of pixels carries no gradient. The maximum is taken with its sign: a
        map that is negative everywhere keeps no pixel.
    num_pooled_classes: leaves pixels out for the first so many classes only. 20 gives what the
        original implementation does on COCO; None treats all classes.
    """
    present = present.bool()
    if num_pooled_classes is not None:
        first = torch.arange(x.shape[1], device=present.device) < num_pooled_classes
        present = present & first
    with torch.no_grad():
        # With a maximum of 0 the quotient is -inf (kept) or, at the maximum itself, nan (left out).
        kept = x / x.amax(dim=(2, 3), keepdim=True) < score_th
        kept |= ~present[..., None, None]
    return torch.where(kept, x, 0).mean(dim=(2, 3), keepdim=keepdims)


class PolyOptimizer(torch.optim.SGD):
    """SGD whose rates follow initial rate x (1 - step / max_step)^power.

    From step max_step on the rates stay as they are. `global_step` counts the steps taken; it is
    part of the state dict, so that a resumed training goes on with the right rates. Each parameter
    group may bring its own `lr`.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        weight_decay: float,
        max_step: int,
        power: float = 0.9,
    ) -> None:
        # The momentum equals the weight decay. The original implementation does that by passing
        # its arguments by position; its published numbers come from it, so it is kept.
        super().__init__(params, lr=lr, momentum=weight_decay, weight_decay=weight_decay)
        self.global_step = 0
        self.max_step = max_step
        self.power = power
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update at the rates of `global_step`."""
        if self.global_step < self.max_step:
            factor = (1 - self.global_step / self.max_step) ** self.power
            for group in self.param_groups:
                group["lr"] = group["initial_lr"] * factor
        loss = super().step(closure)
        self.global_step += 1
        return loss

    def state_dict(self) -> dict:
        """The state of SGD and, under "global_step", the number of steps taken."""
        return {**super().state_dict(), "global_step": self.global_step}

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes over what `state_dict` returned, momentum buffers and step count included."""
        super().load_state_dict(state_dict)
        self.global_step = state_dict["global_step"]


def parameter_groups(
    backbone: list[torch.nn.Parameter],
    new: list[torch.nn.Parameter],
    lr: float,
    weight_decay: float,
) -> list[dict]:
    """Groups for PolyOptimizer: the second list of parameters learns 10 times faster (IRN, RIB)."""
    return [
        {"params": list(params), "lr": rate, "weight_decay": weight_decay}
        for params, rate in ((backbone, lr), (new, 10 * lr))
    ]


def worker_rng(seed: int, *parts: int | str) -> random.Random:
    """A generator that depends on the seed and the parts alone, e.g. worker_rng(seed, image_id).

    What is drawn for an image is then the same in whichever process or order it is handled.
    """
    text = "\0".join(str(part) for part in (seed, *parts))
    digest = hashlib.sha256(text.encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))
