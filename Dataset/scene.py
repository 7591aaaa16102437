"""Drawing of scenes: an image with the exact mask of every object in it.

All randomness comes from the generator that is passed in, and nothing in the background depends on
the classes of the objects.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from Dataset.objects import PATTERNS, ObjectClass, Skin, ellipse, smooth_noise

OCCLUSION_PROBABILITY = 0.12  # of the head, so that the body has to carry the label ...
CUT_PROBABILITY = 0.12  # ... and the same with the head beyond the image border
SHORT_SIDE, LONG_SIDE = (170, 205), (225, 280)  # pixels

# Pairs of colours (RGB in 0..1) and grain of the grounds (cell_y, cell_x, in pixels).
UPPER_GROUNDS = (
    ((0.45, 0.62, 0.82), (0.85, 0.9, 0.95), (24.0, 50.0)),  # sky with clouds
    ((0.78, 0.72, 0.62), (0.7, 0.63, 0.53), (60.0, 60.0)),  # wall
    ((0.2, 0.32, 0.18), (0.36, 0.46, 0.26), (14.0, 14.0)),  # wood in the distance
    ((0.62, 0.66, 0.7), (0.76, 0.78, 0.8), (40.0, 80.0)),  # fog
    ((0.45, 0.4, 0.42), (0.56, 0.5, 0.5), (30.0, 16.0)),  # curtain
)
LOWER_GROUNDS = (
    ((0.24, 0.42, 0.14), (0.44, 0.58, 0.24), (14.0, 4.0)),  # grass
    ((0.76, 0.68, 0.5), (0.66, 0.57, 0.4), (10.0, 30.0)),  # sand
    ((0.45, 0.45, 0.46), (0.56, 0.55, 0.55), (6.0, 10.0)),  # asphalt
    ((0.5, 0.36, 0.24), (0.6, 0.45, 0.31), (5.0, 60.0)),  # boards
    ((0.42, 0.33, 0.33), (0.56, 0.46, 0.42), (8.0, 12.0)),  # heath
    ((0.56, 0.58, 0.34), (0.4, 0.42, 0.22), (12.0, 5.0)),  # dry meadow
)
# Colours of stones, bushes and cushions: some of them are colours of objects too.
CLUTTER = ((0.5, 0.48, 0.45), (0.36, 0.33, 0.3), (0.22, 0.36, 0.18), (0.38, 0.48, 0.24),
           (0.55, 0.4, 0.26), (0.66, 0.6, 0.5), (0.42, 0.5, 0.58), (0.6, 0.36, 0.32))  # fmt: skip


Size = tuple[int, int]  # H, W
Window = tuple[slice, slice]


class Instance(NamedTuple):
    """One object: its class name and its visible pixels (H x W bool, at least one)."""

    name: str
    mask: np.ndarray


class Scene(NamedTuple):
    """image: H x W x 3 uint8 RGB. instances: disjoint masks, from back to front."""

    image: np.ndarray
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Pose:
    """Place of an object: centre (x, y) in pixels, pixels per object unit, tilt in radians."""

    centre: tuple[float, float]
    scale: float
    tilt: float = 0.0
    mirrored: bool = False

    def to_object(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Object units (u, v) of pixels; inverse of `to_image`."""
        x, y = (columns - self.centre[0]) / self.scale, (rows - self.centre[1]) / self.scale
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        u, v = cos * x + sin * y, cos * y - sin * x
        return (-u if self.mirrored else u), v

    def to_image(self, point: tuple[float, float]) -> tuple[float, float]:
        """Pixel position (x, y) of a point in object units."""
        u, v = (-point[0] if self.mirrored else point[0]), point[1]
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        x, y = cos * u - sin * v, sin * u + cos * v
        return self.centre[0] + self.scale * x, self.centre[1] + self.scale * y


def draw_scene(rng: Generator, objects: Sequence[ObjectClass], size: Size | None = None) -> Scene:
    """Draw one object for every entry of `objects` (none: background only) at random poses.

    size: (H, W) in pixels; random when left out, and three in four images are landscape.
    """
    if size is None:
        short, long = int(rng.integers(*SHORT_SIDE)), int(rng.integers(*LONG_SIDE))
        size = (short, long) if rng.random() < 0.75 else (long, short)
    canvas = _draw_ground(rng, size)
    for _ in range(rng.integers(1, 4)):
        _paint_distractor(rng, canvas, rng.uniform((0.3, 0), 1) * size, rng.uniform(0.08, 0.2))
    masks: list[np.ndarray] = []
    poses = _place(rng, objects, size)
    for kind, pose in zip(objects, poses, strict=True):
        _paint_shadow(canvas, kind, pose)
        covered = _paint_object(rng, canvas, kind, pose)
        masks = [mask & ~covered for mask in masks] + [covered]
    if objects and rng.random() < OCCLUSION_PROBABILITY:
        x, y = poses[-1].to_image(objects[-1].discriminative)
        covered = _paint_distractor(rng, canvas, (y, x), 0.36 * poses[-1].scale / min(size))
        masks = [mask & ~covered for mask in masks]
    instances = [Instance(kind.name, mask) for kind, mask in zip(objects, masks, strict=True)]
    return Scene(_expose(rng, canvas), tuple(i for i in instances if i.mask.any()))


def _draw_ground(rng: Generator, size: Size) -> np.ndarray:
    """Upper and lower ground that meet at a wavy horizon, H x W x 3 float32."""
    upper = _draw_texture(rng, size, UPPER_GROUNDS[rng.integers(len(UPPER_GROUNDS))])
    lower = _draw_texture(rng, size, LOWER_GROUNDS[rng.integers(len(LOWER_GROUNDS))])
    rows = np.arange(size[0], dtype=np.float32)[:, None] / size[0]
    wave = rng.uniform(0.0, 0.03) * smooth_noise(rng, size, (size[0] * 4, size[1] / 4), 3)
    softness = rng.uniform(80, 250)
    weight = 0.5 + 0.5 * np.tanh(softness * (rows + wave - rng.uniform(0.15, 0.5)))
    return upper + (lower - upper) * weight[..., None]


def _draw_texture(rng: Generator, size: Size, ground: tuple) -> np.ndarray:
    first, second, grain = ground
    weight = 0.5 + 0.3 * smooth_noise(rng, size, grain, octaves=3)
    drift = 0.6 * np.linspace(0, 1, size[0], dtype=np.float32)[:, None] - 0.3
    weight = np.clip(weight + rng.uniform(-1, 1) * drift, 0, 1)[..., None]
    shift = rng.normal(0, 0.02, 3) + rng.normal(0, 0.06)
    first, second = np.float32(first), np.float32(second)
    return first + (second - first) * weight + shift.astype(np.float32)


def _paint_distractor(
    rng: Generator, canvas: np.ndarray, centre: Sequence[float], radius: float
) -> np.ndarray:
    """Paint a bush, stone or cushion at (y, x), of a radius over the shorter side; H x W bool."""
    size = canvas.shape[:2]
    first, second = (CLUTTER[i] for i in rng.integers(len(CLUTTER), size=2))
    pattern = sorted(PATTERNS)[rng.integers(len(PATTERNS))]
    skin = Skin(first, second, pattern, rng.uniform(0.2, 0.4), vary=0.06, tint=0.03)
    pose = Pose((float(centre[1]), float(centre[0])), radius * min(size), rng.uniform(-0.5, 0.5))
    window = _window(size, pose, (1.6, 1.6))
    u, v = _warped_grid(rng, window, pose, 0.06)
    distance = ellipse(u, v, (0.0, 0.0), (1.0, rng.uniform(0.6, 0.95)))
    colours = skin.render(rng, u, v, pose.scale)
    covered = np.zeros(size, bool)
    covered[window] = _blend(canvas[window], colours, distance, v, pose.scale, bevel=0.4)
    return covered


def _expose(rng: Generator, canvas: np.ndarray) -> np.ndarray:
    """Light that falls off across the image, brightness and sensor noise; H x W x 3 uint8."""
    height, width = canvas.shape[:2]
    slope_y, slope_x = rng.uniform(-0.12, 0.12, 2)
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    light = rng.uniform(0.85, 1.1) * (1 + slope_y * rows + slope_x * columns)
    noise = 0.012 * rng.standard_normal((height, width, 1), np.float32)
    return np.rint(np.clip(canvas * light + noise, 0, 1) * 255).astype(np.uint8)


def _place(rng: Generator, objects: Sequence[ObjectClass], size: Size) -> list[Pose]:
    count = len(objects)
    fraction = {0: 1.0, 1: 1.0, 2: 0.58}.get(count, 1.3 / max(count, 1))
    long_axis = int(size[1] >= size[0])
    slots = rng.permutation(np.linspace(fraction / 2, 1 - fraction / 2, count))
    poses = []
    for kind, middle in zip(objects, slots, strict=True):
        slot = np.array(size, float)
        slot[long_axis] *= fraction
        centre = np.array(size) / 2
        centre[long_axis] = middle * size[long_axis]
        poses.append(_pose_in_slot(rng, kind, centre, slot))
        if rng.random() < CUT_PROBABILITY and count == 1:
            poses[-1] = _cut_head(kind, poses[-1], size)
    return poses


def _pose_in_slot(rng: Generator, kind: ObjectClass, centre: np.ndarray, slot: np.ndarray) -> Pose:
    """A pose in which an object fits into a slot with centre (y, x) and size (h, w) in pixels."""
    half = np.array(kind.half_size[::-1])
    scale = float((slot / (2 * half)).min()) * rng.uniform(0.78, 1.04)
    slack = np.maximum(slot / 2 - scale * half, 0)
    y, x = (centre + rng.uniform((-0.2, -1), (1, 1)) * slack).tolist()  # rather low: on the ground
    return Pose((x, y), scale, rng.normal(0, 0.08), bool(rng.integers(2)))


def _cut_head(kind: ObjectClass, pose: Pose, size: Size) -> Pose:
    """A pose moved so that the border of the image passes through the discriminative region."""
    head, centre = pose.to_image(kind.discriminative), list(pose.centre)
    axis = 0 if abs(kind.discriminative[0]) > abs(kind.discriminative[1]) else 1
    border = 0 if head[axis] < centre[axis] else size[1 - axis]
    centre[axis] += border - head[axis]
    return replace(pose, centre=tuple(centre))


def _paint_object(rng: Generator, canvas: np.ndarray, kind: ObjectClass, pose: Pose) -> np.ndarray:
    window = _window(canvas.shape[:2], pose, kind.half_size)
    u, v = _warped_grid(rng, window, pose, kind.bend)
    v = v * rng.uniform(1.0, 1.12)
    nod = rng.uniform(-2.4, 2.4, 2) * kind.bend
    skins = {name: skin.render(rng, u, v, pose.scale) for name, skin in kind.skins.items()}
    covered = np.zeros(canvas.shape[:2], bool)
    for part in kind.parts:
        du, dv = nod.tolist() if part.discriminative else (0.0, 0.0)
        distance, skin = part.distance(u - du, v - dv), skins[part.skin]
        covered[window] |= _blend(canvas[window], skin, distance, v, pose.scale, part.bevel)
    return covered


def _paint_shadow(canvas: np.ndarray, kind: ObjectClass, pose: Pose) -> None:
    width, height = kind.half_size
    window = _window(canvas.shape[:2], pose, (1.2 * width, 1.4 * height))
    u, v = pose.to_object(*_pixels(window))
    depth = np.hypot(u / (0.95 * width), (v - 0.95 * height) / 0.14)
    canvas[window] *= 1 - 0.4 * np.exp(-(depth[..., None] ** 2))


def _window(size: Size, pose: Pose, half_size: tuple[float, float]) -> Window:
    """Slices of the image that hold an object of that half width and half height."""
    reach = 1.15 * pose.scale * np.hypot(*half_size) + 2
    reach_x = min(reach, pose.scale * (half_size[0] + 0.35) + 4)
    reach_y = min(reach, pose.scale * (half_size[1] + 0.35) + 4)
    x, y = pose.centre
    rows = slice(max(0, int(y - reach_y)), max(0, min(size[0], int(y + reach_y))))
    return rows, slice(max(0, int(x - reach_x)), max(0, min(size[1], int(x + reach_x))))


def _pixels(window: Window) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = (np.arange(s.start, s.stop, dtype=np.float32) for s in window)
    return rows[:, None], columns[None, :]


def _warped_grid(
    rng: Generator, window: Window, pose: Pose, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Object units of a window, bent smoothly so that no two objects are equal."""
    u, v = pose.to_object(*_pixels(window))
    bend = (smooth_noise(rng, u.shape, 0.4 * pose.scale) for _ in range(2))
    return tuple(axis + strength * field for axis, field in zip((u, v), bend, strict=True))


def _blend(patch, colours, distance, v, scale: float, bevel: float) -> np.ndarray:
    """Paint colours where distance < 0, in place; return the pixels that are covered, H x W bool.

    patch, colours: H x W x 3. distance, v: in object units, H x W.
    """
    opacity = np.clip(0.5 - distance * scale, 0, 1)
    inside = np.clip(-distance / bevel, 0, 1)
    light = (0.66 + 0.36 * np.sqrt(inside)) * (1.02 - 0.14 * v)
    patch += (colours * light[..., None] - patch) * opacity[..., None]
    return opacity > 0.5
