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

_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # never given to a class
CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in _UNUSED_IDS)

DEFAULT_ROOT = Path("Dataset/coco_2017")

# Numbers of the paper for COCO (implementation details and IRN's options for COCO).
DEFAULTS = {
    "RIB_lr": 5e-6, "RIB_batch_size": 15, "score_th": 0.5, "stop_th": 1000.0,
    "explode_ratio": 0.8, "cam_eval_thres": (0.10, 0.50), "sem_seg_bg_thres": 0.22,
    "irn_pad_size": 0, "conf_bg_thres": 0.17, "seed_power": 1.3,
}  # fmt: skip

# Mean IoU in per cent on the train images; the CAM seed is IRN's.
PAPER_SCORES = {
    "CAM seed": 33.5, "pseudo masks, CAM": 42.9, "RIB seed": 36.5, "pseudo masks": 45.6,
    "segmentation + CRF": 43.8,
}  # fmt: skip

# Folders of photographs, which may be all in one or in one for each split, and of masks.
_IMAGE_FOLDERS = ("JPEGImages", "images", ".")
_MASK_FOLDERS = ("coco_seg_anno", "SegmentationClass", "masks", "mask")
_SPLITS = ("train2014", "val2014", "train2017", "val2017")
SPLITS = {"train14": "instances_train2014.json", "val14": "instances_val2014.json"}
_PREFIXES = ("COCO_train2014_", "COCO_val2014_")  # the 2017 archives have the number alone


def describe(root: str | Path) -> DatasetInfo:
    """The description of a COCO tree in `root`, or in its folder coco/, in any layout in use.

    Photographs and masks may lie together or in folders of the splits of 2014 or 2017, with the
    prefixes of 2014 or without, masks also as in mask/train2014/8193.png (ReCAM, LPCAM, CLIMS).
    """
    root = Path(root)
    tree = root if _image_dir(root) or not _image_dir(root / "coco") else root / "coco"
    image_dir = _image_dir(tree) or tree / _IMAGE_FOLDERS[0]
    return DatasetInfo(
        name="coco14", root=root, root_flag="--coco14_root", class_names=CLASS_NAMES,
        image_dir=image_dir, mask_dirs=_mask_dirs(tree), id_pattern=r"\d{12}", defaults=DEFAULTS,
        paper_scores=PAPER_SCORES, official_sizes={"train14": 82783, "val14": 40504},
        paper_note="an unmodified run of the original gave 34.8 (RIB seed) and 39.9 (pseudo masks)",
        train_split="train14", eval_split="train14", seg_split="val14",
        image_names=_image_names(image_dir),
        mask_names=("{}.png", *(f"{prefix}{{}}.png" for prefix in _PREFIXES), "{number}.png"),
        looked_for="JPEGImages/, images/, or train2014/ and val2014/", draws_masks=True,
        label_file="cls_labels_coco.npy",
        list_sources=tuple(annotation_dir(root) / name for name in SPLITS.values()),
    )  # fmt: skip


def annotation_dir(root: Path) -> Path:
    """Folder of the instances files, beside the photographs."""
    first, second = root / "annotations", root / "coco" / "annotations"
    return second if second.is_dir() and not first.is_dir() else first


def _image_dir(tree: Path) -> Path | None:
    first, second, _ = folders = [tree / name for name in _IMAGE_FOLDERS]
    split = [folder for folder in folders if folder == first or _splits(folder)]
    return next((folder for folder in (*split, second) if folder.is_dir()), None)


def _splits(folder: Path) -> list[str]:
    return [split for split in _SPLITS if (folder / split).is_dir()]


def _image_names(folder: Path) -> tuple[str, ...]:
    own = [(split, prefix) for split in _splits(folder) for prefix in (f"COCO_{split}_", "")]
    names = [f"{split}/{prefix}" for split, prefix in own if prefix in (*_PREFIXES, "")]
    return tuple(f"{name}{{}}.jpg" for name in (*names, "", *_PREFIXES))


def _mask_dirs(tree: Path) -> tuple[Path, ...]:
    first, *others = (tree / name for name in _MASK_FOLDERS)
    there = [folder for folder in others if folder.is_dir()]
    splits = [folder / split for folder in (first, *there) for split in _splits(folder)]
    return (first, *there, *splits)
