#!/usr/bin/env bash
# Pseudo masks for PASCAL VOC 2012 from image-level labels:
# classifier -> RIB maps -> IRN training labels -> IRN -> pseudo masks, with their scores.
#
#   bash get_pseudo_gt_VOC.sh [options of run_sample.py]
#
# Paths that are given are relative to where you stand; Dataset/ and result/ are in the folder of this
# script. Without the real dataset it runs on a small synthetic sample. What is finished is not done
# again: the same command resumes where it stopped.
set -euo pipefail
project=$(cd "$(dirname "$0")" && pwd)
source "$project/misc/cli/pseudo_gt.sh"
show_help "$@"
TRUTH=SegmentationClassAug # ground truth of the sample
SAMPLE_OPTIONS=(--RIB_lr 2e-4 --irn_pad_size 288)
ADVICE="For the real thing get VOC 2012 (VOCtrainval_11-May-2012.tar from the PASCAL VOC site) and the SBD masks
(SegmentationClassAug), put JPEGImages/, SegmentationClass/, SegmentationClassAug/, Annotations/ and
ImageSets/ into Dataset/VOC2012_SEG_AUG/"
pseudo_gt voc12 Dataset/VOC2012_SEG_AUG voc Dataset/sample_classifier.pth "$ADVICE" "$@"
