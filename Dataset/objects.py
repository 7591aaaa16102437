"""Objects of the synthetic sample: textures and shapes; objects.json has the classes.

A class has a small head with strong colours (its discriminative region), a body whose texture
belongs to the class but whose colour and brightness vary, and limbs. A classifier trusts heads more
than bodies where training images mix bodies up (`with_body_of`): the flaw of CAMs that RIB mends.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

Colour = tuple[float, float, float]  # RGB in 0..1
Point = tuple[float, float]  # (u, v) in object units: u to the right, v downwards


def smooth_noise(
    rng: Generator, size: tuple[int, int], cell: float | Point, octaves: int = 1
) -> np.ndarray:
    """Smooth random field, H x W float32 with mean 0 and standard deviation 1.

    cell: distance between independent values in pixels, or (cell_y, cell_x). Every further octave
    has half the cell and half the weight.
    """
    cells = np.broadcast_to(cell, 2)
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        steps = [max(2, round(n * 2**octave / c) + 1) for n, c in zip(size, cells, strict=True)]
        grid = Image.fromarray(rng.standard_normal(steps, np.float32))
        total += np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC)) * 0.5**octave
    return (total - total.mean()) / (total.std() + 1e-6)


def _soft_step(value: np.ndarray, sharpness: float = 3.0) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(sharpness * value)


def _feathers(u: np.ndarray, v: np.ndarray, rough: np.ndarray) -> np.ndarray:
    row = np.floor(v)
    across = (u + 0.5 * (row % 2)) % 1 - 0.5
    return _soft_step(np.hypot(across * 1.5, v - row) - 0.75 + 0.08 * rough, 5.0)


def _lacquer(u: np.ndarray, v: np.ndarray, rough: np.ndarray) -> np.ndarray:
    seam = np.exp(-(((u % 1 - 0.5) / 0.03) ** 2))
    return np.clip(_soft_step(np.sin(2 * np.pi * v + 0.5 * rough), 2.0) * (1 - seam), 0, 1)


# A pattern maps coordinates u, v in units of its period, and rough noise of that cell, to 0..1.
PATTERNS: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": lambda u, v, rough: np.clip(0.5 + 0.25 * rough, 0, 1),
    "stripes": lambda u, v, rough: _soft_step(np.sin(2 * np.pi * u + 1.3 * rough) - 0.2),
    "spots": lambda u, v, rough: _soft_step(rough - 0.55, 5.0),
    "wool": lambda u, v, rough: np.clip(1.1 - 1.3 * np.abs(rough), 0, 1),
    "feathers": _feathers,
    "gloss": lambda u, v, rough: (
        np.exp(-(((u + 0.5) / 0.22) ** 2)) + 0.45 * np.exp(-(((u - 0.65) / 0.12) ** 2))
    ),
    "lacquer": _lacquer,
    "diamonds": lambda u, v, rough: _soft_step(
        np.sin(np.pi * (u + v)) * np.sin(np.pi * (u - v)), 6.0
    ),
}


@dataclass(frozen=True)
class Skin:
    """Look of a surface: two colours mixed by a pattern, whose period is in object units.

    vary, tint: standard deviations of the random change in brightness and in single channels.
    """

    first: Colour
    second: Colour
    pattern: str = "plain"
    period: float = 0.12
    vary: float = 0.02
    tint: float = 0.015

    def render(self, rng: Generator, u: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
        """Colours at u, v (H x W): H x W x 3 float32, about 0..1. scale: pixels per object unit."""
        rough = smooth_noise(rng, u.shape, max(2.0, self.period * scale), octaves=2)
        weight = PATTERNS[self.pattern](u / self.period, v / self.period, rough)
        shift = rng.normal(0, self.tint, 3) + rng.normal(0, self.vary)
        first, second = np.float32(self.first), np.float32(self.second)
        colour = first + (second - first) * weight[..., None] + shift.astype(np.float32)
        return colour * (1 + 0.05 * smooth_noise(rng, u.shape, 2.0))[..., None]


# Shapes: signed distances in object units, negative inside.


def ellipse(u: np.ndarray, v: np.ndarray, centre: Point, radii: Point, tilt: float = 0.0):
    """Ellipse, turned by `tilt` radians."""
    du, dv = u - centre[0], v - centre[1]
    cos, sin = math.cos(tilt), math.sin(tilt)
    along, across = cos * du + sin * dv, cos * dv - sin * du
    radius = np.hypot(along / radii[0], across / radii[1])
    slope = np.hypot(along / radii[0] ** 2, across / radii[1] ** 2)
    return radius * (radius - 1) / (slope + 1e-6)  # first-order distance to an ellipse


def limb(u: np.ndarray, v: np.ndarray, start: Point, end: Point, radii: Point):
    """Stroke between two points; radii: half its width at each of them."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along = np.clip(((u - start[0]) * du + (v - start[1]) * dv) / (du**2 + dv**2), 0, 1)
    distance = np.hypot(u - start[0] - along * du, v - start[1] - along * dv)
    return distance - (radii[0] + along * (radii[1] - radii[0]))


def polygon(u: np.ndarray, v: np.ndarray, corners: Sequence[Point], rounding: float = 0.02):
    """Convex polygon, corners clockwise as seen on the screen."""
    sides = []
    for (u0, v0), (u1, v1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = math.hypot(u1 - u0, v1 - v0)
        sides.append(((v1 - v0) * (u - u0) - (u1 - u0) * (v - v0)) / length)
    return np.max(sides, axis=0) - rounding


@dataclass(frozen=True)
class Part:
    """One piece of an object, painted over the parts before it.

    discriminative: it moves with the discriminative region. bevel: width of the shaded rim in
    object units. geometry: further arguments of the shape.
    """

    shape: Callable[..., np.ndarray]
    skin: str
    discriminative: bool
    bevel: float
    geometry: Mapping

    def distance(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Signed distance to the part at the object coordinates u, v."""
        return self.shape(u, v, **self.geometry)


@dataclass(frozen=True)
class ObjectClass:
    """A class: half_size of all parts (width, height), and the centre of its discriminative region.

    parts: from back to front. bend: difference between the contours of two objects, in units.
    """

    name: str
    half_size: Point
    discriminative: Point
    parts: Sequence[Part]
    skins: Mapping[str, Skin]
    bend: float = 0.025


def _body_skins(kind: ObjectClass) -> list[str]:
    """Names of the skins that only parts outside the discriminative region wear."""
    head = {part.skin for part in kind.parts if part.discriminative}
    worn = dict.fromkeys(part.skin for part in kind.parts if not part.discriminative)
    return [name for name in worn if name not in head]


def with_body_of(kind: ObjectClass, donor: ObjectClass) -> ObjectClass:
    """An object whose body wears another class's skins; its discriminative region stays."""
    donated = [donor.skins[name] for name in _body_skins(donor)]
    changed = {name: donated[i % len(donated)] for i, name in enumerate(_body_skins(kind))}
    return replace(kind, skins={**kind.skins, **changed})


def _part(skin: str, kind: str, discriminative=False, bevel=0.12, **geometry) -> Part:
    shape = {"ellipse": ellipse, "limb": limb, "polygon": polygon}[kind]
    return Part(shape, skin, discriminative, bevel, geometry)


def _read_classes(layout: str) -> tuple[ObjectClass, ...]:
    table = json.loads(Path(__file__).with_name("objects.json").read_text(encoding="utf-8"))
    classes = []
    for entry in table[layout]:
        parts = [_part(**part) for part in entry.pop("parts")]
        skins = {name: Skin(**skin) for name, skin in entry.pop("skins").items()}
        classes.append(ObjectClass(**entry, parts=parts, skins=skins))
    return tuple(classes)


OBJECT_CLASSES = _read_classes("voc")
COCO_OBJECT_CLASSES = _read_classes("coco")
