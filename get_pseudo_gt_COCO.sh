#!/usr/bin/env bash
# Pseudo masks for MS COCO 2014 from image-level labels:
# classifier -> RIB maps -> IRN training labels -> IRN -> pseudo masks, with their scores.
#
#   bash get_pseudo_gt_COCO.sh [options of run_sample.py]
#
# Paths that are given are relative to where you stand; Dataset/ and result/ are in the folder of this
# script. Without the real dataset it runs on a small synthetic sample. What is finished is not done
# again: the same command resumes where it stopped.
set -euo pipefail
project=$(cd "$(dirname "$0")" && pwd)
source "$project/misc/cli/pseudo_gt.sh"
show_help "$@"
TRUTH=coco_seg_anno # ground truth of the sample
# Most images of this sample show two classes: RIB mixes their maps up when it runs for long, and a
# joint maximum loses the weaker one. Its images are a third of the usual size, for which 2^8 steps
# of the random walk reach too far.
SAMPLE_OPTIONS=(--RIB_lr 1e-4 --RIB_batch_size 12 --score_th 0.3 --explode_ratio 0.5
    --walk_norm class --exp_times 6 --sem_seg_bg_thres 0.5)
ADVICE="For the real thing get train2014.zip, val2014.zip and annotations_trainval2014.zip from cocodataset.org,
put all images into Dataset/coco_2017/JPEGImages/ and the instances files into
Dataset/coco_2017/annotations/"
pseudo_gt coco14 Dataset/coco_2017 coco Dataset/sample_classifier_coco.pth "$ADVICE" "$@"
