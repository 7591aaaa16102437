"""Fault-injection test: disturbs runs in many ways and compares what they make.

    python -m tests.tools.faults [--kills 30] [--seed 0] [--only NAME ...] [--folder DIR]

Every scenario ends with the command that it began with, and every file but the log has to be that
of an undisturbed run to the last byte. Needs Linux; takes half an hour on two idle cores. The exit
code is 1 if anything differs.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from misc.storage.files import _host
from tests.tools.fault_runs import SPLIT, Bench, FaultError, Run, checksums

_OTHER = ("--cam_scales", "1.0,0.5", "--conf_fg_thres", "0.35")  # settings of other files
_NOT_BY_IMAGE = ("lists/", "visualize/")
_FUTURE, _PAST = 4_000_000_000, 1  # seconds since 1970

# A scenario gets the folder of its results: a copy of the undisturbed ones, or a path where
# nothing is yet. It returns a summary; the same command has to end well after it.


def kill(bench: Bench, result: Path) -> str:
    """SIGKILL to the main process or to all, at any moment, also while a file is written."""
    counts = Counter()
    targets = bench.rng.sample(bench.moments, len(bench.moments))
    for number in range(bench.kills):
        alone, writing = number % 2 == 0, number % 4 in (1, 2)
        with bench.trial(f"kill {number + 1}"):
            target = targets[number % len(targets)]
            counts[_kill_in(bench, result, target, alone, writing)] += 1
            bench.compare(result, cut_short=True)
    table = ", ".join(f"{moment} {counts[moment]}" for moment in bench.moments)
    return f"{counts.total()} kills ({table})"


def _kill_in(bench: Bench, result: Path, target: str, alone: bool, writing: bool) -> str:
    """Kill a run within a step, or with the next file that it writes; the step where it was."""
    while True:
        step = target if target in bench.products else bench.rng.choice(list(bench.products))
        if all((result / product).exists() for product in bench.products[step]):
            bench.remove(result, step)
        with bench.start(result) as run:
            run.reach(target)
            bench.pause(target)
            before = set(result.rglob("[!.]*"))
            while writing and run.process.poll() is None and set(result.rglob("[!.]*")) <= before:
                time.sleep(0.001)
            if run.process.poll() is None:
                run.send(signal.SIGKILL, to_all=not alone)
                run.process.wait()
                run.gone()
                return run.moment()
            run.require(run.end() == 0, "the run fails")
        bench.compare(result)  # it was faster


def worker(bench: Bench, result: Path) -> str:
    """SIGKILL to one process that computes or reads for the main process."""
    steps = [step for step in (*SPLIT, "train_cam", "train_irn") if step in bench.steps]
    steps = steps[: max(1, bench.kills // 5)]
    for step in steps:
        with bench.trial(step):
            while not _stopped_by_kill(bench, result, step):
                bench.compare(result)  # it was faster
            bench.compare(result, cut_short=True)
    return f"one line and code 1 in {', '.join(steps)}"


def _stopped_by_kill(bench: Bench, result: Path, step: str) -> bool:
    """Run a step that loses a process; False where it had ended."""
    bench.remove(result, step)
    with bench.start(result) as run:
        run.reach(step)
        while run.process.poll() is None and not run.children():
            time.sleep(0.001)  # a training's reader lives for a tenth of a second
        if step in SPLIT:
            bench.pause(step, 0.5)
        children = run.children()
        run.require(children, "there is no such process")
        os.kill(bench.rng.choice(children), signal.SIGKILL)
        if (code := run.end()) == 0:
            return False
        run.require(code == 1 and len(run.lines("stopped")) == 1, f"code {code}, or not one line")
        return True


def signals(bench: Bench, result: Path) -> str:
    """SIGTERM, SIGINT, and SIGINT to all as Ctrl-C sends it."""
    times = []
    kinds = [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGINT, False)]
    for number in range(max(1, 2 * bench.kills // 5)):
        step = list(bench.products)[(1 + number) % len(bench.products)]
        kind, to_all = kinds[number % len(kinds)]
        with bench.trial(f"{kind.name}{' to all' if to_all else ''} in {step}"):
            times.append(_signal_in(bench, result, step, kind, to_all))
            bench.compare(result, cut_short=True)
    return f"{len(times)} signals, the longest end took {max(times, default=0):.1f} s"


def _signal_in(bench: Bench, result: Path, step: str, kind: signal.Signals, to_all: bool) -> float:
    """Signal a run within a step; the seconds until no process was left."""
    while True:
        bench.remove(result, step)
        with bench.start(result) as run:
            run.reach(step)
            bench.pause(step, 0.7)
            start = time.monotonic()
            run.send(kind, to_all)
            moment = run.moment()  # "end" if it had said all before it was interrupted
            code = run.end()
            if code == 0 and moment == "end":
                continue  # it was faster
            run.require(code == 128 + kind, f"exit code {code} after a signal in {moment}")
            run.require(len(run.lines("interrupted")) == 1, "no single line 'interrupted:'")
            return time.monotonic() - start


def _clear_end(run: Run) -> int:
    """Exit code of a run that may fail, if it says why in one line."""
    code, said = run.end(), run.lines("stopped", "error")
    run.require(code == 0 or (code in (1, 2) and len(said) == 1), f"exit code {code}, not one line")
    return code


def disk_full(bench: Bench, result: Path) -> str:
    """The disk is too small for a part of the output, and becomes larger."""
    result.mkdir()
    if _mount("-t", "tmpfs", "none", result):
        return "skipped: mount is not allowed; try unshare -rm python -m tests.tools.faults"
    stops = []
    needed = sum((bench.undisturbed / name).stat().st_size for name in bench.reference)
    try:
        for tenths in range(3, 24, 3):  # trainings also keep states, and each replaces another
            _mount("-o", f"remount,size={needed * tenths // 10}", result)
            with bench.trial(f"{tenths} tenths"), bench.start(result / "r") as run:
                code = _clear_end(run)
                stops.append(f"{run.moment()} ({code})")
                bench.compare(result / "r", cut_short=True)
        _mount("-o", "remount,size=1g", result)
        with bench.trial("on the large disk"):
            bench.finish(result / "r")
    finally:
        subprocess.run(["umount", result], check=True)
        result.rmdir()
    return f"stopped in {', '.join(stops)}"


def _mount(*words: str | Path) -> int:
    return subprocess.run(["mount", *words], stderr=subprocess.DEVNULL).returncode


def clock(bench: Bench, result: Path) -> str:
    """All times of change are in the future or in the past: nothing is made again."""
    files = [result / name for name in bench.reference if not name.endswith("manifest.json")]
    for path in files:
        os.utime(path, (bench.rng.choice((_FUTURE, _PAST)),) * 2)
    inodes = {p: p.stat().st_ino for p in files if p.parent.name != "visualize"}  # drawn each time
    with bench.trial("the run"):
        bench.finish(result)
        if again := [path.name for path, inode in inodes.items() if path.stat().st_ino != inode]:
            raise FaultError(f"made again: {', '.join(again)}")
    return f"{len(inodes)} files stayed"


def damaged(bench: Bench, result: Path) -> str:
    """Files are cut or emptied: they are refused and named, or made again."""
    codes = Counter()
    # The list of val, which no step reads here, stays as it is until one does.
    patterns = ("manifest.json", "*.pth", "lists/train*.txt", "lists/cls_labels.np*")
    paths = [bench.rng.choice(sorted(result.rglob(pattern))) for pattern in patterns]
    for path in paths + _two_of_each_folder(bench, result):
        content = path.read_bytes()
        os.truncate(path, bench.rng.choice((0, 20, len(content) // 2)))
        with bench.trial(f"{path.name} is cut"), bench.start(result) as run:
            codes[code := _clear_end(run)] += 1
            named = code == 0 or str(path.parent) in "".join(run.lines("stopped", "error"))
            run.require(named, f"{path} is not named")
        path.write_bytes(content)
    return f"exit codes {dict(codes)}"


def _two_of_each_folder(bench: Bench, result: Path) -> list[Path]:
    """Two maps or pictures of every folder."""
    paths = sorted((*result.rglob("2012_*.npy"), *result.rglob("*.png")))
    folders = {path.parent: [p for p in paths if p.parent == path.parent] for path in paths}
    return [path for found in folders.values() for path in bench.rng.sample(found, 2)]


def flipped(bench: Bench, result: Path) -> str:
    """Single bits change in the middle of maps, labels, masks and pictures."""
    paths = [path for path in _two_of_each_folder(bench, result) if path.parent.name != "lists"]
    for path in paths:
        content = bytearray(path.read_bytes())
        content[bench.rng.randrange(len(content))] ^= 1 << bench.rng.randrange(8)
        path.write_bytes(content)
    return f"{len(paths)} files are made again"


def users_files(bench: Bench, result: Path) -> str:
    """Files of the user's stand in every folder while all is redone with other settings.

    Some are called like the temporary, lock and probe files of the program.
    """
    folders = [path for path in (result, *result.rglob("*")) if path.is_dir()]
    names = ("a.npy", "a.png", "a.txt", ".lock", ".probe", ".x.npy.tmp.npy", "a.partial.pth",
             f".{_host()}-{2**22 + 1}-0.0123456789abcdef.tmp.png")  # fmt: skip
    mine = {folder / name: name for folder in folders for name in names}
    for path, text in mine.items():
        path.write_text(text)
    for options in (_OTHER, ()):
        with bench.trial(f"with {options}"), bench.start(result, *options, "--overwrite") as run:
            run.require(run.end() == 0, "the run fails")
            lost = [str(p) for p, text in mine.items() if not p.exists() or p.read_text() != text]
            run.require(not lost, f"lost: {lost}")
    for path in mine:
        path.unlink(missing_ok=True)
    return f"{len(mine)} files of the user stayed"


def processes(bench: Bench, result: Path) -> str:
    """Other numbers of processes, and a list in reversed order."""
    for count in ("2", "3"):
        with bench.trial(count):
            bench.finish(bench.folder / f"processes_{count}", "--num_processes", count)
    ids = (bench.undisturbed / "lists" / "train_aug.txt").read_text().split()
    backwards, folder = bench.folder / "reversed.txt", bench.folder / "reversed"
    backwards.write_text("\n".join(reversed(ids)) + "\n")
    with bench.trial("reversed"), bench.start(folder, "--infer_list", backwards) as run:
        run.require(run.end() == 0, "the run fails")
        found = checksums(folder)
        # Pictures are of the first images of a list, so reversed ones are of other images.
        for name, checksum in bench.reference.items():
            of_an_image = name.endswith((".npy", ".png")) and not name.startswith(_NOT_BY_IMAGE)
            run.require(not of_an_image or found.get(name) == checksum, f"{name} differs")
    return "1, 2, 3 and a reversed list give the same maps, labels and masks"


FROM_NOTHING = (kill, disk_full, processes)
OF_A_COPY = (worker, signals, clock, damaged, flipped, users_files)
SCENARIOS = {scenario.__name__: scenario for scenario in (*FROM_NOTHING, *OF_A_COPY)}


def run_scenarios(bench: Bench, names: list[str]) -> bool:
    """Run undisturbed and then these scenarios, a line for each; True if all went well."""
    start = time.monotonic()
    bench.prepare()
    seconds = time.monotonic() - start
    print(f"undisturbed: {len(bench.reference)} files, {seconds:.0f} s", flush=True)
    for name in names:
        start, before = time.monotonic(), len(bench.problems)
        result = bench.folder / name
        if SCENARIOS[name] in OF_A_COPY:
            shutil.copytree(bench.undisturbed, result)
        summary = SCENARIOS[name](bench, result)
        if result.exists():
            with bench.trial("the last run"):
                bench.finish(result)
        problems = len(bench.problems) - before
        verdict = f"{problems} PROBLEMS" if problems else "ok"
        print(f"{name}: {verdict}; {summary} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{len(names)} scenarios, {len(bench.problems)} problems")
    return not bench.problems


def main() -> int:
    """Parse the options and run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--folder", type=Path, help="new folder to work in, which is kept")
    args = parser.parse_args()
    # A shell starts what it runs in the background deaf to Ctrl-C, and the runs would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        bench = Bench(folder.resolve(), random.Random(args.seed), args.kills)
        return 0 if run_scenarios(bench, args.only) else 1
    finally:
        if not args.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
