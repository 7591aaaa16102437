"""Training labels of IRN: maps at two thresholds, refined by a dense CRF (IRN, Sec. 4.2)."""

import numpy as np

from misc.cams import key_labels, label_map, load_cam
from misc.crf import refine_label_maps
from misc.data.datasets import image_of
from misc.labels import ignored_value, of_type, save_label_png
from step.base import FolderStep


class MakeIRLabel(FolderStep):
    """IRN training labels of one image."""

    name, flag, version = "cam_to_ir_label", "--ir_label_out_dir", 3
    options, reads = ("conf_fg_thres", "conf_bg_thres"), ("maps",)
    on_gpu = False

    def one(self, image_id: str) -> None:
        args, image = self.args, image_of(self.args.info, image_id)
        maps = load_cam(args.cam_out_dir / f"{image_id}.npy")
        thresholds = args.conf_fg_thres, args.conf_bg_thres
        labels = confident_labels(image, maps["high_res"], maps["keys"], *thresholds)
        save_label_png(self.outputs(image_id)[0], of_type(labels, args.info.num_labels))


def confident_labels(
    image: np.ndarray, cams: np.ndarray, keys: np.ndarray, fg_th: float, bg_th: float
) -> np.ndarray:
    """Labels that both thresholds agree on, H x W: 0 background, class + 1, 255 ignored.

    Of classes beyond 8 bits they are uint16, with 65535 for ignored. image: H x W x 3 uint8;
    cams: K x H x W in 0..1; keys: K classes, 0-based.
    """
    if len(keys) == 0:
        return np.zeros(image.shape[:2], dtype=np.uint8)
    local = np.arange(len(keys))
    # 1. confident foreground: where a map exceeds a high background score
    # 2. confident background: where no map exceeds a low one
    label_maps = np.stack([label_map(cams, local, threshold) for threshold in (fg_th, bg_th)])
    foreground, background = refine_label_maps(image, label_maps, n_labels=len(keys) + 1)
    labels = key_labels(keys)[foreground]
    labels[foreground == 0] = ignored_value(labels)
    labels[(foreground == 0) & (background == 0)] = 0
    return labels


LISTS, settings, writes, check, run = MakeIRLabel.as_step()
