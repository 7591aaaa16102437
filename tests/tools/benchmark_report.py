"""Times report.html: python -m tests.tools.benchmark_report --root TREE.

The photographs and masks of the tree stand for any number of images, by links; maps are made from
the masks. --browser also opens the page in Chromium and tells when its first picture is there.
--repeated writes the page from the entries of 24 images, again and again under other names: the
browser has as much to do, and a minute's work is a second's.
"""

import argparse
import contextlib
import os
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from misc.cams import save_cam
from misc.cli.options import parse
from misc.labels import read_label_png, save_label_png
from misc.report.images import shown_images
from misc.report.page import Spool, write_page
from misc.report.pictures import SIZES
from step import html_report
from tests.misc.report.conftest import blurred_truth
from voc12.dataset import describe


def links(info, folder: Path, count: int) -> list[str]:
    """A tree of `count` images and a result folder for them, below a folder."""
    source = [p.stem for p in sorted(info.mask_dirs[1].glob("*.png"))[:256]]
    root, result = folder / "voc", folder / "result"
    own = [root / "JPEGImages", root / "SegmentationClassAug", root / "SegmentationClass"]
    own += [result / name for name in ("cam", "cam_plain", "sem_seg", "lists", "base")]
    for path in own:
        path.mkdir(parents=True)
    ids = [f"2030_{n:06d}" for n in range(count)]
    for image_id in source:
        save_cam(result / "base" / f"{image_id}.npy", **blurred_truth(info, image_id, 15))
        mask = read_label_png(info.mask_path(image_id))
        save_label_png(result / "base" / f"{image_id}.png", mask * (mask < 255))
    for number, image_id in enumerate(ids):
        old = source[number % len(source)]
        os.symlink(info.image_path(old), root / "JPEGImages" / f"{image_id}.jpg")
        os.symlink(info.mask_path(old), root / "SegmentationClassAug" / f"{image_id}.png")
        for name in ("cam", "cam_plain"):
            os.symlink(result / "base" / f"{old}.npy", result / name / f"{image_id}.npy")
        os.symlink(result / "base" / f"{old}.png", result / "sem_seg" / f"{image_id}.png")
    (result / "lists" / "train_aug.txt").write_text("\n".join(ids))
    return ids


def write_repeated(result: Path, root: Path, count: int) -> None:
    """The page of a result folder as if its images were `count`."""
    args = parse(["--result_dir", str(result), "--voc12_root", str(root)])
    sources = replace(html_report.sources_of(args), with_truth=True)
    ids = html_report._ids(args)
    for size in SIZES:
        shown, confusion = shown_images(sources, size, ids)
        if sum(one.length for one in shown) / len(shown) * count <= html_report.MAX_BYTES:
            break
    with contextlib.closing(Spool(result)) as spool:
        for number in range(count):
            spool.add(shown[number % len(shown)]._replace(image_id=f"2030_{number:06d}"))
        data = {**html_report.page_data(args, sources, confusion), "runs": [], "images_note": ""}
        write_page(html_report.page_path(args), data["title"], data, spool)


def _wait(driver, script: str) -> object:
    """What a script returns once it is true."""
    while not (found := driver.execute_script(script)):
        time.sleep(0.02)
    return found


def open_in_browser(path: Path) -> str:
    """When the first picture and the whole page were there."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.page_load_strategy = "none"  # a page of 180 MB can take longer than the driver waits
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(option)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        start = time.perf_counter()
        driver.get(path.as_uri())
        first = _wait(driver, "return typeof data !== 'undefined' && data.first_picture") / 1000
        _wait(driver, "return document.readyState === 'complete'")
        loaded = time.perf_counter() - start
        start = time.perf_counter()
        driver.execute_script("return showPage(100)")
        turned = time.perf_counter() - start
        start = time.perf_counter()
        driver.execute_script("byId('order').value = 'random'; return choose()")
        mixed = time.perf_counter() - start
    finally:
        driver.quit()
    return (f"first picture after {first:.2f} s, all read after {loaded:.1f} s, page 101 in "
            f"{turned:.2f} s, random order in {mixed:.2f} s")  # fmt: skip


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000])
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--repeated", action="store_true")
    given = parser.parse_args()
    for count in given.images:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            links(describe(given.root.resolve()), folder, 24 if given.repeated else count)
            result = folder / "result"
            if given.repeated:
                write_repeated(result, folder / "voc", count)
                size = (result / "report.html").stat().st_size / 2**20
                print(f"{count} images: {size:.0f} MiB; {open_in_browser(result / 'report.html')}")
                continue
            args = parse(["--result_dir", str(result), "--voc12_root", str(folder / "voc")])
            start = time.perf_counter()
            html_report.run(args)
            seconds = time.perf_counter() - start
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            memory_of_others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            page = result / "report.html"
            size = page.stat().st_size / 2**20
            print(f"{count} images: {seconds:.0f} s, {size:.0f} MiB, memory {memory:.0f} MiB, of "
                  f"a process beside it {memory_of_others:.0f} MiB")  # fmt: skip
            if given.browser:
                print(open_in_browser(page))


if __name__ == "__main__":
    main()
