"""misc/cli/places.py: no output goes into the place of what the user has."""

from pathlib import Path

import pytest
from PIL import Image

from misc.cli.options import build_parser, parse
from misc.cli.places import check_places, written
from misc.cli.run import parts_of
from misc.data.folder.own_size import check
from misc.data.folder.prepare import prepare
from misc.errors import UserError
from step import all_steps

PATHS = {action.dest for action in build_parser()._actions if action.type is Path}
PATHS -= {"result_dir", "root", "voc12_root", "coco14_root"}
OF_PHOTOGRAPHS = ("labels", "classes", "masks", "val_list")


@pytest.fixture
def project(tmp_path):
    """A folder as a user has it: photographs, their labels and masks side by side."""
    for name, mode in (("photos", "RGB"), ("masks", "L")):
        (tmp_path / name).mkdir()
        for number in range(3):
            suffix = "jpg" if mode == "RGB" else "png"
            Image.new(mode, (32, 24)).save(tmp_path / name / f"{number}.{suffix}")
    rows = [f"{number}.jpg,{'cat' if number else 'dog'}" for number in range(3)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    return tmp_path


def words(project, *more):
    given = ("--dataset", "folder", "--root", project / "photos", "--labels")
    return [*given, project / "labels.csv", *more]


def places_of(argv, *steps):
    """Options of a run of these steps, and the modules whose places are looked at."""
    args = parse([*map(str, argv), *(f"--{name}_pass" for name in steps)])
    return args, parts_of(args, all_steps()).all.values()


def refusal(argv, *steps):
    with pytest.raises(UserError) as error:
        check_places(*places_of(argv, *(steps or ("make_cam",))))
    return str(error.value)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_no_output_goes_over_what_an_option_names(project, tmp_path, name):
    place = tmp_path / ("classes.txt" if name == "classes" else "masks")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    place = project / "labels.csv" if name == "labels" else place
    if name in OF_PHOTOGRAPHS:
        argv = words(project, *(() if name == "labels" else (f"--{name}", place)))
    else:
        argv = [f"--{name}", place]
    argv += ["--visualize", "1"]
    other = "seg_submission" if name == "ins_seg_json" else "ins_seg_json"
    said = refusal([*argv, f"--{other}", place], "eval_ins_seg", "export_masks", "make_seg")
    assert str(place) in said and f"--{other}" in said and f"--{name}" in said


@pytest.mark.parametrize("name", ["ins_seg_json", "seg_submission"])
@pytest.mark.parametrize("over", ["labels.csv", "masks/0.png", "photos/0.jpg", "photos/new.json"])
def test_no_file_that_is_named_goes_over_what_is_read(project, name, over):
    argv = words(project, "--masks", project / "masks", f"--{name}", project / over)
    line = refusal(argv, "eval_ins_seg", "make_seg")
    assert line.startswith(f"--{name} {project / over}: ")


def test_masks_of_the_user_are_not_those_of_the_run(project):
    argv = words(project, "--masks", project / "masks", "--result_dir", project)
    line = refusal(argv, "make_sem_seg_labels")
    assert line == f"--result_dir {project / 'masks'}: is the folder of --masks; give another place"
    check_places(*places_of(argv, "make_cam"))  # this one makes none


def test_what_the_steps_hand_to_each_other_is_no_input_of_the_user(tmp_path):
    place = tmp_path / "sem_seg"
    argv = ["--sem_seg_out_dir", place, "--seg_label_dir", place, "--export_from", place]
    argv += ["--train_list", tmp_path / "lists" / "train_aug.txt", "--result_dir", tmp_path]
    args, parts = places_of(argv, "make_sem_seg_labels", "train_seg", "export_masks")
    assert args.brought == ()
    check_places(args, parts)


def test_an_unfinished_training_has_a_place_of_its_own(tmp_path):
    argv = ["--cam_weights_name", tmp_path / "a.pth", "--irn_weights_name"]
    line = refusal([*argv, tmp_path / "a.partial.pth"], "train_cam", "train_irn")
    assert line.endswith("a.partial.pth: is written by --cam_weights_name too; give another one")


def test_everything_around_the_steps_is_known_too(project):
    argv = words(project, "--visualize", 1, "--report_html", "--result_dir", project / "r")
    names = {output.path.name for output in written(*places_of(argv, "make_sem_seg_labels"))}
    expected = {"run.log", "lists", "sem_seg", "palette", "masks", "visualize", "report.html"}
    assert names == expected


def test_three_photographs_never_share_two_masks(project):
    for path in (project / "photos").iterdir():
        path.unlink()
    for name in ("a.jpg", "a.png", "a.jpg.png"):
        Image.new("RGB", (32, 24)).save(project / "photos" / name)
    (project / "labels.csv").write_text("image,label\na.jpg,cat\na.png,dog\na.jpg.png,cat\n")
    args = parse([str(word) for word in words(project, "--result_dir", project / "r")])
    prepare(args.info, args.list_dir)
    with pytest.raises(UserError, match="would both be written to .*a.jpg.png; rename one"):
        check(args)
