"""float16: what its range needs, which ends at 65,504 and fades out below 6e-8."""

from collections.abc import Iterable

import torch
from torch import Tensor

# Gradients are multiplied by it on their way back. Those of RIB's loss, which is linear in the
# logits, are about 1e-5 where they enter the features: 1e-8 would be lost, 60 is far from the end.
LOSS_SCALE = 1024.0


class Overflow:
    """Whether 16 bits have sufficed for an iteration: its maps, and the gradients of its loss."""

    def __init__(self, device: torch.device):
        self._unscale = torch.full((), 1 / LOSS_SCALE, device=device)
        self._finite: list[Tensor] = []

    def begin(self) -> None:
        """Forget what has been seen."""
        self._finite = []

    def see(self, maps: Tensor) -> None:
        """Look at raw maps, of any shape; negative infinity would vanish in what follows."""
        self._finite.append(maps.isfinite().all())

    def sufficed(self, gradients: Iterable[list[Tensor]] = ()) -> Tensor:
        """Whether everything so far is finite, 0-dim bool; nothing is waited for.

        gradients: of the scaled loss, in float32; they are divided by the scale here.
        """
        found = torch.zeros((), device=self._unscale.device)
        for group in gradients:
            torch._amp_foreach_non_finite_check_and_unscale_(group, found, self._unscale)
        return torch.stack([*self._finite, found == 0]).all()
