"""The options of the method's steps."""

import argparse
from pathlib import Path

from misc.cli.options.by_dataset import both, by_dataset
from misc.cli.options.presets import SEG_PRESETS
from misc.cli.options.sequence import ALL_MAPS, RECAM
from misc.cli.options.values import (
    boolean,
    count,
    count_or_zero,
    decay,
    fraction,
    multiple_of_16,
    not_negative,
    number,
    numbers,
    positive,
    rate,
    scales,
)

PRECISIONS = ("float32", "tf32", "bf16")


# fmt: off
def classifier_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--cam_weights_name", type=Path, metavar="FILE",
        help="classifier checkpoint: written by 1, read by make_cam and 2 (default: "
        "RESULT_DIR/res50_cam.pth)")
    add("--imagenet_weights", type=Path, metavar="FILE|NAME",
        help="backbone that training starts from: a file in torchvision's format, a thin backbone "
        "or a classifier checkpoint; or a name to download, such as resnet101 of torchvision "
        "(IMAGENET1K_V1) or timm:resnet50.a1_in1k (default: resnet50)")
    add("--cam_crop_size", type=number(int, 32), default=512, metavar="PX",
        help="crop of training images, in 1 and in RIB's batches (default: %(default)s)")
    add("--cam_long", type=numbers(int, 32, 8192, count=2), default=(320, 640), metavar="LO,HI",
        help="longer side of these images, drawn between the two (default: 320,640)")
    add("--cam_batch_size", type=count, default=16, metavar="N", help="(default: %(default)s)")
    add("--cam_num_epoches", type=count, default=5, metavar="N", help="(default: %(default)s)")
    add("--cam_learning_rate", type=rate, default=0.1, metavar="X",
        help="backbone; the classifier learns 10 times faster (default: %(default)s)")
    add("--cam_weight_decay", type=decay, default=1e-4, metavar="X",
        help="in 1 and in RIB (default: %(default)s)")
    add("--cam_scales", type=scales, default=(1.0, 0.5, 1.5, 2.0), metavar="S,S,...",
        help="image scales whose maps are summed; those below 1.0 take no part in RIB's loss "
        "(default: 1.0,0.5,1.5,2.0)")
    add("--max_long", type=number(int, 32), metavar="PX",
        help="shrink what the classifier sees of larger images in make_cam and 2 to this longer "
        "side (for CPUs); maps are still saved at the image's own size")
    add("--precision", choices=PRECISIONS,
        help="of the networks. float32: nowhere less; tf32: a GPU rounds what enters a convolution "
        "to 10 bits; bf16: the backbone computes in bfloat16 where autocast finds that safe, "
        "weights and maps stay float32 (default: float32; on a GPU tf32, which is PyTorch's own "
        "default there)")


def rib_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--RIB_iter", type=count, default=10, metavar="K",
        help="iterations K per image (default: %(default)s)")
    add("--RIB_lr", type=number(float, 0.0, 1.0, open_low=True), metavar="X",
        help=f"learning rate; classifier 10 times {both('RIB_lr')}")
    add("--RIB_batch_size", type=count, metavar="B",
        help=f"other images B per iteration {both('RIB_batch_size')}")
    add("--score_th", type=fraction, metavar="TAU",
        help=f"tau: pixels at or above this share of a map's peak are left out of the pooling "
        f"{both('score_th')}")
    add("--stop_th", type=positive, metavar="M",
        help=f"margin m: stop once the target logits sum to more {both('stop_th')}")
    add("--explode_th", type=fraction, metavar="X",
        help=f"early stop: a pixel above this share of the peak is covered {both('explode_th')}")
    add("--explode_ratio", type=fraction, metavar="X",
        help=f"early stop: covered share of the image {both('explode_ratio')}")
    add("--disjoint_prob", type=fraction, default=1.0, metavar="P",
        help="chance that a batch shares no class with the target; otherwise its images have all "
        "of the target's classes (default: %(default)s)")
    add("--num_pooled_classes", type=count_or_zero, metavar="N",
        help="leave discriminative pixels out for the first N classes only (20 is what the "
        "original implementation does on COCO, 0 is global average pooling; default: all)")
    add("--RIB_final_activation", choices=("none", "sigmoid"), default="none",
        help="for comparison: sigmoid keeps the saturating activation, which RIB takes out, in its "
        "loss; --stop_th, which looks at logits, then hardly ever stops (default: %(default)s)")


def advcam_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--recam", choices=(*RECAM, ALL_MAPS), default="rib",
        help="maps that the later steps start from: those of RIB, of AdvCAM (with its published "
        "thresholds), plain ones (IRN), or those of --import_maps, which chooses them by itself; "
        "each has folders of its own. The scripts run the first three one after the other with "
        "\"all\" (default: %(default)s)")
    add("--adv_iter", type=count, default=27, metavar="N",
        help="iterations; below scale 1.0 half as many (default: %(default)s)")
    add("--AD_coeff", type=not_negative, default=7.0, metavar="X",
        help="weight of the regularisation (default: %(default)s)")
    add("--AD_stepsize", type=positive, default=0.08, metavar="X", help="(default: %(default)s)")
    add("--AD_score_th", type=fraction, default=0.5, metavar="X",
        help="pixels above this share of a map's peak are regularised (default: %(default)s)")


def score_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--with_crf", type=boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="the whole sequence also scores the seeds after a dense CRF")
    group.add_argument(
        "--cam_eval_thres", type=numbers(float, 0.0, 1.0, count=2), metavar="LO,HI",
        help=f"background thresholds, from LO to HI by 0.01 {both('cam_eval_thres')}")


def irn_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--conf_fg_thres", type=fraction, default=0.35, metavar="X",
        help="background score for confident foreground (default: %(default)s)")
    add("--conf_bg_thres", type=fraction, metavar="X",
        help=f"background score for confident background {both('conf_bg_thres')}")
    add("--irn_weights_name", type=Path, metavar="FILE",
        help="IRN checkpoint: written by 5, read by 6 (default: RESULT_DIR/res50_irn.pth)")
    add("--irn_crop_size", type=multiple_of_16, default=512, metavar="PX",
        help="(default: %(default)s)")
    add("--irn_batch_size", type=count, default=32, metavar="N", help="(default: %(default)s)")
    add("--irn_num_epoches", type=count, default=3, metavar="N", help="(default: %(default)s)")
    add("--irn_learning_rate", type=rate, default=0.1, metavar="X",
        help="boundary head; the displacement head learns 10 times faster (default: %(default)s)")
    add("--irn_weight_decay", type=decay, default=1e-4, metavar="X",
        help="(default: %(default)s)")
    add("--irn_radius", type=number(int, 2, 32), default=10, metavar="R",
        help="pixel pairs closer than this learn from each other (default: %(default)s)")


def walk_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--beta", type=number(float, 0.0, 1000.0, open_low=True), default=10.0, metavar="X",
        help="power of the affinities (default: %(default)s)")
    add("--exp_times", type=number(int, 0, 16), default=8, metavar="N",
        help="2^N steps of the random walk (default: %(default)s)")
    add("--walk_radius", type=number(int, 2, 32), default=5, metavar="R",
        help="one step reaches pixels closer than this (default: %(default)s)")
    add("--seed_power", type=number(float, 0.0, 100.0, open_low=True), metavar="X",
        help=f"power of the maps that start the walk {both('seed_power')}")
    add("--sem_seg_bg_thres", type=fraction, metavar="X",
        help=f"background score of the masks {both('sem_seg_bg_thres')}")
    add("--walk_norm", choices=("joint", "class"), default="joint",
        help="joint: walked maps are divided by the maximum over all classes together, as in the "
        "original; class: each by its own (default: %(default)s)")
    add("--irn_pad_size", type=count_or_zero, metavar="PX",
        help=f"pad images to this size for IRN, 0: no padding {both('irn_pad_size')}")


def instance_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--with_ins", type=boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="the whole sequence makes and scores instance labels too")
    add("--ins_seg_bg_thres", type=fraction, default=0.25, metavar="X",
        help="background score of instance labels (default: %(default)s)")
    add("--ins_seg_out_dir", type=Path, metavar="DIR", help="(default: RESULT_DIR/ins_seg)")
    add("--ins_seg_json", type=Path, metavar="FILE",
        help="eval_ins_seg also writes them as COCO's JSON (category = class + 1)")


def segmentation_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--with_seg", type=boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="the whole sequence runs on into 7 to 9")
    add("--seg_preset", choices=tuple(SEG_PRESETS), default="rib",
        help="settings of a published training, some of which the options below replace "
        "(default: %(default)s)")
    add("--seg_init", type=Path, metavar="FILE|NAME",
        help="backbone that 7 starts from: torchvision's format, a thin one, or a file of "
        "deeplab-pytorch; or a name, as for --imagenet_weights (default: resnet101)")
    add("--seg_weights_name", type=Path, metavar="FILE",
        help="segmentation network: written by 7, read by 8 (default: RESULT_DIR/deeplab_v2.pth)")
    add("--seg_label_dir", type=Path, metavar="DIR",
        help="label PNGs to train on, of any method (default: --sem_seg_out_dir)")
    add("--seg_list", type=Path, metavar="FILE",
        help=f"images that 8 predicts and 9 scores {by_dataset(lambda i: i.seg_split)}")
    add("--seg_batch_size", type=count, metavar="N",
        help="images of a step, on all processes together")
    add("--seg_iterations", type=count, metavar="N", help="steps")
    add("--seg_learning_rate", type=rate, metavar="X",
        help="backbone; the classifiers' weights learn 10 times and their biases 20 times faster")
    add("--seg_crop_size", type=number(int, 16), metavar="PX", help="crop of training images")


def segmentation_result_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--seg_flip", type=boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="8 averages with the mirror image")
    add("--seg_crf", choices=("none", "proper", "wrapped"), default="proper",
        help="dense CRF of 8, written beside the plain predictions; wrapped: on the colours that "
        "deeplab-pytorch's evaluation hands over (default: %(default)s)")
    add("--seg_scores", type=boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="8 also saves the probabilities, float16 in npz")
    add("--seg_submission", type=Path, metavar="FILE",
        help="pack the predictions of 8 for the VOC test server into this .tar.gz")


# fmt: on
