#!/usr/bin/env bash
# Pseudo masks for PASCAL VOC 2012 from image-level labels:
# classifier -> RIB maps -> confident labels -> IRN -> pseudo masks, with their scores.
#
#   bash get_pseudo_gt_VOC.sh [options of run_sample.py]
#
# Paths are relative to the folder of this script. Without the real dataset it runs on a small
# drawn sample. A finished part is not done again: the same command goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")"
source misc/setup_env.sh
find_python requirements.txt $PROJECT_MODULES

if [[ " $* " == *" --voc12_root"* ]] || [ -d Dataset/VOC2012_SEG_AUG ]; then
    exec "$PYTHON" run_sample.py --dataset voc12 "$@"
fi

cat <<'TEXT'
Dataset/VOC2012_SEG_AUG is not here: running on a small drawn sample instead, into result/sample_voc12/.
For the real thing get VOC 2012 (VOCtrainval_11-May-2012.tar from the PASCAL VOC site) and the SBD masks
(SegmentationClassAug), put JPEGImages/, SegmentationClass/, SegmentationClassAug/, Annotations/ and
ImageSets/ into Dataset/VOC2012_SEG_AUG/, or say --voc12_root DIR. The README has the details.
TEXT
"$PYTHON" -m Dataset.make_sample --out Dataset/sample_voc12
# The sample's images are small and its classifier thin (width 16), hence these sizes and rates.
exec "$PYTHON" run_sample.py --dataset voc12 \
    --voc12_root Dataset/sample_voc12 --result_dir result/sample_voc12 \
    --cam_weights_name Dataset/sample_classifier.pth \
    --imagenet_weights Dataset/sample_classifier.pth \
    --cam_crop_size 192 --cam_long 160,320 --RIB_batch_size 8 --RIB_lr 1e-4 \
    --irn_crop_size 192 --irn_batch_size 8 --irn_num_epoches 10 --irn_pad_size 288 \
    --visualize 4 "$@"
