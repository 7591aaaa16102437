"""What the objects of the drawn sample look like: textures, shapes and a table of classes.

Every class is a composite of parts that differ in how much they tell about it: a small head with
strong colours, a body whose texture belongs to the class but whose colour and brightness vary, and
limbs. How much a classifier trusts heads more than bodies depends on how often bodies look like
those of another class in its training images (`with_body_of`): looking at the most telling part
only is the flaw of class activation maps that RIB is about.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

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
    """Round-ended bar from `start` to `end`, with one radius at each end."""
    return partial(_limb, start=start, end=end, radii=radii)


def polygon(*corners: Point, rounding: float = 0.02) -> Shape:
    """Convex polygon; corners clockwise as seen on the screen."""
    return partial(_polygon, corners=corners, rounding=rounding)


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


def _head(*parts: tuple[Shape, str]) -> tuple[Part, ...]:
    return tuple(Part(shape, skin, telling=True, bevel=0.05) for shape, skin in parts)


def _eye(u: float, v: float, radius: float) -> tuple[Part, ...]:
    glint = (u + 0.3 * radius, v - 0.3 * radius)
    return _head(
        (ellipse((u, v), (radius, radius)), "eye"),
        (ellipse((u, v), (0.45 * radius, 0.75 * radius)), "black"),
        (ellipse(glint, (0.25 * radius, 0.25 * radius)), "white"),
    )


BLACK = Skin((0.06, 0.06, 0.07), (0.12, 0.11, 0.12))
WHITE = Skin((0.95, 0.95, 0.93), (0.88, 0.88, 0.88))

CAT = ObjectClass(
    name="cat",
    half_size=(1.0, 0.72),
    telling=(0.6, -0.28),
    parts=(
        Part(limb((-0.62, 0.1), (-0.88, -0.3), (0.1, 0.08)), "coat", bevel=0.08),
        Part(limb((-0.88, -0.3), (-0.72, -0.58), (0.08, 0.06)), "coat", bevel=0.08),
        Part(limb((0.28, 0.25), (0.36, 0.6), (0.13, 0.09)), "shade"),
        Part(limb((-0.42, 0.25), (-0.36, 0.6), (0.16, 0.09)), "shade"),
        Part(ellipse((-0.1, 0.1), (0.64, 0.34), -0.1), "coat", bevel=0.25),
        Part(limb((0.4, 0.15), (0.5, 0.6), (0.15, 0.09)), "coat"),
        Part(limb((-0.5, 0.2), (-0.56, 0.6), (0.19, 0.09)), "coat"),
        *_head(
            (polygon((0.34, -0.38), (0.34, -0.7), (0.58, -0.5)), "coat"),
            (polygon((0.66, -0.5), (0.9, -0.7), (0.9, -0.38)), "coat"),
            (polygon((0.4, -0.46), (0.39, -0.6), (0.5, -0.52), rounding=0.0), "pink"),
            (polygon((0.75, -0.52), (0.86, -0.6), (0.85, -0.46), rounding=0.0), "pink"),
            (ellipse((0.62, -0.26), (0.34, 0.29)), "face"),
            (ellipse((0.62, -0.12), (0.2, 0.13)), "white"),
            (polygon((0.56, -0.2), (0.68, -0.2), (0.62, -0.13), rounding=0.01), "pink"),
        ),
        *_eye(0.48, -0.32, 0.085),
        *_eye(0.76, -0.32, 0.085),
    ),
    skins={
        "coat": Skin((0.72, 0.5, 0.28), (0.4, 0.25, 0.13), "stripes", 0.17, 0.1, 0.03),
        "shade": Skin((0.55, 0.37, 0.2), (0.32, 0.2, 0.1), "stripes", 0.17, 0.08, 0.03),
        "face": Skin((0.93, 0.6, 0.22), (0.5, 0.26, 0.08), "stripes", 0.15, 0.02),
        "pink": Skin((0.95, 0.55, 0.58), (0.88, 0.45, 0.5)),
        "eye": Skin((0.45, 0.9, 0.2), (0.35, 0.8, 0.15)),
        "black": BLACK,
        "white": WHITE,
    },
)

DOG = ObjectClass(
    name="dog",
    half_size=(1.0, 0.78),
    telling=(0.62, -0.34),
    parts=(
        Part(limb((-0.6, -0.1), (-0.88, -0.5), (0.09, 0.05)), "coat", bevel=0.06),
        Part(limb((0.26, 0.2), (0.32, 0.68), (0.14, 0.07)), "shade"),
        Part(limb((-0.42, 0.2), (-0.36, 0.68), (0.15, 0.07)), "shade"),
        Part(limb((0.3, 0.0), (0.55, -0.32), (0.22, 0.18)), "coat"),
        Part(ellipse((-0.1, 0.05), (0.62, 0.28), 0.08), "coat", bevel=0.22),
        Part(ellipse((0.25, 0.08), (0.27, 0.31)), "coat", bevel=0.2),
        Part(limb((0.36, 0.2), (0.42, 0.7), (0.14, 0.07)), "coat"),
        Part(limb((-0.54, 0.15), (-0.6, 0.7), (0.18, 0.07)), "coat"),
        *_head(
            (limb((0.27, -0.22), (0.56, 0.0), (0.055, 0.055)), "collar"),
            (limb((0.62, -0.36), (0.84, -0.22), (0.17, 0.11)), "muzzle"),
            (ellipse((0.56, -0.4), (0.24, 0.25)), "face"),
            (limb((0.38, -0.5), (0.34, -0.16), (0.09, 0.12)), "ear"),
            (limb((0.72, -0.54), (0.78, -0.42), (0.06, 0.07)), "ear"),
            (ellipse((0.92, -0.27), (0.075, 0.065)), "black"),
            (limb((0.78, -0.12), (0.8, -0.02), (0.045, 0.05)), "tongue"),
        ),
        *_eye(0.62, -0.43, 0.065),
    ),
    skins={
        "coat": Skin((0.9, 0.87, 0.82), (0.27, 0.2, 0.17), "spots", 0.2, 0.07, 0.02),
        "shade": Skin((0.68, 0.65, 0.61), (0.2, 0.15, 0.13), "spots", 0.2, 0.06, 0.02),
        "face": Skin((0.5, 0.26, 0.1), (0.6, 0.33, 0.14)),
        "muzzle": Skin((0.93, 0.9, 0.85), (0.85, 0.8, 0.75)),
        "ear": Skin((0.2, 0.11, 0.07), (0.28, 0.16, 0.1)),
        "collar": Skin((0.85, 0.08, 0.12), (0.95, 0.85, 0.2), "stripes", 0.12),
        "tongue": Skin((0.93, 0.35, 0.42), (0.85, 0.3, 0.36)),
        "eye": Skin((0.75, 0.5, 0.1), (0.65, 0.42, 0.08)),
        "black": BLACK,
        "white": WHITE,
    },
)

SHEEP = ObjectClass(
    name="sheep",
    half_size=(1.04, 0.8),
    telling=(0.68, -0.2),
    parts=(
        Part(limb((0.3, 0.25), (0.32, 0.66), (0.08, 0.055)), "leg", bevel=0.06),
        Part(limb((-0.38, 0.25), (-0.36, 0.66), (0.08, 0.055)), "leg", bevel=0.06),
        Part(limb((0.12, 0.3), (0.12, 0.66), (0.08, 0.06)), "leg", bevel=0.06),
        Part(limb((-0.55, 0.25), (-0.56, 0.66), (0.08, 0.06)), "leg", bevel=0.06),
        Part(ellipse((-0.84, -0.05), (0.11, 0.17), 0.3), "wool"),
        Part(ellipse((-0.45, -0.06), (0.4, 0.4)), "wool", bevel=0.2),
        Part(ellipse((0.35, -0.05), (0.36, 0.38)), "wool", bevel=0.2),
        Part(ellipse((-0.05, 0.0), (0.66, 0.46)), "wool", bevel=0.3),
        *_head(
            (ellipse((0.48, -0.3), (0.16, 0.07), 0.35), "ear"),
            (ellipse((0.86, -0.34), (0.13, 0.06), -0.5), "ear"),
            (ellipse((0.7, -0.16), (0.19, 0.27), -0.3), "face"),
            (ellipse((0.63, -0.42), (0.2, 0.12)), "tuft"),
            (ellipse((0.79, 0.03), (0.09, 0.06), -0.3), "nose"),
        ),
        *_eye(0.62, -0.22, 0.055),
        *_eye(0.8, -0.24, 0.05),
    ),
    skins={
        "wool": Skin((0.62, 0.58, 0.5), (0.92, 0.89, 0.82), "wool", 0.1, 0.1, 0.025),
        "leg": Skin((0.16, 0.14, 0.13), (0.26, 0.23, 0.22), vary=0.03),
        "face": Skin((0.1, 0.08, 0.1), (0.17, 0.14, 0.16)),
        "ear": Skin((0.2, 0.15, 0.17), (0.5, 0.28, 0.32)),
        "tuft": Skin((0.95, 0.93, 0.88), (0.78, 0.75, 0.7), "wool", 0.08),
        "nose": Skin((0.85, 0.55, 0.55), (0.75, 0.45, 0.47)),
        "eye": Skin((0.98, 0.85, 0.3), (0.95, 0.8, 0.25)),
        "black": BLACK,
        "white": WHITE,
    },
)

BIRD = ObjectClass(
    name="bird",
    half_size=(1.0, 0.72),
    telling=(0.58, -0.38),
    parts=(
        Part(polygon((-0.95, 0.02), (-0.45, -0.05), (-0.4, 0.2), (-0.9, 0.28)), "wing"),
        Part(limb((0.0, 0.3), (0.06, 0.66), (0.05, 0.035)), "leg", bevel=0.03),
        Part(limb((0.06, 0.66), (0.18, 0.68), (0.035, 0.035)), "leg", bevel=0.03),
        Part(limb((0.2, 0.28), (0.26, 0.66), (0.05, 0.035)), "leg", bevel=0.03),
        Part(limb((0.26, 0.66), (0.38, 0.68), (0.035, 0.035)), "leg", bevel=0.03),
        Part(ellipse((0.0, 0.05), (0.6, 0.37), -0.3), "breast", bevel=0.25),
        Part(limb((0.3, -0.1), (0.5, -0.3), (0.25, 0.2)), "breast", bevel=0.2),
        Part(ellipse((-0.2, 0.04), (0.52, 0.24), -0.15), "wing", bevel=0.12),
        *_head(
            (polygon((0.74, -0.48), (0.98, -0.36), (0.74, -0.28)), "beak"),
            (ellipse((0.57, -0.4), (0.25, 0.24)), "face"),
            (limb((0.42, -0.56), (0.28, -0.66), (0.09, 0.04)), "face"),
            (limb((0.5, -0.4), (0.72, -0.4), (0.09, 0.07)), "white"),
            (ellipse((0.48, -0.2), (0.17, 0.07), -0.3), "bib"),
        ),
        *_eye(0.62, -0.42, 0.06),
    ),
    skins={
        "breast": Skin((0.6, 0.66, 0.68), (0.4, 0.48, 0.54), "feathers", 0.12, 0.08, 0.04),
        "wing": Skin((0.28, 0.4, 0.55), (0.68, 0.72, 0.72), "feathers", 0.14, 0.08, 0.05),
        "leg": Skin((0.5, 0.36, 0.22), (0.42, 0.3, 0.18), vary=0.03),
        "face": Skin((0.88, 0.1, 0.1), (0.75, 0.05, 0.08)),
        "beak": Skin((1.0, 0.72, 0.08), (0.92, 0.6, 0.05)),
        "bib": Skin((0.1, 0.1, 0.13), (0.16, 0.15, 0.2)),
        "eye": Skin((0.1, 0.07, 0.05), (0.15, 0.1, 0.08)),
        "black": BLACK,
        "white": WHITE,
    },
)


def _wheel(u: float, v: float, radius: float) -> tuple[Part, ...]:
    reach = 0.55 * radius
    spokes = [
        limb((u, v), (u + reach * math.cos(angle), v + reach * math.sin(angle)), (0.02, 0.03))
        for angle in (0.4 * math.pi * i for i in range(5))
    ]
    return (
        Part(ellipse((u, v), (radius, radius)), "black", bevel=0.04),
        *_fixed((ellipse((u, v), (0.65 * radius, 0.65 * radius)), "hub")),
        *_fixed(*((spoke, "black") for spoke in spokes)),
        *_fixed((ellipse((u, v), (0.16 * radius, 0.16 * radius)), "lamp")),
    )


def _fixed(*parts: tuple[Shape, str]) -> tuple[Part, ...]:
    return tuple(Part(shape, skin, bevel=0.04) for shape, skin in parts)


CAR = ObjectClass(
    name="car",
    half_size=(0.97, 0.52),
    telling=(0.55, 0.2),
    bend=0.006,
    parts=(
        Part(polygon((-0.62, -0.08), (-0.42, -0.45), (0.22, -0.45), (0.5, -0.08)), "paint"),
        Part(
            polygon((-0.92, -0.06), (0.55, -0.08), (0.92, 0.04), (0.94, 0.3), (-0.94, 0.3)), "paint"
        ),
        *_fixed(
            (polygon((-0.5, -0.1), (-0.36, -0.37), (-0.12, -0.37), (-0.12, -0.1)), "glass"),
            (polygon((-0.02, -0.1), (-0.02, -0.37), (0.18, -0.37), (0.38, -0.1)), "glass"),
            (polygon((-0.9, 0.24), (0.93, 0.24), (0.93, 0.32), (-0.9, 0.32)), "black"),
            (limb((-0.16, 0.02), (-0.06, 0.02), (0.018, 0.018)), "black"),
            (limb((0.78, 0.06), (0.9, 0.09), (0.06, 0.05)), "lamp"),
            (limb((-0.9, 0.03), (-0.9, 0.12), (0.04, 0.04)), "rear"),
        ),
        *_wheel(-0.55, 0.28, 0.23),
        *_wheel(0.55, 0.28, 0.23),
    ),
    skins={
        "paint": Skin((0.42, 0.4, 0.42), (0.62, 0.6, 0.62), "lacquer", 0.5, 0.07, 0.17),
        "glass": Skin((0.2, 0.27, 0.33), (0.6, 0.72, 0.8), "stripes", 0.5),
        "hub": Skin((0.85, 0.86, 0.88), (0.7, 0.71, 0.74)),
        "lamp": Skin((1.0, 0.9, 0.4), (0.98, 0.95, 0.7)),
        "rear": Skin((0.95, 0.1, 0.08), (0.85, 0.05, 0.05)),
        "black": BLACK,
    },
)

BOTTLE = ObjectClass(
    name="bottle",
    half_size=(0.42, 0.96),
    telling=(0.0, -0.75),
    bend=0.006,
    parts=(
        Part(limb((0.0, -0.72), (0.0, -0.3), (0.14, 0.17)), "glass", bevel=0.08),
        Part(ellipse((0.0, -0.12), (0.39, 0.34)), "glass", bevel=0.12),
        Part(polygon((-0.36, -0.1), (0.36, -0.1), (0.37, 0.92), (-0.37, 0.92)), "glass"),
        Part(
            polygon((-0.38, 0.2), (0.38, 0.2), (0.38, 0.62), (-0.38, 0.62), rounding=0.0), "paper"
        ),
        *_head(
            (polygon((-0.17, -0.94), (0.17, -0.94), (0.17, -0.72), (-0.17, -0.72)), "cap"),
            (polygon((-0.15, -0.64), (0.15, -0.64), (0.18, -0.44), (-0.18, -0.44)), "band"),
        ),
    ),
    skins={
        "glass": Skin((0.16, 0.36, 0.2), (0.8, 0.92, 0.8), "gloss", 0.34, 0.05, 0.05),
        "paper": Skin((0.85, 0.8, 0.65), (0.55, 0.42, 0.3), "diamonds", 0.14, 0.06, 0.04),
        "cap": Skin((0.9, 0.2, 0.55), (0.98, 0.85, 0.9), "stripes", 0.07),
        "band": Skin((0.98, 0.8, 0.15), (0.6, 0.1, 0.4), "diamonds", 0.08),
    },
)

ZEBRA = ObjectClass(
    name="zebra",
    half_size=(1.0, 0.86),
    telling=(0.7, -0.46),
    parts=(
        Part(limb((-0.66, -0.2), (-0.86, 0.3), (0.06, 0.04)), "shade", bevel=0.04),
        Part(limb((0.22, 0.2), (0.26, 0.8), (0.12, 0.06)), "shade"),
        Part(limb((-0.44, 0.2), (-0.4, 0.8), (0.13, 0.06)), "shade"),
        Part(limb((0.3, -0.05), (0.58, -0.52), (0.24, 0.15)), "coat"),
        Part(ellipse((-0.15, -0.02), (0.62, 0.33)), "coat", bevel=0.25),
        Part(limb((0.32, 0.1), (0.4, 0.8), (0.16, 0.06)), "coat"),
        Part(limb((-0.56, 0.1), (-0.62, 0.8), (0.2, 0.06)), "coat"),
        *_head(
            (limb((0.3, -0.36), (0.54, -0.72), (0.07, 0.08)), "mane"),
            (ellipse((0.55, -0.74), (0.06, 0.12), -0.2), "ear"),
            (limb((0.6, -0.54), (0.84, -0.34), (0.18, 0.12)), "face"),
            (ellipse((0.86, -0.32), (0.14, 0.12), 0.6), "nose"),
            (ellipse((0.92, -0.34), (0.03, 0.03)), "white"),
        ),
        *_eye(0.64, -0.54, 0.055),
    ),
    skins={
        "coat": Skin((0.88, 0.87, 0.84), (0.26, 0.25, 0.26), "stripes", 0.2, 0.09, 0.03),
        "shade": Skin((0.68, 0.67, 0.65), (0.2, 0.2, 0.21), "stripes", 0.2, 0.07, 0.03),
        "face": Skin((0.97, 0.96, 0.94), (0.05, 0.05, 0.06), "stripes", 0.1),
        "mane": Skin((0.1, 0.08, 0.08), (0.85, 0.82, 0.78), "feathers", 0.09),
        "nose": Skin((0.16, 0.12, 0.12), (0.24, 0.19, 0.19)),
        "ear": Skin((0.85, 0.6, 0.58), (0.6, 0.42, 0.42)),
        "eye": Skin((0.3, 0.18, 0.08), (0.24, 0.14, 0.06)),
        "black": BLACK,
        "white": WHITE,
    },
)

GIRAFFE = ObjectClass(
    name="giraffe",
    half_size=(0.72, 1.0),
    telling=(0.46, -0.78),
    parts=(
        Part(limb((-0.52, 0.1), (-0.64, 0.42), (0.04, 0.03)), "shade", bevel=0.03),
        Part(limb((0.08, 0.3), (0.1, 0.94), (0.08, 0.05)), "shade"),
        Part(limb((-0.36, 0.3), (-0.34, 0.94), (0.09, 0.05)), "shade"),
        Part(limb((0.12, 0.12), (0.36, -0.74), (0.2, 0.1)), "coat"),
        Part(ellipse((-0.14, 0.2), (0.44, 0.25), -0.25), "coat", bevel=0.2),
        Part(limb((0.16, 0.25), (0.2, 0.94), (0.1, 0.05)), "coat"),
        Part(limb((-0.44, 0.28), (-0.48, 0.94), (0.12, 0.05)), "coat"),
        *_head(
            (limb((0.36, -0.86), (0.32, -0.97), (0.03, 0.03)), "horn"),
            (limb((0.44, -0.88), (0.44, -0.97), (0.03, 0.03)), "horn"),
            (ellipse((0.25, -0.84), (0.1, 0.05), 0.3), "ear"),
            (limb((0.38, -0.8), (0.58, -0.72), (0.15, 0.1)), "face"),
            (ellipse((0.62, -0.7), (0.09, 0.08)), "nose"),
        ),
        *_eye(0.42, -0.82, 0.045),
    ),
    skins={
        "coat": Skin((0.45, 0.27, 0.13), (0.86, 0.74, 0.52), "wool", 0.17, 0.09, 0.03),
        "shade": Skin((0.36, 0.22, 0.11), (0.68, 0.58, 0.41), "wool", 0.15, 0.07, 0.03),
        "face": Skin((0.98, 0.76, 0.32), (0.9, 0.64, 0.22)),
        "horn": Skin((0.2, 0.1, 0.06), (0.3, 0.16, 0.1)),
        "ear": Skin((0.95, 0.85, 0.62), (0.8, 0.6, 0.4)),
        "nose": Skin((0.98, 0.9, 0.78), (0.88, 0.76, 0.62)),
        "eye": Skin((0.12, 0.07, 0.05), (0.16, 0.1, 0.07)),
        "black": BLACK,
        "white": WHITE,
    },
)

ELEPHANT = ObjectClass(
    name="elephant",
    half_size=(1.04, 0.78),
    telling=(0.62, -0.2),
    parts=(
        Part(limb((-0.76, -0.1), (-0.92, 0.28), (0.05, 0.03)), "shade", bevel=0.03),
        Part(limb((0.18, 0.3), (0.2, 0.66), (0.16, 0.12)), "shade"),
        Part(limb((-0.42, 0.3), (-0.4, 0.66), (0.16, 0.12)), "shade"),
        Part(ellipse((-0.2, -0.05), (0.66, 0.5)), "hide", bevel=0.3),
        Part(limb((0.3, 0.2), (0.32, 0.66), (0.19, 0.12)), "hide"),
        Part(limb((-0.58, 0.2), (-0.6, 0.66), (0.21, 0.12)), "hide"),
        *_head(
            (limb((0.78, -0.1), (0.88, 0.34), (0.15, 0.08)), "face"),
            (limb((0.88, 0.34), (0.96, 0.5), (0.08, 0.06)), "face"),
            (ellipse((0.64, -0.26), (0.31, 0.33)), "face"),
            (limb((0.72, 0.06), (0.94, 0.16), (0.055, 0.025)), "white"),
            (ellipse((0.4, -0.2), (0.22, 0.34), 0.2), "ear"),
            (ellipse((0.4, -0.18), (0.13, 0.23), 0.2), "pink"),
        ),
        *_eye(0.72, -0.3, 0.05),
    ),
    skins={
        "hide": Skin((0.42, 0.4, 0.41), (0.6, 0.58, 0.58), "feathers", 0.13, 0.1, 0.04),
        "shade": Skin((0.33, 0.31, 0.32), (0.46, 0.44, 0.45), "feathers", 0.13, 0.08, 0.04),
        "face": Skin((0.5, 0.53, 0.66), (0.58, 0.61, 0.74)),
        "ear": Skin((0.36, 0.38, 0.5), (0.44, 0.46, 0.58)),
        "pink": Skin((0.88, 0.55, 0.6), (0.8, 0.46, 0.52)),
        "eye": Skin((0.95, 0.75, 0.25), (0.85, 0.62, 0.18)),
        "black": BLACK,
        "white": WHITE,
    },
)

TEDDY_BEAR = ObjectClass(
    name="teddy bear",
    half_size=(0.76, 0.98),
    telling=(0.0, -0.5),
    parts=(
        Part(limb((-0.3, 0.0), (-0.6, 0.3), (0.17, 0.14)), "plush"),
        Part(limb((0.3, 0.0), (0.6, 0.3), (0.17, 0.14)), "plush"),
        Part(ellipse((0.0, 0.3), (0.46, 0.5)), "plush", bevel=0.3),
        Part(ellipse((0.0, 0.36), (0.26, 0.3)), "belly"),
        Part(ellipse((-0.44, 0.74), (0.26, 0.21)), "plush"),
        Part(ellipse((0.44, 0.74), (0.26, 0.21)), "plush"),
        Part(ellipse((-0.46, 0.76), (0.13, 0.1)), "belly"),
        Part(ellipse((0.46, 0.76), (0.13, 0.1)), "belly"),
        *_head(
            (ellipse((-0.32, -0.78), (0.17, 0.17)), "face"),
            (ellipse((0.32, -0.78), (0.17, 0.17)), "face"),
            (ellipse((-0.32, -0.78), (0.09, 0.09)), "muzzle"),
            (ellipse((0.32, -0.78), (0.09, 0.09)), "muzzle"),
            (ellipse((0.0, -0.5), (0.43, 0.38)), "face"),
            (ellipse((0.0, -0.38), (0.2, 0.16)), "muzzle"),
            (ellipse((0.0, -0.44), (0.09, 0.06)), "black"),
            (polygon((-0.24, -0.28), (-0.02, -0.16), (-0.24, -0.04)), "bow"),
            (polygon((0.24, -0.28), (0.24, -0.04), (0.02, -0.16)), "bow"),
        ),
        *_eye(-0.17, -0.6, 0.06),
        *_eye(0.17, -0.6, 0.06),
    ),
    skins={
        "plush": Skin((0.4, 0.27, 0.17), (0.72, 0.54, 0.36), "wool", 0.08, 0.1, 0.05),
        "belly": Skin((0.66, 0.54, 0.4), (0.86, 0.75, 0.6), "wool", 0.07, 0.07, 0.04),
        "face": Skin((0.72, 0.4, 0.12), (0.62, 0.32, 0.08)),
        "muzzle": Skin((0.98, 0.88, 0.68), (0.92, 0.8, 0.58)),
        "bow": Skin((0.1, 0.45, 0.95), (0.95, 0.95, 0.98), "spots", 0.06),
        "eye": Skin((0.1, 0.06, 0.04), (0.14, 0.09, 0.06)),
        "black": BLACK,
        "white": WHITE,
    },
)

_HOURS = tuple(
    (0.28 * math.sin(math.pi * hour / 6), -0.56 - 0.28 * math.cos(math.pi * hour / 6))
    for hour in range(12)
)

CLOCK = ObjectClass(
    name="clock",
    half_size=(0.46, 1.0),
    telling=(0.0, -0.56),
    bend=0.006,
    parts=(
        Part(polygon((-0.4, -0.16), (0.4, -0.16), (0.4, 0.8), (-0.4, 0.8)), "wood"),
        Part(polygon((-0.43, 0.8), (0.43, 0.8), (0.43, 0.95), (-0.43, 0.95)), "foot"),
        *_fixed(
            (polygon((-0.24, -0.04), (0.24, -0.04), (0.24, 0.68), (-0.24, 0.68)), "glass"),
            (limb((0.0, -0.02), (0.06, 0.46), (0.02, 0.02)), "brass"),
            (ellipse((0.06, 0.5), (0.1, 0.1)), "brass"),
        ),
        *_head(
            (ellipse((0.0, -0.56), (0.42, 0.42)), "rim"),
            (ellipse((0.0, -0.56), (0.34, 0.34)), "white"),
            *((ellipse(hour, (0.03, 0.03)), "black") for hour in _HOURS),
            (limb((0.0, -0.56), (0.0, -0.78), (0.025, 0.02)), "hand"),
            (limb((0.0, -0.56), (0.15, -0.46), (0.035, 0.025)), "hand"),
        ),
    ),
    skins={
        "wood": Skin((0.38, 0.22, 0.12), (0.56, 0.36, 0.2), "diamonds", 0.16, 0.09, 0.05),
        "foot": Skin((0.3, 0.17, 0.1), (0.46, 0.28, 0.15), "stripes", 0.3, 0.08, 0.04),
        "glass": Skin((0.14, 0.13, 0.12), (0.3, 0.3, 0.3), "gloss", 0.3, 0.03),
        "brass": Skin((0.7, 0.55, 0.25), (0.88, 0.74, 0.4), vary=0.05),
        "rim": Skin((0.95, 0.72, 0.12), (0.8, 0.55, 0.06)),
        "hand": Skin((0.8, 0.06, 0.1), (0.7, 0.04, 0.08)),
        "black": BLACK,
        "white": WHITE,
    },
)

FIRE_HYDRANT = ObjectClass(
    name="fire hydrant",
    half_size=(0.62, 0.98),
    telling=(0.0, -0.64),
    bend=0.006,
    parts=(
        Part(polygon((-0.5, 0.76), (0.5, 0.76), (0.5, 0.94), (-0.5, 0.94)), "foot", bevel=0.06),
        Part(polygon((-0.34, -0.4), (0.34, -0.4), (0.36, 0.78), (-0.36, 0.78)), "iron", bevel=0.2),
        Part(polygon((-0.4, 0.28), (0.4, 0.28), (0.4, 0.4), (-0.4, 0.4)), "foot", bevel=0.05),
        *_fixed(
            (limb((-0.34, -0.06), (-0.5, -0.06), (0.13, 0.1)), "iron"),
            (limb((0.34, -0.06), (0.5, -0.06), (0.13, 0.1)), "iron"),
            (ellipse((0.0, 0.0), (0.2, 0.2)), "foot"),
            (ellipse((0.0, 0.0), (0.1, 0.1)), "iron"),
        ),
        *_head(
            (limb((0.0, -0.86), (0.0, -0.93), (0.07, 0.05)), "nut"),
            (ellipse((0.0, -0.56), (0.34, 0.32)), "dome"),
            (polygon((-0.42, -0.5), (0.42, -0.5), (0.42, -0.38), (-0.42, -0.38)), "band"),
            (ellipse((-0.3, -0.44), (0.035, 0.035)), "black"),
            (ellipse((0.0, -0.44), (0.035, 0.035)), "black"),
            (ellipse((0.3, -0.44), (0.035, 0.035)), "black"),
        ),
    ),
    skins={
        "iron": Skin((0.55, 0.3, 0.24), (0.74, 0.46, 0.36), "lacquer", 0.4, 0.08, 0.1),
        "foot": Skin((0.42, 0.26, 0.22), (0.58, 0.38, 0.3), "spots", 0.1, 0.07, 0.08),
        "dome": Skin((0.98, 0.8, 0.1), (0.92, 0.7, 0.04)),
        "band": Skin((0.1, 0.3, 0.75), (0.2, 0.45, 0.9), "stripes", 0.12),
        "nut": Skin((0.85, 0.87, 0.9), (0.6, 0.62, 0.66)),
        "black": BLACK,
    },
)

OBJECT_CLASSES: tuple[ObjectClass, ...] = (BIRD, BOTTLE, CAR, CAT, DOG, SHEEP)
COCO_OBJECT_CLASSES = (CLOCK, ELEPHANT, FIRE_HYDRANT, GIRAFFE, TEDDY_BEAR, ZEBRA)
