"""Times report.html: python -m tests.tools.benchmark_report --root TREE [--images 10000].

The photographs and masks of the tree stand for any number of images, by links; maps are made from
the masks. The log line of the step has the time and the size of the page.
"""

import argparse
import os
import resource
import tempfile
from pathlib import Path

from misc.cams import save_cam
from misc.cli.log import log_to_screen
from misc.cli.options import parse
from misc.data.dataset_info import DatasetInfo
from misc.labels import read_label_png, save_label_png
from step import html_report
from tests.misc.report.conftest import blurred_truth
from voc12.dataset import describe


def make_results(info: DatasetInfo, folder: Path, count: int) -> list[str]:
    """Make a dataset of so many images and a result folder for them; the options of the step."""
    sources = [p.stem for p in sorted(info.mask_dirs[1].glob("*.png"))[:256]]
    root, result = folder / "voc", folder / "result"
    own = [root / "JPEGImages", root / "SegmentationClassAug", root / "SegmentationClass"]
    own += [result / name for name in ("cam", "cam_plain", "sem_seg", "lists", "base")]
    for path in own:
        path.mkdir(parents=True)
    for image_id in sources:
        save_cam(result / "base" / f"{image_id}.npy", **blurred_truth(info, image_id, 15))
        mask = read_label_png(info.mask_path(image_id))
        save_label_png(result / "base" / f"{image_id}.png", mask * (mask < 255))
    ids = [f"2030_{n:06d}" for n in range(count)]
    for number, image_id in enumerate(ids):
        old = sources[number % len(sources)]
        os.symlink(info.image_path(old), root / "JPEGImages" / f"{image_id}.jpg")
        os.symlink(info.mask_path(old), root / "SegmentationClassAug" / f"{image_id}.png")
        for name in ("cam", "cam_plain"):
            os.symlink(result / "base" / f"{old}.npy", result / name / f"{image_id}.npy")
        os.symlink(result / "base" / f"{old}.png", result / "sem_seg" / f"{image_id}.png")
    (result / "lists" / "train_aug.txt").write_text("\n".join(ids))
    return ["--result_dir", str(result), "--voc12_root", str(root)]


def main() -> None:
    """Parse the options, make the pages and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.benchmark_report")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000])
    given = parser.parse_args()
    log_to_screen()
    for count in given.images:
        with tempfile.TemporaryDirectory() as folder:
            words = make_results(describe(given.root.resolve()), Path(folder), count)
            html_report.run(parse(words))
    for who, name in ((resource.RUSAGE_SELF, "peak"), (resource.RUSAGE_CHILDREN, "of a process")):
        print(f"{name}: {resource.getrusage(who).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
