"""Pooling of class maps, the optimiser, and seeded randomness."""

import hashlib
import random

import torch

# By this module users of the original know them.
from misc.rib import gndp2d  # noqa: F401
from misc.runtime.optimizer import PolyOptimizer, parameter_groups  # noqa: F401


def gap2d(x: torch.Tensor) -> torch.Tensor:
    """Global average pooling, B x C x H x W -> B x C."""
    return x.mean(dim=(2, 3))


def worker_rng(seed: int, *parts: int | str) -> random.Random:
    """A generator that depends on the seed and the parts alone, e.g. worker_rng(seed, image_id)."""
    text = "\0".join(str(part) for part in (seed, *parts))
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))
