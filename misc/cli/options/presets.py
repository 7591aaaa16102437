"""Published settings of the segmentation network, by name and dataset; README has their sources."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class SegPreset:
    """Settings of a published training of the segmentation network (RIB's, where not said)."""

    batch_size: int = 10  # on all processes together
    accumulate: int = 1  # parts that a batch is cut into, whose losses are averaged
    iterations: int = 30_000
    learning_rate: float = 2.5e-4  # of the backbone
    crop_size: int = 321
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)  # one is drawn
    loss: str = "balanced"  # background and foreground weigh the same; ce: all pixels do
    momentum: float = 0.9
    weight_decay: float = 5e-4
    scale_by: str = "size"  # inputs at 0.75 and 0.5 by the ratio of sizes; factor: by the factor


_RIB = SegPreset()
_DEEPLAB = SegPreset(accumulate=2, iterations=20_000, scales=(0.5, 0.75, 1.0, 1.25, 1.5), loss="ce")
SEG_PRESETS = {
    "rib": _RIB,
    "recam": _DEEPLAB,
    "clims": replace(_RIB, batch_size=20, accumulate=2),
    "deeplab-pytorch": _DEEPLAB,
    "lpcam": replace(_DEEPLAB, batch_size=20, iterations=100_000, learning_rate=2e-4),
}
SEG_PRESETS_BY_DATASET = {
    "coco14": {"rib": replace(_RIB, iterations=100_000, crop_size=481)},
}
# What an option can replace, each --seg_NAME.
REPLACEABLE = ("batch_size", "iterations", "learning_rate", "crop_size")
