#!/usr/bin/env bash
# Pseudo masks for photographs of your own from image-level labels:
# classifier -> RIB maps -> IRN training labels -> IRN -> masks.
#
#   bash get_pseudo_gt.sh DIR [LABELS] [options of run_sample.py]
#
# DIR has the photographs, in any folders. LABELS is a table (.csv: image,class;class), COCO's
# instances (.json) or a folder of Pascal XML files; without it sub-folders name the classes. Paths
# are relative to where you stand, and results go to result/folder_NAME there, or beside DIR where you
# stand inside it. What is finished is not done again: the same command resumes where it stopped.
set -euo pipefail
project=$(cd "$(dirname "$0")" && pwd)
source "$project/misc/cli/pseudo_gt.sh"
show_help "$@"
if [ $# = 0 ] || [[ $1 == -* ]]; then
    echo "error: the first argument is the folder of the photographs:" \
        "bash get_pseudo_gt.sh DIR labels.csv" >&2
    exit 2
fi
own_photographs "$@"
