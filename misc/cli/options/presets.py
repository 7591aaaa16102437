"""Published settings of the segmentation network, by name and dataset; README has their sources."""

_RIB = {
    "batch_size": 10,
    "accumulate": 1,
    "iterations": 30_000,
    "learning_rate": 2.5e-4,
    "crop_size": 321,
    "scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    "loss": "balanced",
}
_PLAIN = {
    **_RIB,
    "accumulate": 2,
    "iterations": 20_000,
    "scales": (0.5, 0.75, 1.0, 1.25, 1.5),
    "loss": "ce",
}
SEG_PRESETS = {
    "rib": _RIB,
    "recam": _PLAIN,
    "clims": {**_RIB, "batch_size": 20, "accumulate": 2},
    "deeplab-pytorch": _PLAIN,
    "lpcam": {**_PLAIN, "batch_size": 20, "iterations": 100_000, "learning_rate": 2e-4},
}
SEG_PRESETS_BY_DATASET = {
    "coco14": {"rib": {**_RIB, "iterations": 100_000, "crop_size": 481}},
}  # fmt: skip
