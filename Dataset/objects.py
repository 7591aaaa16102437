"""How objects of the drawn sample look: textures and shapes; objects.json has the classes.

Every class is a composite of parts that differ in how much they tell about it: a small head with
strong colours, a body whose texture belongs to the class but whose colour and brightness vary, and
limbs. How much a classifier trusts heads more than bodies depends on how often bodies look like
those of another class in its training images (`with_body_of`): looking at the most telling part
only is the flaw of class activation maps that RIB is about.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

Colour = tuple[float, float, float]  # RGB in 0..1
Point = tuple[float, float]  # (u, v) in object units: u to the right, v downwards
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]  # u, v -> signed distance, < 0 inside


# --- textures -----------------------------------------------------------------------------------


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], cell: float | Point, octaves: int = 1
) -> np.ndarray:
    """Smooth random field, H x W float32 with mean 0 and standard deviation 1.

    size: (H, W). cell: distance between independent values in pixels, or (cell_y, cell_x) for a
    grain with a direction. Every further octave has half the cell and half the weight.
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


def _plain(u: np.ndarray, v: np.ndarray, rough: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 0.25 * rough, 0, 1)


def _stripes(u: np.ndarray, v: np.ndarray, rough: np.ndarray) -> np.ndarray:
    return _soft_step(np.sin(2 * np.pi * u + 1.3 * rough) - 0.2)


def _spots(u: np.ndarray, v: np.ndarray, rough: np.ndarray) -> np.ndarray:
    return _soft_step(rough - 0.55, 5.0)


def _wool(u: np.ndarray, v: np.ndarray, rough: np.ndarray) -> np.ndarray:
    return np.clip(1.1 - 1.3 * np.abs(rough), 0, 1)


def _feathers(u: np.ndarray, v: np.ndarray, rough: np.ndarray) -> np.ndarray:
    row = np.floor(v)
    across = (u + 0.5 * (row % 2)) % 1 - 0.5
    return _soft_step(np.hypot(across * 1.5, v - row) - 0.75 + 0.08 * rough, 5.0)


def _gloss(u: np.ndarray, v: np.ndarray, rough: np.ndarray) -> np.ndarray:
    return np.exp(-(((u + 0.5) / 0.22) ** 2)) + 0.45 * np.exp(-(((u - 0.65) / 0.12) ** 2))


def _lacquer(u: np.ndarray, v: np.ndarray, rough: np.ndarray) -> np.ndarray:
    seam = np.exp(-(((u % 1 - 0.5) / 0.03) ** 2))
    return np.clip(_soft_step(np.sin(2 * np.pi * v + 0.5 * rough), 2.0) * (1 - seam), 0, 1)


def _diamonds(u: np.ndarray, v: np.ndarray, rough: np.ndarray) -> np.ndarray:
    return _soft_step(np.sin(np.pi * (u + v)) * np.sin(np.pi * (u - v)), 6.0)


# A pattern maps coordinates in units of its period, and rough noise of that cell, to 0..1.
PATTERNS: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": _plain,
    "stripes": _stripes,
    "spots": _spots,
    "wool": _wool,
    "feathers": _feathers,
    "gloss": _gloss,
    "lacquer": _lacquer,
    "diamonds": _diamonds,
}


@dataclass(frozen=True)
class Skin:
    """How a surface looks: two colours mixed by a pattern.

    period: size of the pattern in object units. vary, tint: standard deviations of the random
    change in brightness and in the single channels; they decide how telling the colour is.
    """

    first: Colour
    second: Colour
    pattern: str = "plain"
    period: float = 0.12
    vary: float = 0.02
    tint: float = 0.015

    def render(
        self, rng: np.random.Generator, u: np.ndarray, v: np.ndarray, scale: float
    ) -> np.ndarray:
        """Colours at the object coordinates u, v (H x W): H x W x 3 float32, about 0..1.

        scale: pixels per object unit.
        """
        rough = smooth_noise(rng, u.shape, max(2.0, self.period * scale), octaves=2)
        weight = PATTERNS[self.pattern](u / self.period, v / self.period, rough)
        shift = rng.normal(0, self.tint, 3) + rng.normal(0, self.vary)
        first, second = np.float32(self.first), np.float32(self.second)
        colour = first + (second - first) * weight[..., None] + shift.astype(np.float32)
        return colour * (1 + 0.05 * smooth_noise(rng, u.shape, 2.0))[..., None]


# --- shapes: signed distances in object units ---------------------------------------------------


def _ellipse(u: np.ndarray, v: np.ndarray, centre: Point, radii: Point, tilt: float = 0.0):
    du, dv = u - centre[0], v - centre[1]
    cos, sin = math.cos(tilt), math.sin(tilt)
    along, across = cos * du + sin * dv, cos * dv - sin * du
    radius = np.hypot(along / radii[0], across / radii[1])
    slope = np.hypot(along / radii[0] ** 2, across / radii[1] ** 2)
    return radius * (radius - 1) / (slope + 1e-6)  # first-order distance to an ellipse


def _limb(u: np.ndarray, v: np.ndarray, start: Point, end: Point, radii: Point):
    du, dv = end[0] - start[0], end[1] - start[1]
    along = np.clip(((u - start[0]) * du + (v - start[1]) * dv) / (du**2 + dv**2), 0, 1)
    distance = np.hypot(u - start[0] - along * du, v - start[1] - along * dv)
    return distance - (radii[0] + along * (radii[1] - radii[0]))


def _polygon(u: np.ndarray, v: np.ndarray, corners: Sequence[Point], rounding: float = 0.02):
    """Convex polygon, corners clockwise as seen on the screen."""
    sides = []
    for (u0, v0), (u1, v1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = math.hypot(u1 - u0, v1 - v0)
        sides.append(((v1 - v0) * (u - u0) - (u1 - u0) * (v - v0)) / length)
    return np.max(sides, axis=0) - rounding


def ellipse(centre: Point, radii: Point, tilt: float = 0.0) -> Shape:
    """Ellipse, turned by `tilt` radians."""
    return partial(_ellipse, centre=centre, radii=radii, tilt=tilt)


def limb(start: Point, end: Point, radii: Point) -> Shape:
    """Stroke between two points; radii: half its width at each of them."""
    return partial(_limb, start=start, end=end, radii=radii)


# --- classes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One piece of an object, painted over the parts before it.

    telling: the part belongs to the most telling region and moves with it. bevel: width of the
    shaded rim in object units.
    """

    shape: Shape
    skin: str
    telling: bool = False
    bevel: float = 0.12


@dataclass(frozen=True)
class ObjectClass:
    """What an object of a class looks like, facing right, centred on (0, 0).

    half_size: half width and half height of all parts. telling: centre of the telling region.
    parts: from back to front. skins: the surfaces that the parts name. bend: how much the outline
    of one object differs from that of the next, in object units (little for what is rigid).
    """

    name: str
    half_size: Point
    telling: Point
    parts: Sequence[Part]
    skins: Mapping[str, Skin]
    bend: float = 0.025


def body_skins(kind: ObjectClass) -> list[str]:
    """Names of the skins that only parts outside the telling region wear."""
    telling = {part.skin for part in kind.parts if part.telling}
    worn = dict.fromkeys(part.skin for part in kind.parts if not part.telling)
    return [name for name in worn if name not in telling]


def with_body_of(kind: ObjectClass, donor: ObjectClass) -> ObjectClass:
    """An object whose body wears another class's skins, so that only its telling part is sure."""
    donated = [donor.skins[name] for name in body_skins(donor)]
    changed = {name: donated[i % len(donated)] for i, name in enumerate(body_skins(kind))}
    return replace(kind, skins={**kind.skins, **changed})


_SHAPES = {"ellipse": _ellipse, "limb": _limb, "polygon": _polygon}


def _part(skin: str, kind: str, telling: bool = False, bevel: float = 0.12, **geometry) -> Part:
    return Part(partial(_SHAPES[kind], **geometry), skin, telling, bevel)


def read_classes(layout: str) -> tuple[ObjectClass, ...]:
    """The classes of a sample, "voc" or "coco", from the table in objects.json."""
    table = json.loads(Path(__file__).with_name("objects.json").read_text(encoding="utf-8"))
    return tuple(
        ObjectClass(
            **{
                **entry,
                "parts": [_part(**part) for part in entry["parts"]],
                "skins": {name: Skin(**skin) for name, skin in entry["skins"].items()},
            }
        )
        for entry in table[layout]
    )


OBJECT_CLASSES = read_classes("voc")
COCO_OBJECT_CLASSES = read_classes("coco")
