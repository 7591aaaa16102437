"""MS COCO 2014: all that is particular to it (classes, paths, lists, labels, defaults)."""

from pathlib import Path

from misc.data.dataset_info import DatasetInfo

# In the order of the category ids, which are CATEGORY_IDS.
CLASS_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

# Of the ids 1..90 these were never given to a class.
_UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in _UNUSED_IDS)

DEFAULT_ROOT = Path("Dataset/coco_2017")

# Numbers of the paper for COCO (implementation details and IRN's options for COCO).
DEFAULTS = {
    "RIB_lr": 5e-6,
    "RIB_batch_size": 15,
    "score_th": 0.5,
    "stop_th": 1000.0,
    "explode_th": 0.3,
    "explode_ratio": 0.8,
    "cam_eval_thres": (0.10, 0.50),
    "sem_seg_bg_thres": 0.22,
    "irn_pad_size": 0,
    "conf_bg_thres": 0.17,
    "seed_power": 1.3,
}

# Mean IoU in per cent on the train images; the CAM seed is IRN's.
PAPER_SCORES = {
    "CAM seed": 33.5, "pseudo masks, CAM": 42.9, "RIB seed": 36.5, "pseudo masks": 45.6,
    "segmentation + CRF": 43.8,
}  # fmt: skip


def describe(root: str | Path) -> DatasetInfo:
    """The description of a COCO tree whose folders JPEGImages/ and annotations/ are in `root`."""
    root = Path(root)
    return DatasetInfo(
        name="coco14",
        root=root,
        root_flag="--coco14_root",
        class_names=CLASS_NAMES,
        image_dir=root / "JPEGImages",
        mask_dirs=(root / "coco_seg_anno",),
        id_pattern=r"\d{12}",
        defaults=DEFAULTS,
        paper_scores=PAPER_SCORES,
        official_sizes={"train14": 82783, "val14": 40504},
        paper_note="an unmodified run of the original gave 34.8 (RIB seed) and 39.9 (pseudo masks)",
        train_split="train14",
        eval_split="train14",
        seg_split="val14",
        # The 2014 archives have the split in the names, the 2017 ones the number alone.
        image_names=("{}.jpg", "COCO_train2014_{}.jpg", "COCO_val2014_{}.jpg"),
        draws_masks=True,
        label_file="cls_labels_coco.npy",
    )
