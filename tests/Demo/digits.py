"""Synthetic twos and eights, for tests of the toy experiment without MNIST."""

import numpy as np

from Dataset.objects import ellipse, limb, smooth_noise
from Dataset.scene import Pose

SIDE = 28  # pixels of a digit's image, as in MNIST
_HALF_HEIGHT = 10.0  # pixels of a digit, as in MNIST


def draw_digits(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Twos and eights, no two alike: N x 28 x 28 in 0..255 (uint8), and which they are (N)."""
    values = rng.choice((2, 8), count)
    return np.stack([_draw(rng, int(value)) for value in values]), values


def _draw(rng: np.random.Generator, value: int) -> np.ndarray:
    middle = (SIDE - 1) / 2
    pose = Pose((middle, middle), _HALF_HEIGHT / 1.1, tilt=rng.normal(0.0, 0.12))
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    u, v = pose.to_object(rows, columns)
    u, v = (axis + 0.07 * smooth_noise(rng, u.shape, 9.0) for axis in (u, v))
    u = u / rng.uniform(0.8, 1.15)
    half = rng.uniform(0.09, 0.17)
    distance = np.min(_strokes(u, v, value, half), axis=0)
    return np.rint(255 * np.clip(0.5 - distance * pose.scale, 0, 1)).astype(np.uint8)


def _strokes(u: np.ndarray, v: np.ndarray, value: int, half: float) -> list[np.ndarray]:
    """Distances to the strokes of a digit of height 2, `half` as wide as twice that."""
    if value == 8:
        rings = (((0.0, -0.5), (0.45, 0.46)), ((0.0, 0.48), (0.55, 0.5)))
        return [np.abs(ellipse(u, v, *ring)) - half for ring in rings]
    angles = np.linspace(-3.0, 0.6, 9)
    arc = [(0.55 * np.cos(angle), -0.45 + 0.5 * np.sin(angle)) for angle in angles]
    points = [*arc, (-0.55, 0.92), (0.62, 0.92)]
    return [limb(u, v, *ends, (half, half)) for ends in zip(points, points[1:], strict=False)]
