"""The shell scripts: mistakes end with one line, and nothing is drawn or computed instead."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import PROJECT
from tests.misc.cli.test_options import few_photographs

SCRIPTS = ("get_pseudo_gt_VOC.sh", "get_pseudo_gt_COCO.sh")


@pytest.fixture
def script(tmp_path):
    """Runs a script from another folder: exit code, stdout, lines of stderr."""

    def run(name, *options, folder=tmp_path, **environment):
        command = ["bash", str(PROJECT / name), *map(str, options)]
        env = {**os.environ, "PYTHON": sys.executable, "NPROC": "1", **environment}
        own = {"cwd": folder, "env": env, "start_new_session": True}
        end = subprocess.run(command, capture_output=True, text=True, **own)
        return end.returncode, end.stdout, end.stderr.splitlines()

    return run


FIRST_WORD = "the first argument is the folder of the photographs"


@pytest.mark.parametrize("name, given, words", [
    ("get_pseudo_gt_COCO.sh", ["--voc12_rot", "DIR"], "unrecognized arguments: --voc12_rot"),
    ("get_pseudo_gt_VOC.sh", ["--voc12_root=none"], "--voc12_root none: no such folder"),
    ("get_pseudo_gt.sh", [], FIRST_WORD),
    ("get_pseudo_gt.sh", ["--labels", "labels.csv"], FIRST_WORD),
    ("get_pseudo_gt.sh", ["none"], "--root none: no such folder"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_does_not_fall_to_the_sample(script, name, given, words):
    code, said, (line,) = script(name, *given)
    assert code == 2 and said == "" and words in line


@pytest.mark.parametrize("value", ["abc", "0", "1.5"])
def test_the_number_of_processes_is_a_number(script, value):
    code, said, (line,) = script("get_pseudo_gt_VOC.sh", NPROC=value)
    assert code == 2 and said == "" and line.startswith(f"error: NPROC={value}: is not a number")


def test_batches_too_small_for_the_processes_are_one_line_before_any_starts(script, tmp_path):
    few_photographs(tmp_path / "photos")
    weights = PROJECT / "Dataset" / "sample_classifier.pth"
    options = ("--device", "cpu", "--imagenet_weights", weights, "--seg_init", weights)
    flags = ("--irn_batch_size", "--seg_batch_size")
    given = (*options, "--with_seg", flags[0], 2, flags[1], 2)
    code, _, lines = script("get_pseudo_gt.sh", "photos", *given, NPROC="3")
    said = [line for line in lines if line.startswith("error") and "nothing to do" in line]
    assert code == 2 and not (tmp_path / "result").exists()
    for flag, line in zip(flags, said, strict=True):
        assert line.startswith(f"error: {flag} 2: leaves nothing to do") and "NPROC=2" in line


def test_paths_are_relative_to_where_the_user_stands(script, sample, tmp_path, classifier_file):
    shutil.copytree(sample.root, tmp_path / "mine" / "voc")
    shutil.copy(classifier_file, tmp_path / "mine" / "cam.pth")
    code, said, errors = script(
        *("get_pseudo_gt_VOC.sh", "--voc12_root", "voc", "--cam_weights_name", "cam.pth"),
        *("--make_cam_pass", "--max_long", 64, "--limit", 1, "--result_dir", "out"),
        *("--device", "cpu"),
        folder=tmp_path / "mine",
    )
    assert code == 0, errors
    assert len(list((tmp_path / "mine" / "out" / "cam_plain").glob("*.npy"))) == 1
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["cam.pth", "out", "voc"]


@pytest.mark.parametrize("name", ["get_pseudo_gt.sh", *SCRIPTS])
@pytest.mark.parametrize("words", [["--help"], ["photos", "-h"]])
def test_help_is_the_head_of_the_script_and_needs_no_python(script, name, words):
    code, said, errors = script(name, *words, PYTHON="none")
    assert code == 0 and not errors
    assert f"bash {name} " in said and "run_sample.py --help" in said and "set -euo" not in said


def fake_python(folder, *cases):
    """A program that takes all packages for granted, prints its words, and does what is said."""
    fake = folder / "python"
    lines = ["#!/bin/bash", 'case "$*" in', "*find_spec*) exit;;", *cases, "esac", 'echo "$@"']
    fake.write_text("\n".join(lines) + "\n")
    fake.chmod(0o755)
    return fake


def test_all_maps_of_photographs_are_made_and_those_of_rib_last(script, tmp_path):
    (tmp_path / "photos").mkdir()
    python = fake_python(tmp_path)
    for words in (["--recam", "all"], ["--recam=all"], ["--recam", "rib", "--recam=all"]):
        code, said, errors = script("get_pseudo_gt.sh", "photos", *words, PYTHON=python)
        assert code == 0 and not errors
        runs = [line.split() for line in said.splitlines()]
        assert [run[-2:] for run in runs] == [["--recam", m] for m in ("none", "advcam", "rib")]
        assert all(run[1:5] == ["--dataset", "folder", "--root", "photos"] for run in runs)
    for words in (["--recam", "all", "--recam", "none"], ["--classes", "all"]):
        _, said, _ = script("get_pseudo_gt.sh", "photos", *words, PYTHON=python)
        assert said.count("\n") == 1


@pytest.mark.parametrize("useful, given, started", [(3, "", 3), (1, "", 1), (3, "2", 2)])
def test_of_many_gpus_the_script_uses_those_that_have_something_to_do(
    script, tmp_path, useful, given, started
):
    answers = "*device_count*) echo 8; exit;;", f"*'--check processes') echo {useful}; exit;;"
    python = fake_python(tmp_path, *answers)
    code, said, errors = script("get_pseudo_gt.sh", "photos", PYTHON=python, NPROC=given)
    assert code == 0 and not errors
    *check, run = said.splitlines()
    assert len(check) == (started > 1) and (f"--nproc-per-node {started} " in run) == (started > 1)


@pytest.mark.parametrize("name", ["get_pseudo_gt.sh", *SCRIPTS])
@pytest.mark.parametrize(("program", "words"), [
    (None, "no such program"),
    ("exit 1", "cannot be run as Python"),
    ("echo torch, cv2", "lacks torch, cv2; install the packages of "),
])  # fmt: skip
def test_a_python_that_the_user_names_is_used_or_refused(script, tmp_path, name, program, words):
    """Nothing is installed in its place."""
    fake = tmp_path / "mine"
    if program:
        fake.write_text(f"#!/bin/sh\n{program}\n")
        fake.chmod(0o755)
    code, said, (line,) = script(name, ".", PYTHON=fake)
    assert code == 2 and said == "" and line.startswith(f"error: PYTHON={fake}: {words}")


def test_an_interpreter_says_what_it_lacks():
    code = 'source "$1"; lacking_modules "$2" json none_of_these torch no_such'
    words = [PROJECT / "misc" / "cli" / "setup_env.sh", sys.executable]
    end = subprocess.run(["bash", "-c", code, "-", *words], capture_output=True, text=True)
    assert (end.returncode, end.stdout) == (0, "none_of_these, no_such\n")


PIECES = ("find_spec", "device_count", "misc.cli.options")


@pytest.mark.parametrize("name", ["get_pseudo_gt.sh", "get_pseudo_gt_VOC.sh"])
@pytest.mark.parametrize("moment", [*PIECES, "run_sample"])
def test_ctrl_c_is_one_line_at_any_moment(script, tmp_path, name, moment):
    """Ctrl-C goes to the script and to what it runs, which ends silently, or says the line."""
    line = "interrupted: the same command resumes where it stopped"
    says = "" if moment in PIECES else f"trap 'echo {line} >&2; exit 130' INT; "
    fake = fake_python(tmp_path, "*device_count*) echo 1; exit;;", "*misc.cli.options*) exit;;")
    case = f'case "$*" in *{moment}*) {says}kill -INT 0; sleep 5;; esac\n'
    fake.write_text(fake.read_text().replace("case", f"{case}case", 1))
    first = "photos" if name == "get_pseudo_gt.sh" else "--voc12_root=photos"
    code, _, errors = script(name, first, "--recam", "all", PYTHON=fake, NPROC="")
    reached = name != "get_pseudo_gt.sh" or moment != "misc.cli.options"
    assert (code, errors) == ((130, [line]) if reached else (0, []))


@pytest.mark.parametrize("pip, words", [
    ("0", "the package index cannot be"), ("1", "python3 cannot make a virtual environment with"),
])  # fmt: skip
def test_an_installation_that_fails_ends_with_its_reason(script, tmp_path, pip, words):
    """With a python3 whose environments have a pip that is offline, or none."""
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "  *find_spec*) exit 1;;\n"
        '  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python";;\n'
        f'  "-m pip --version") exit {pip};;\n'
        '  *install*) echo "NewConnectionError"; exit 1;;\n'
        "esac\n"
    )
    fake.chmod(0o755)
    shutil.copytree(PROJECT / "misc" / "cli", tmp_path / "misc" / "cli")
    for name in ("get_pseudo_gt_VOC.sh", "requirements.txt"):
        shutil.copy(PROJECT / name, tmp_path)
    environment = {"PATH": f"{fake.parent}:{os.environ['PATH']}", "PYTHON": ""}
    code, _, (*_, line) = script(tmp_path / "get_pseudo_gt_VOC.sh", **environment)
    assert code == 2 and line.startswith(f"error: {words}")
