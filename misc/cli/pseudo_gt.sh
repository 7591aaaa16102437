# Sourced by the get_pseudo_gt_*.sh scripts, which set `project` to the folder of the project.
source "$project/misc/cli/setup_env.sh"

# Ctrl-C ends a script with one line. Programs that end with a line of their own say it themselves;
# short pieces of Python say nothing.
trap 'echo "interrupted: the same command resumes where it stopped" >&2; exit 130' INT
programs_say_it() {
    trap 'exit 130' INT
}

# Prints the head of the script and ends, where the options ask for help.
show_help() {
    local word
    for word in "$@"; do
        if [ "$word" = --help ] || [ "$word" = -h ]; then
            sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
            printf '\n%s\n' "The options of run_sample.py: python $project/run_sample.py --help"
            exit
        fi
    done
}

# Runs the pipeline on the real dataset, or on a small synthetic sample where that is not there.
#   pseudo_gt DATASET REAL_ROOT LAYOUT CLASSIFIER ADVICE [options of run_sample.py]
# REAL_ROOT and CLASSIFIER are below the project. LAYOUT and CLASSIFIER are those of the sample;
# ADVICE says where the real data comes from. The array SAMPLE_OPTIONS has what else it needs.
pseudo_gt() {
    local dataset=$1 real_root=$2 layout=$3 classifier=$4 advice=$5
    shift 5
    prepare_to_run
    # From another folder the program's own places stay in the project; what is given is the user's.
    local own=
    [ "$PWD" -ef "$project" ] || own=$project/
    # Misspelt options end here, before a sample stands in for the data that was meant.
    local given
    local question="$SILENTLY; from misc.cli.options import print_given; print_given()"
    given=$(cd "$project" && "$PYTHON" -c "$question" --dataset "$dataset" "$@") || exit $?
    programs_say_it
    if [[ " $given " == *" ${dataset}_root "* ]] || [ -d "$project/$real_root" ]; then
        run_maps --dataset "$dataset" "--${dataset}_root" "$own$real_root" \
            --result_dir "${own}result/$dataset" "$@"
        return
    fi
    local name=sample_$dataset
    echo "$own$real_root is not here: running on a small synthetic sample instead, into result/$name/."
    echo "$advice, or say --${dataset}_root DIR. The README has the details."
    (cd "$project" && "$PYTHON" -m Dataset.make_sample --layout "$layout" --out "Dataset/$name")
    # The sample's images are small and few and its classifier is of width 16, hence these sizes.
    # Stride 16 is coarse for them: their maps spread wider, so background scores are higher.
    local options=(--dataset "$dataset"
        "--${dataset}_root" "${own}Dataset/$name" --result_dir "${own}result/$name" \
        --cam_weights_name "$own$classifier" --imagenet_weights "$own$classifier" \
        --cam_crop_size 192 --cam_long 160,320 --RIB_batch_size 8 \
        --conf_fg_thres 0.45 --conf_bg_thres 0.3 --sem_seg_bg_thres 0.45 \
        --irn_crop_size 192 --irn_batch_size 4 --irn_num_epoches 30 \
        --seg_init "$own$classifier" --seg_crop_size 129 --seg_batch_size 4 --seg_iterations 80 \
        --seg_learning_rate 3e-5 --adv_iter 8 --visualize 4 "${SAMPLE_OPTIONS[@]}")
    if [[ " $given " == *" with_seg "* ]]; then
        # Fully supervised: the same network trained on ground truth.
        (run_maps "${options[@]}" "$@")
        run_ranks "${options[@]}" "$@" --recam rib --train_seg_pass --make_seg_pass --eval_seg_pass \
            --seg_label_dir "${own}Dataset/$name/$TRUTH" \
            --seg_weights_name "${own}result/$name/upper_bound.pth" \
            --seg_out_dir "${own}result/$name/upper_bound"
    fi
    run_maps "${options[@]}" "$@"
}

# Runs the pipeline, with --recam all on CAMs, AdvCAM's and RIB's one after the other: what
# has one place for all, such as the masks of photographs, is RIB's in the end.
run_maps() {
    if [[ " $given " == *" recam=all "* ]]; then
        (run_ranks "$@" --recam none)
        (run_ranks "$@" --recam advcam)
        set -- "$@" --recam rib
    fi
    run_ranks "$@"
}

# Runs the pipeline on a folder of photographs.
#   own_photographs DIR [LABELS] [options of run_sample.py]
own_photographs() {
    prepare_to_run
    programs_say_it
    local options=(--dataset folder --root "$1")
    shift
    if [ $# -gt 0 ] && [[ $1 != -* ]]; then
        options+=(--labels "$1")
        shift
    fi
    local given="" word before=
    for word in "$@"; do # the last one counts
        case "$before $word" in
            "--recam "*) given=recam=$word ;;
            *" --recam="*) given=recam=${word#*=} ;;
        esac
        before=$word
    done
    run_maps "${options[@]}" --report_html --visualize 4 "$@"
}

# Finds the interpreter, PYTHON, and the number of `processes` to run: as many as there are GPUs where
# NPROC is not set.
prepare_to_run() {
    require_number_of_processes
    find_python "$project/requirements.txt" $PROJECT_MODULES
    local gpus="$SILENTLY; import torch; print(max(1, torch.cuda.device_count()))"
    processes=${NPROC:-$("$PYTHON" -c "$gpus")}
}

# Ends with a line unless NPROC, where it is set, is a number of processes.
require_number_of_processes() {
    if ! [[ ${NPROC:-1} =~ ^[1-9][0-9]{0,3}$ ]]; then
        echo "error: NPROC=$NPROC: is not a number of processes; give 1 or more, or leave it out" >&2
        exit 2
    fi
}

# Becomes run_sample.py, in processes that share the images and the batches of the trainings: NPROC,
# or one per GPU as far as there is a part for each. Under torchrun this is one of its processes.
run_ranks() {
    if [ "$processes" != 1 ] && [ -z "${NPROC:-}${TORCHELASTIC_RUN_ID:-}" ]; then
        processes=$("$PYTHON" "$project/run_sample.py" "$@" --check processes)
    fi
    if [ "$processes" = 1 ] || [ -n "${TORCHELASTIC_RUN_ID:-}" ]; then
        exec "$PYTHON" "$project/run_sample.py" "$@"
    fi
    # Bad input is said once, before the processes start; that they share the batches is a part of it.
    LOCAL_WORLD_SIZE=$processes "$PYTHON" "$project/run_sample.py" --check "$@"
    exec "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$processes" \
        --max-restarts 3 "$project/run_sample.py" "$@"
}
