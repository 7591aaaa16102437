"""misc/data/preparation.py: its command line."""

import shutil
import subprocess
import sys

from tests.conftest import PROJECT


def test_command_line(coco_sample, tmp_path):
    info, root = coco_sample, shutil.copytree(coco_sample.root, tmp_path / "copy")

    def command(*words):
        words = [sys.executable, "-m", "coco14.prepare", *map(str, words)]
        return subprocess.run(words, capture_output=True, text=True, cwd=PROJECT)

    good = command(info.root_flag, root, "--out_dir", tmp_path / "out")
    assert good.returncode == 0 and f": images in {info.train_split[:5]}" in good.stderr
    assert (tmp_path / "out" / info.label_file).is_file()
    bad = command(info.root_flag, tmp_path / "none")
    assert bad.returncode == 2 and bad.stderr.startswith(f"error: {info.root_flag}")
    assert bad.stderr.count("\n") == 1
