"""misc/cli/flags.py and misc/cli/options.py: what the command line means."""

import argparse
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from misc.cli.options import SEG_STEPS, SEQUENCE, STEPS, build_parser, chosen_steps, parse
from misc.cli.options import print_given as print_options
from misc.data.dataset_info import dataset_module
from misc.errors import UserError
from misc.runtime.devices import check_device
from step.eval_cam import thresholds


def refusal(capsys, *argv):
    """The one line that wrong options end with."""
    with pytest.raises(SystemExit) as end:
        parse(list(argv))
    assert end.value.code == 2
    line, rest = capsys.readouterr().err.split("\n", 1)
    assert rest == "" and line.startswith("error: ")
    return line


def test_all_steps_without_any_flag():
    assert chosen_steps(parse([])) == list(SEQUENCE)
    assert chosen_steps(parse(["--with_seg"])) == [*SEQUENCE, *SEG_STEPS]
    asked_for = ("make_recam_with_AdvCAM", "import_maps", "export_masks")
    every = chosen_steps(parse(["--with_crf", "--with_ins", "--with_seg"]))
    assert every == [name for name in STEPS if name not in asked_for]
    advcam = chosen_steps(parse(["--recam", "advcam"]))
    assert set(advcam) ^ set(SEQUENCE) == {"make_recam_with_AdvCAM", "make_recam_with_RIB"}
    assert len(chosen_steps(parse(["--recam", "none"]))) == len(SEQUENCE) - 1


@pytest.mark.parametrize("words, steps", [
    ("--eval_cam_pass True", ["eval_cam"]),
    *((f"--eval_cam_pass {no}", [s for s in SEQUENCE if s != "eval_cam"]) for no in ("False", 0)),
    ("--eval_sem_seg_pass --make_cam_pass yes --train_cam_pass no", ["make_cam", "eval_sem_seg"]),
    ("--make_sem_seg_pass", ["make_sem_seg_labels"]),
    ("--make_recam_pass", ["make_recam_with_RIB"]),
    *((f"--{step}_pass", [step]) for step in STEPS),
    ("--cam_weights_name c.pth", [s for s in SEQUENCE if s != "train_cam"]),
    ("--cam_weights_name c.pth --train_cam_pass", ["train_cam"]),
    ("--import_maps DIR", ["import_maps", *SEQUENCE[3:]]),  # no classifier
])  # fmt: skip
def test_flags_choose_their_steps_in_the_order_of_the_method(words, steps):
    assert chosen_steps(parse(words.split())) == steps


def test_all_steps_disabled_is_said_so():
    words = [word for name in SEQUENCE for word in (f"--{name}_pass", "False")]
    with pytest.raises(UserError, match="all steps are disabled .*leave one of these options out"):
        chosen_steps(parse(words))


def test_instance_labels_without_masks_of_objects_are_made_and_not_scored(tmp_path):
    words = ["--with_ins", "--voc12_root", str(tmp_path)]
    steps = chosen_steps(parse(words))
    assert "make_ins_seg_labels" in steps and "eval_ins_seg" not in steps
    (tmp_path / "SegmentationObject").mkdir()
    assert "eval_ins_seg" in chosen_steps(parse(words))


def test_defaults_are_the_papers_for_voc():
    args = parse([])
    assert (args.RIB_lr, args.RIB_batch_size, args.RIB_iter) == (8e-6, 20, 10)
    assert (args.score_th, args.stop_th) == (0.4, 600)
    assert (args.explode_th, args.explode_ratio, args.disjoint_prob) == (0.3, 0.7, 1.0)
    assert args.cam_scales == (1.0, 0.5, 1.5, 2.0) and args.num_pooled_classes is None
    assert (args.cam_num_epoches, args.cam_batch_size, args.cam_crop_size) == (5, 16, 512)
    assert (args.cam_learning_rate, args.cam_weight_decay) == (0.1, 1e-4)
    assert args.cam_long == (320, 640) and args.max_long is None
    np.testing.assert_allclose(thresholds(args), np.arange(20, 50) / 100, rtol=0, atol=1e-12)
    assert (args.conf_fg_thres, args.conf_bg_thres) == (0.35, 0.17)
    assert (args.irn_num_epoches, args.irn_batch_size, args.irn_crop_size) == (3, 32, 512)
    assert (args.irn_learning_rate, args.irn_weight_decay, args.irn_radius) == (0.1, 1e-4, 10)
    assert (args.beta, args.exp_times, args.walk_radius, args.seed_power) == (10, 8, 5, 1.3)
    assert (args.sem_seg_bg_thres, args.irn_pad_size) == (0.27, 512)
    assert args.limit is None and args.overwrite is False and args.skip_mismatched is False


def test_paths_go_below_the_result_folder_unless_given(tmp_path):
    args = parse(["--result_dir", str(tmp_path / "r"), "--cam_out_dir", str(tmp_path / "maps")])
    assert args.cam_out_dir == tmp_path / "maps"
    assert args.sem_seg_out_dir == tmp_path / "r" / "sem_seg"
    assert args.log_name == tmp_path / "r" / "run.log"
    assert args.cam_weights_name == tmp_path / "r" / "res50_cam.pth"
    assert args.train_list == args.infer_list == tmp_path / "r" / "lists" / "train_aug.txt"
    assert args.eval_list == tmp_path / "r" / "lists" / "train.txt"
    assert args.cls_labels == tmp_path / "r" / "lists" / "cls_labels.npy"
    assert args.adv_cam_out_dir == tmp_path / "r" / "cam_adv" and not list(tmp_path.iterdir())
    advcam = parse(["--result_dir", str(tmp_path / "r"), "--recam", "advcam"])
    assert advcam.adv_cam_out_dir == advcam.cam_out_dir == tmp_path / "r" / "cam_adv"


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_results_go_beside_photographs_where_the_user_stands_inside(tmp_path, monkeypatch, inside):
    few_photographs(tmp_path / "mine" / "deeper")
    monkeypatch.chdir(tmp_path / "mine" / inside)
    args = parse(["--dataset", "folder", "--root", ".." if inside else "."])
    assert args.result_dir.resolve() == tmp_path / "result" / "folder_mine"
    monkeypatch.chdir(tmp_path)
    args = parse(["--dataset", "folder", "--root", "mine"])
    assert args.result_dir == Path("result") / "folder_mine"


def few_photographs(folder, count=12):
    for number in range(count):
        kind = folder / ("cat" if number % 2 else "dog")
        kind.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(kind / f"{number}.png")
    return "--dataset", "folder", "--root", str(folder)


@pytest.mark.parametrize("ranks, batches", [("1", (4, 2, 4)), ("5", (5, 5, 5))])
def test_few_photographs_have_trainings_that_suit_them(tmp_path, monkeypatch, ranks, batches):
    """Every process has a part of each batch."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    words = few_photographs(tmp_path)
    args = parse(words)
    assert (args.cam_batch_size, args.irn_batch_size, args.seg_batch_size) == batches
    assert args.seg_iterations == 84 and args.seg_crop_size == 65
    assert parse([*words, "--irn_batch_size", "2"]).irn_batch_size == 2
    published = parse([*words, "--seg_preset", "rib"])
    assert published.seg_iterations == 30_000 and published.seg_crop_size == 321


def test_published_settings_of_advcam_come_with_it_unless_given():
    args = parse(["--recam", "advcam"])
    found = args.cam_eval_thres, args.conf_bg_thres, args.seed_power, args.sem_seg_bg_thres
    assert found == ((0.15, 0.34), 0.15, 1.5, 0.25)
    given = parse(["--recam", "advcam", "--conf_bg_thres", "0.17", "--seed_power", "1.3"])
    assert (given.conf_bg_thres, given.seed_power, given.sem_seg_bg_thres) == (0.17, 1.3, 0.25)
    coco = parse(["--recam", "advcam", "--dataset", "coco14"])  # it has no settings for COCO
    assert (coco.conf_bg_thres, coco.sem_seg_bg_thres) == (0.17, 0.22)


def test_all_maps_are_for_the_scripts(capsys, monkeypatch):
    assert "--recam: all is for get_pseudo_gt_*.sh" in refusal(capsys, "--recam", "all")
    monkeypatch.setattr(sys, "argv", ["options", "--recam", "all", "--seed", "3"])
    print_options()
    assert set(capsys.readouterr().out.split()) == {"seed", "recam=all"}


def test_options_are_read_only_and_travel_to_other_processes():
    args = parse(["--seed", "3"])
    with pytest.raises(AttributeError, match="read-only.*seed"):
        args.seed = 4
    copy = pickle.loads(pickle.dumps(args))
    assert copy.seed == 3 and copy.info == args.info and copy.plain() == args.plain()
    with pytest.raises(AttributeError):
        copy.seed = 4


def test_logs_and_manifests_have_plain_values():
    args = parse(["--seed", "3", "--RIB_iter", "10"])
    assert args.plain()["seed"] == 3 and not {"info", "given"} & set(args.plain())
    assert args.changed() == {"seed": 3}
    settings = args.settings("RIB_iter", "cam_scales")
    assert settings == {"RIB_iter": 10, "cam_scales": [1.0, 0.5, 1.5, 2.0]}


@pytest.mark.parametrize(
    "words",
    [
        "--RIB_iter 0", "--RIB_iter 2.5", "--RIB_lr 0", "--RIB_lr -1e-6", "--RIB_lr nan",
        "--score_th 1.5", "--score_th -0.1", "--stop_th 0", "--limit 0", "--seed -1",
        "--num_processes 0", "--num_workers -1", "--cam_scales 0.5,1.0", "--cam_scales 1.0,0.5,0.5",
        "--cam_scales 1.0,9", "--cam_scales 1.0;2.0",
        "--cam_scales ,", "--cam_long 320", "--cam_long 640,320",
        "--cam_eval_thres 0.5,0.2", "--cam_eval_thres 0.2,0.3,0.4", "--irn_crop_size 100",
        "--irn_crop_size 48", "--irn_radius 1", "--beta 0", "--exp_times 17",
        "--irn_crop_size 64 --irn_radius 9", "--conf_fg_thres 0.1", "--dataset imagenet",
        "--RIB_lr inf", "--RIB_lr 1e3", "--cam_learning_rate 1e3", "--irn_learning_rate 1e400",
        "--beta nan", "--num_workers 100000",
        "--overwrite perhaps", "--eval_cam_pass maybe", "--no_such_flag 1", "--eval_cam", "stray",
        "--masks DIR", "--export mask", "--import_maps DIR --recam rib", "--recam gradcam",
    ],
)  # fmt: skip
def test_values_out_of_range_and_unknown_flags_are_refused(capsys, words):
    assert words.split()[0] in refusal(capsys, *words.split())


def test_limits_belong_to_the_range():
    args = parse("--score_th 1 --explode_ratio 0 --exp_times 0 --limit 1".split())
    assert (args.score_th, args.explode_ratio, args.exp_times, args.limit) == (1, 0, 0, 1)
    assert parse("--irn_crop_size 64 --irn_radius 8".split()).irn_crop_size == 64
    assert parse(["--cam_eval_thres", "0.3,0.3"]).cam_eval_thres == (0.3, 0.3)


def test_help_tells_every_option_and_its_default_and_they_are_not_too_many():
    words = " ".join(build_parser().format_help().split())
    assert all(f"--{name}_pass" in words for name in STEPS)
    assert all(f"--{name} " in words for name in dataset_module("voc12").describe(Path()).defaults)
    for default in ("voc12 0.27, coco14 0.22", "voc12 8e-06", "1.0,0.5,1.5,2.0", "RESULT_DIR/cam"):
        assert f"(default: {default}" in words
    shown = [action for action in build_parser()._actions if action.help != argparse.SUPPRESS]
    assert len(shown) - 1 <= 110  # beside --help
    groups = {group.title: len(group._group_actions) for group in build_parser()._action_groups}
    assert list(groups)[2] == "main options" and groups["main options"] == 10


def lists(tmp_path, train, evaluated, *more):
    for name, ids in (("train", train), ("eval", evaluated)):
        (tmp_path / f"{name}.txt").write_text("".join(f"2007_00000{n}\n" for n in ids))
    roles = {"train": "train", "infer": "train", "eval": "eval"}
    return parse([*(f"--{r}_list={tmp_path / n}.txt" for r, n in roles.items()), *more])


def test_limit_cuts_the_lists(tmp_path):
    args = lists(tmp_path, (3, 1, 2, 5), (5, 2, 3), "--limit", "3")
    assert args.image_ids("infer") == ("2007_000003", "2007_000001", "2007_000002")
    assert len(args.image_ids("train", limited=False)) == 4
    assert args.scored_ids() == ("2007_000002", "2007_000003")
    assert len(lists(tmp_path, (1, 2), (5, 2, 3)).scored_ids()) == 3  # all, without a limit
    with pytest.raises(UserError, match="--limit 2: .*eval.txt; give a larger limit"):
        lists(tmp_path, (3, 1, 2), (2,), "--limit", "2").scored_ids()


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cuda:x", "cpu:0"])
def test_devices_that_are_not_there(name):
    with pytest.raises(UserError, match=f"--device {name}"):
        check_device(name)


def test_one_gpu_for_all_ranks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UserError, match="--device cuda:1: the 4 processes .*say --device cuda,"):
        check_device("cuda:1")
    for name in ("cuda", "auto", "cpu"):
        check_device(name)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")  # announced by a script
    with pytest.raises(UserError, match="--device auto: the 5 processes .* NPROC=4 at most"):
        check_device("auto")
    monkeypatch.setenv("RANK", "0")  # started: each may see another GPU
    check_device("auto")
