"""The optimizer of every training but the segmentation network's."""

from collections.abc import Callable, Iterable

import torch


class PolyOptimizer(torch.optim.SGD):
    """SGD whose learning rates follow initial rate x (1 - step / max_step)^power, by group.

    `global_step` counts the steps taken; from max_step on the rates stay as they are.
    """

    def __init__(
        self, params: Iterable, lr: float, weight_decay: float, max_step: int, power: float = 0.9
    ) -> None:
        # The momentum equals the weight decay. The original implementation does that by passing
        # its arguments by position; its published numbers come from it, so it is kept.
        super().__init__(params, lr=lr, momentum=weight_decay, weight_decay=weight_decay)
        self.global_step, self.max_step, self.power = 0, max_step, power
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
        super().load_state_dict(state_dict)
        self.global_step = state_dict["global_step"]


def parameter_groups(backbone: Iterable, new: Iterable, lr: float, weight_decay: float) -> list:
    """Groups for PolyOptimizer: the second parameters learn 10 times faster (IRN, RIB)."""
    rates = ((backbone, lr), (new, 10 * lr))
    return [{"params": list(p), "lr": rate, "weight_decay": weight_decay} for p, rate in rates]
