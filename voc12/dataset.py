"""PASCAL VOC 2012: all that is particular to it (classes, paths, lists, labels, defaults)."""

from pathlib import Path

from misc.data.dataset_info import DatasetInfo

CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

DEFAULT_ROOT = Path("Dataset/VOC2012_SEG_AUG")
_LIST_SOURCES = ("ImageSets/Segmentation", "SegmentationClassAug", "Annotations")

# Numbers of the paper for VOC (method section, implementation details and IRN's released options).
DEFAULTS = {
    "RIB_lr": 8e-6, "RIB_batch_size": 20, "score_th": 0.4, "stop_th": 600.0,
    "explode_ratio": 0.7, "cam_eval_thres": (0.20, 0.49), "sem_seg_bg_thres": 0.27,
    "irn_pad_size": 512, "conf_bg_thres": 0.17, "seed_power": 1.3,
}  # fmt: skip

# AdvCAM's released settings of the later steps.
ADVCAM_DEFAULTS = {"cam_eval_thres": (0.15, 0.34), "conf_bg_thres": 0.15, "seed_power": 1.5,
                   "sem_seg_bg_thres": 0.25}  # fmt: skip

# RIB, tables 1 and 2: mIoU in per cent on the train images.
PAPER_SCORES = {
    "CAM seed": 48.8, "CAM seed + CRF": 54.3, "pseudo masks, CAM": 66.3,
    "AdvCAM seed": 55.6, "AdvCAM seed + CRF": 62.1, "pseudo masks, AdvCAM": 69.9,
    "RIB seed": 56.5, "RIB seed + CRF": 62.9, "pseudo masks": 70.6, "segmentation + CRF": 68.3,
    "instances AP50, CAM": 37.7,
}  # fmt: skip


def describe(root: str | Path) -> DatasetInfo:
    """The description of a VOC 2012 tree whose official layout starts at `root`."""
    root = Path(root)
    return DatasetInfo(
        name="voc12", root=root, root_flag="--voc12_root", class_names=CLASS_NAMES,
        image_dir=root / "JPEGImages",
        mask_dirs=(root / "SegmentationClass", root / "SegmentationClassAug"),
        id_pattern=r"\d{4}_\d{6}", defaults=DEFAULTS, recam_defaults={"advcam": ADVCAM_DEFAULTS},
        official_sizes={"train": 1464, "val": 1449, "train_aug": 10582},
        list_dir=Path(__file__).parent / "official",
        list_sources=tuple(root / name for name in _LIST_SOURCES), paper_scores=PAPER_SCORES,
        paper_note="RIB's author reports 69.x for masks of the code, which applies no CRF to them",
        train_split="train_aug", eval_split="train", seg_split="val",
    )  # fmt: skip
