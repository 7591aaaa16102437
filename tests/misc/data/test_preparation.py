"""misc/data/preparation.py: the command line of both datasets."""

import shutil
import subprocess
import sys

import pytest

from tests.conftest import PROJECT


@pytest.mark.parametrize("dataset", ["voc12", "coco14"])
def test_command_line(request, tmp_path, dataset):
    info = request.getfixturevalue("sample" if dataset == "voc12" else "coco_sample")
    root = shutil.copytree(info.root, tmp_path / "copy")

    def command(*words):
        words = [sys.executable, "-m", f"{dataset}.prepare", *map(str, words)]
        return subprocess.run(words, capture_output=True, text=True, cwd=PROJECT)

    good = command(info.root_flag, root, "--out_dir", tmp_path / "out")
    assert good.returncode == 0 and f": images in {info.train_split[:5]}" in good.stderr
    assert (tmp_path / "out" / info.label_file).is_file()
    bad = command(info.root_flag, tmp_path / "none")
    assert bad.returncode == 2 and bad.stderr.startswith(f"error: {info.root_flag}")
    assert bad.stderr.count("\n") == 1
