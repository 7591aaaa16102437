"""Shows that no run is lost: disturbs runs in many ways and compares what they make.

    python -m tests.tools.faults [--kills 30] [--seed 0] [--only NAME ...] [--folder DIR]

Every scenario ends with the same command as it began with, and every file but the log has to be
that of an undisturbed run to the last byte. Needs Linux; takes half an hour on two idle cores.
The exit code is 1 if anything differs.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from misc.cli.options import build_parser
from misc.storage.files import LOCK, _host
from tests.tools.fault_runs import (
    PRODUCTS,
    SPLIT,
    Bench,
    FaultError,
    Run,
    digests,
    unfinished_differences,
)

_SECONDS_AFTER_SIGNAL = 10.0
_OTHER = ("--cam_scales", "1.0,0.5", "--conf_fg_thres", "0.35")  # settings of other files
_FUTURE, _PAST = 4_000_000_000, 1  # seconds since 1970


def _to_the_end(bench: Bench, result: Path, disturb: Callable[[Bench, Path], str]) -> str:
    """Disturb runs, then let one end by itself."""
    summary = disturb(bench, result)
    with bench.trial("the last run"):
        bench.finish(result)
    return summary


def kill(bench: Bench) -> str:
    """SIGKILL to the main process or to all, with output removed in between."""
    return _to_the_end(bench, bench.folder / "kill", kill_often)


def kill_often(bench: Bench, result: Path) -> str:
    """Runs that are killed; the last one is not gone on with."""
    counts, slowest = Counter(), 0.0
    targets = bench.rng.sample(bench.moments, len(bench.moments))
    for number in range(bench.kills):
        alone, writing = number % 2 == 0, number % 4 in (1, 2)
        with bench.trial(f"kill {number + 1}"):
            target = targets[number % len(targets)]
            moment, seconds = _kill_at(bench, result, target, alone, writing)
            counts[moment] += 1
            slowest = max(slowest, seconds)
            bench.compare(result, unfinished_differences)
    table = ", ".join(f"{moment} {counts[moment]}" for moment in bench.moments)
    return f"{counts.total()} kills ({table}); all processes gone after {slowest:.1f} s at most"


def _kill_at(
    bench: Bench, result: Path, target: str, alone: bool, writing: bool
) -> tuple[str, float]:
    """Kill a run within a step, wherever it is then: step, seconds until no process was left.

    writing: with the next file that it begins to write.
    """
    while True:
        _make_work(bench, result, target)
        with bench.start(result) as run:
            run.reach(target)
            bench.pause(target)
            if writing:
                _await_file(run, result)
            if run.process.poll() is None:
                run.send(signal.SIGKILL, to_all=not alone)
                run.process.wait()
                return run.moment(), run.gone()
            run.require(run.end() == 0, "the run fails")
        bench.compare(result)


def _await_file(run: Run, result: Path) -> None:
    """Wait for a file of a new name, but the state of a training."""

    def names() -> set[str]:
        return {str(path) for path in result.rglob("*") if ".partial." not in path.name}

    before = names()
    while run.process.poll() is None and names() <= before:
        time.sleep(0.001)


def _make_work(bench: Bench, result: Path, target: str) -> None:
    """Remove something if there is nothing left to do before the end of a step."""
    if target in bench.products:
        if all((result / product).exists() for product in bench.products[target]):
            bench.remove(result, target, bench.rng.random() < 0.5)
    elif result.exists() and digests(result) == bench.reference:
        bench.remove(result, bench.rng.choice(list(bench.products)), bench.rng.random() < 0.5)


def worker(bench: Bench) -> str:
    """SIGKILL to one process that computes or reads for the main process."""
    return _to_the_end(bench, bench.copy("worker"), kill_workers)


def kill_workers(bench: Bench, result: Path) -> str:
    """Runs that lose a process; the last one is not gone on with."""
    steps = [step for step in (*SPLIT, "train_cam", "train_irn") if step in bench.steps]
    steps = steps[: max(1, bench.kills // 5)]
    for step in steps:
        with bench.trial(step):
            while not _stopped_by_kill(bench, result, step):
                bench.compare(result)  # it was faster
        with bench.trial(f"after {step}"):
            bench.compare(result, unfinished_differences)
    return f"one line and code 1 in {', '.join(steps)}"


def _stopped_by_kill(bench: Bench, result: Path, step: str) -> bool:
    """Run a step that loses a process; False where that had nothing left to do."""
    with _again(bench, result, step) as run:
        _kill_child(bench, run, step)
        complete = all((result / name).exists() for name in bench.made_by(step))
        code = run.end()
        if code == 0 and complete:
            return False
        run.require(code == 1, f"exit code {code}")
        run.require(len(run.lines("stopped")) == 1, "no single line 'stopped:'")
        return True


def _kill_child(bench: Bench, run: Run, step: str) -> None:
    run.reach(step)
    while run.process.poll() is None and not run.children():
        time.sleep(0.001)  # a training's reader lives for a tenth of a second
    if step in SPLIT:
        time.sleep(bench.rng.uniform(0, bench.seconds[step] / 2))
    children = run.children()
    run.require(children, "there is no such process")
    os.kill(bench.rng.choice(children), signal.SIGKILL)


@contextlib.contextmanager
def _again(bench: Bench, result: Path, step: str) -> Iterator[Run]:
    """A run that makes the output of a step again."""
    bench.remove(result, step)
    with bench.start(result) as run:
        yield run


def signals(bench: Bench) -> str:
    """SIGTERM, SIGINT, and SIGINT to all as Ctrl-C sends it."""
    return _to_the_end(bench, bench.copy("signals"), send_signals)


def send_signals(bench: Bench, result: Path) -> str:
    """Runs that get a signal; the last one is not gone on with."""
    times = []
    kinds = [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGINT, False)]
    for number in range(max(1, 2 * bench.kills // 5)):
        step = list(bench.products)[(1 + number) % len(bench.products)]
        kind, to_all = kinds[number % len(kinds)]
        with bench.trial(f"{kind.name}{' to all' if to_all else ''} in {step}"):
            times.append(_signal_in(bench, result, step, kind, to_all))
            bench.compare(result, unfinished_differences)
    return f"{len(times)} signals, the longest end took {max(times, default=0):.1f} s"


def _signal_in(bench: Bench, result: Path, step: str, kind: signal.Signals, to_all: bool) -> float:
    """Signal a run within a step; the seconds until no process was left."""
    while True:
        with _again(bench, result, step) as run:
            run.reach(step)
            time.sleep(bench.rng.uniform(0, 0.7 * bench.seconds[step]))
            start = time.monotonic()
            run.send(kind, to_all)
            moment = run.moment()  # "end" if it had said all before it was interrupted
            code = run.end()
            seconds = time.monotonic() - start
            if code == 0 and moment == "end":
                continue  # it was faster
            run.require(code == 128 + kind, f"exit code {code} after a signal in {moment}")
            run.require(len(run.lines("interrupted")) == 1, "no single line 'interrupted:'")
            run.require(seconds <= _SECONDS_AFTER_SIGNAL, f"takes {seconds:.1f} s to end")
            return seconds


def removed(bench: Bench) -> str:
    """An output folder is removed while its step runs."""
    result, codes = bench.copy("removed"), []
    for step in bench.products:
        with bench.trial(step), _again(bench, result, step) as run:
            run.reach(step)
            bench.pause(step)
            bench.remove(result, step)
            codes.append(_clear_end(run))
        with bench.trial(f"after {step}"):
            bench.finish(result)
    return f"exit codes {codes}"


def _clear_end(run: Run) -> int:
    """Exit code of a run that may fail, if it says why."""
    code = run.end()
    said = run.lines("stopped", "error")
    run.require(code == 0 or (code in (1, 2) and said), f"exit code {code}, no line says why")
    return code


def disk_full(bench: Bench) -> str:
    """The disk is full at a random moment of each of the steps, and becomes larger."""
    disk = bench.folder / "disk"
    disk.mkdir()
    if _mount("-t", "tmpfs", "none", disk):
        return "skipped: mount is not allowed; try unshare -rm python -m tests.tools.faults"
    try:
        stops = [_fill(bench, disk, moment) for moment in ("start", *bench.moments)]
        _mount("-o", "remount,size=1g", disk)
        with bench.trial("on the large disk"):
            bench.finish(disk / "result")
    finally:
        subprocess.run(["umount", disk], check=True)
    return f"stopped in {', '.join(stops)}"


def _mount(*words: str | Path) -> int:
    return subprocess.run(["mount", *words], stderr=subprocess.DEVNULL).returncode


def _fill(bench: Bench, disk: Path, moment: str) -> str:
    """Make the disk small while a step runs: where the run ends, and the exit code."""
    _mount("-o", "remount,size=1g", disk)
    with bench.trial(f"disk full in {moment}"), bench.start(disk / "result") as run:
        run.reach(moment)
        free = bench.rng.randint(0, _need(bench, moment) // 2)
        while _mount("-o", f"remount,size={shutil.disk_usage(disk).used + free + 4096}", disk):
            free += 4096  # it was filled meanwhile
        code = _clear_end(run)
        run.require(len(run.lines("stopped", "error")) == bool(code), "not one line")
        bench.compare(disk / "result", unfinished_differences)
        return f"{run.moment()} ({code})"
    return "a fault"


def _need(bench: Bench, moment: str) -> int:
    """Bytes that a step writes; a training also keeps a state and replaces it by a new one."""
    total = sum((bench.undisturbed / name).stat().st_size for name in bench.made_by(moment))
    return total * (4 if moment.startswith("train") else 1)


def clock(bench: Bench) -> str:
    """All times of change are in the future or in the past, and half of the output is removed."""
    result = bench.copy("clock")
    files = [result / name for name in bench.reference]
    for path in files:
        time_of_change = bench.rng.choice((_FUTURE, _PAST))
        os.utime(path, (time_of_change, time_of_change))
    for step in bench.products:
        half = bench.rng.sample(range(1, bench.images + 1), bench.images // 2)
        stems = tuple(f"2012_{number:06}" for number in half)
        for path in (result / name for name in bench.made_by(step)):
            if path.stem.startswith(stems):
                path.unlink()
    inodes = {path: path.stat().st_ino for path in files if path.exists()}
    # Pictures are drawn and manifests are noted in every run.
    for path in (result / "visualize").glob("*.png"):
        inodes.pop(path, None)
    with bench.trial("the run"):
        bench.finish(result)
        again = [path for path in inodes if path.stat().st_ino != inodes[path]]
        again = [path.name for path in again if path.name != "manifest.json"]
        if again:
            raise FaultError(f"made again: {', '.join(again)}")
    return f"{len(inodes)} of {len(files)} files stayed, the others were made again"


def damaged(bench: Bench) -> str:
    """Files are cut, emptied or lose their manifest."""
    result = bench.copy("damaged")
    with bench.trial("maps and masks"):
        cut = _two_of_each_folder(bench, result)
        for path in cut:  # what is cut has no checksum any more, and so is nobody's
            os.truncate(path, bench.rng.choice((0, path.stat().st_size // 2)))
        with bench.start(result) as run:
            run.require(run.end() == 2 and run.lines("error"), "cut files are taken")
        for path in cut:
            path.unlink()
        bench.finish(result)
    said = 0
    # The list of val, which no step reads here, stays as it is until one does.
    for pattern in ("manifest.json", "*.pth", "lists/train*.txt", "lists/*.npy"):
        for size in (0, 20):
            with bench.trial(f"{pattern} cut to {size} bytes"):
                path = bench.rng.choice(sorted(result.rglob(pattern)))
                os.truncate(path, size)
                said += _mend(bench, result, path)
    return f"{said} lines were followed"


def flipped(bench: Bench) -> str:
    """Single bits change in the middle of maps, labels, masks and pictures."""
    result = bench.copy("flipped")
    return f"{flip_bits(bench, result)} files were made again"


def flip_bits(bench: Bench, result: Path) -> int:
    """Flip a bit in two files of every folder; a run makes just these again: how many."""
    with bench.trial("flipped bits"):
        paths = [path for path in _two_of_each_folder(bench, result) if path.parent.name != "lists"]
        for path in paths:
            content = bytearray(path.read_bytes())
            content[bench.rng.randrange(len(content))] ^= 1 << bench.rng.randrange(8)
            path.write_bytes(content)
        bench.finish(result)
    return len(paths)


def foreign(bench: Bench) -> str:
    """Files of the user's stand in the output folders while all is redone with other settings."""
    result = bench.copy("foreign")
    return f"{redo_beside_foreign_files(bench, result)} files of others stayed"


def redo_beside_foreign_files(bench: Bench, result: Path) -> int:
    """Redo with --overwrite and back again: the user's files stay; how many they are."""
    folders = sorted({path.parent for path in result.rglob("*.npy")})
    folders += sorted({path.parent for path in result.rglob("*.png")} - set(folders))
    mine = [folder / name for folder in folders for name in ("mine.npy", "mine.png", "mine.txt")]
    for path in mine:
        path.write_text(f"made by hand: {path.name}")
    with bench.trial("other settings"):
        with bench.start(result, *_OTHER, "--overwrite") as run:
            run.require(run.end() == 0, "the run fails")
        kept = [path for path in mine if path.exists() and "made by hand" in path.read_text()]
        if kept != mine:
            raise FaultError(f"lost: {sorted(set(mine) - set(kept))}")
        for path in mine:
            path.unlink()
        bench.finish(result, "--overwrite")
    return len(mine)


def named_alike(bench: Bench) -> str:
    """Files of the user's called like temporary, lock and probe files stand in every folder."""
    result = bench.copy("alike")
    return f"{keep_files_named_alike(bench, result)} files of others stayed"


def keep_files_named_alike(bench: Bench, result: Path) -> int:
    """Run beside the user's files, and with one in the place of the lock; how many stayed."""
    folders = [path for path in (result, *result.rglob("*")) if path.is_dir()]
    names = (".lock", ".probe", ".Probe", ".x.npy.tmp.npy", ".host-1-0.0123456789abcdef.tmp.npy",
             f".{_host()}-{2**22 + 1}-0.0123456789abcdef.tmp.png", "mine.partial.pth")  # fmt: skip
    mine = {folder / name: f"mine: {name}" for folder in folders for name in names}
    with bench.trial("beside files of the user"):
        for path, text in mine.items():
            path.write_text(text)
        bench.remove(result, next(iter(bench.products)))
        with bench.start(result) as run:
            run.require(run.end() == 0, "the run fails")
        _require_same(mine)
        for path in mine:
            path.unlink()
        bench.compare(result)
    with bench.trial("a file in the place of the lock"):
        path = result / LOCK
        path.write_text("mine")
        with bench.start(result, screen="lock") as run:
            run.require(run.end() == 2 and len(run.lines("error")) == 1, "not one line")
        _require_same({path: "mine"})
        path.unlink()
    return len(mine) + 1


def named_options(bench: Bench) -> str:
    """Every option that names a file is pointed at files of the user's."""
    names = [a.dest for a in build_parser()._actions if a.type is Path and "FILE" in a.metavar]
    return f"{point_at_files_of_the_user(bench, bench.copy('named'), names)} files stayed"


def point_at_files_of_the_user(bench: Bench, result: Path, names: Sequence[str]) -> int:
    """Run with each option naming an annotation and a table; how many runs there were."""
    table, runs = bench.folder / "labels.csv", 0
    annotation = next((bench.folder / "sample" / "Annotations").glob("*.xml"))
    table.write_text("image,label\n2012_000001.jpg,cat\n")
    kept = {path: path.read_text() for path in (table, annotation)}
    passes = ("--eval_ins_seg_pass", "--make_seg_pass", "--train_seg_pass", "--train_cam_pass",
              "--train_irn_pass", "--overwrite")  # fmt: skip
    for name in names:
        for path in kept:
            runs += 1
            with bench.trial(f"--{name} {path.name}"):
                with bench.start(result, *passes, f"--{name}", path, screen="named") as run:
                    _clear_end(run)
                _require_same(kept)
    return runs


def _require_same(kept: Mapping[Path, str]) -> None:
    lost = [str(p) for p, text in kept.items() if not p.exists() or p.read_text() != text]
    if lost:
        raise FaultError(f"lost: {lost}")


def two_at_once(bench: Bench) -> str:
    """A second run in the folder of one that computes: it ends with a line, the first one runs."""
    result = bench.folder / "two"
    return _to_the_end(bench, result, start_twice)


def start_twice(bench: Bench, result: Path) -> str:
    """A second run while the first one is within its first step."""
    with bench.trial("the second run"), bench.start(result) as first:
        first.reach(bench.moments[1])
        first.send(signal.SIGSTOP, to_all=True)  # it cannot end before the second one does
        with bench.start(result, screen="second") as second:
            code = second.end()
            lines = second.lines("error")
            second.require(code == 2 and len(lines) == 1, f"exit code {code}, {lines}")
            second.require(f"process {first.process.pid} on" in lines[0], "the first is not named")
        first.send(signal.SIGCONT, to_all=True)
        first.require(first.end() == 0, "the first run fails")
        bench.compare(result)
    return "the second run named the first one and ended with code 2"


def neighbour(bench: Bench) -> str:
    """Another program keeps a core busy: the same bytes."""
    with _busy_core():
        with bench.trial("beside a busy neighbour"):
            bench.finish(bench.folder / "neighbour")
    return "the same files beside a busy neighbour"


@contextlib.contextmanager
def _busy_core() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _two_of_each_folder(bench: Bench, result: Path) -> list[Path]:
    """Two maps or pictures of every folder."""
    paths = sorted((*result.rglob("2012_*.npy"), *result.rglob("*.png")))
    folders = {path.parent: [p for p in paths if p.parent == path.parent] for path in paths}
    return [path for found in folders.values() for path in bench.rng.sample(found, 2)]


def _mend(bench: Bench, result: Path, path: Path) -> int:
    """Do what the lines say until the run ends well; how many they were."""
    options, said = (), 0
    for _ in range(4):
        with bench.start(result, *options) as run:
            if _clear_end(run) == 0:
                bench.compare(result)
                return said
            lines = run.lines("stopped", "error")
        said += len(lines)
        if any("--overwrite" in line for line in lines):
            options = ("--overwrite",)
        elif any(f"remove the folder {path.parent}" in line for line in lines):
            shutil.rmtree(path.parent)
        elif any(str(path) in line for line in lines):
            path.unlink()
        else:
            raise FaultError(f"{path.name} is not named: {lines}")
    raise FaultError(f"the lines lead nowhere: {lines}")


def processes(bench: Bench) -> str:
    """Other numbers of processes, and lists in reversed order."""
    made = bench.undisturbed
    ids = (made / "lists" / "train_aug.txt").read_text().split()
    backwards = bench.folder / "reversed.txt"
    backwards.write_text("\n".join(reversed(ids)) + "\n")
    given = (*_checkpoints_of(bench), *(f"--{step}_pass" for step in SPLIT))
    for name, options in {
        "1": ("--num_processes", "1"),
        "3": ("--num_processes", "3"),
        "reversed": ("--infer_list", backwards),
    }.items():
        with bench.trial(name):
            result = bench.folder / f"processes_{name}"
            with bench.start(result, *given, *options) as run:
                run.require(run.end() == 0, "the run fails")
            # Pictures are of the first images of a list, so reversed ones are of other images.
            _compare_maps(bench, result, with_pictures=name != "reversed")
    return "1, 2, 3 and reversed lists give the same maps, labels and masks"


def _checkpoints_of(bench: Bench) -> tuple[str | Path, ...]:
    """The options that give the networks of the undisturbed run."""
    files = {"cam": "res50_cam.pth", "irn": "res50_irn.pth", "seg": "deeplab_v2.pth"}
    pairs = [(f"--{n}_weights_name", bench.undisturbed / file) for n, file in files.items()]
    return tuple(word for pair in pairs for word in pair)


def _compare_maps(bench: Bench, result: Path, with_pictures: bool = True) -> None:
    """FaultError where maps, labels or masks are not those of the undisturbed run."""
    products = (name for step in SPLIT for name in PRODUCTS[step])
    folders = tuple(f"{n}/" for n in products if with_pictures or not n.startswith("visualize/"))
    found = digests(result)
    for name, digest in bench.reference.items():
        if name.startswith(folders) and not name.endswith(".json") and found.get(name) != digest:
            raise FaultError(f"{name} is {'different' if name in found else 'missing'}")


def ranks(bench: Bench) -> str:
    """Two ranks of torchrun, of which one is killed in the trainings and in RIB."""
    whole, result = bench.folder / "ranks", bench.folder / "ranks_killed"
    with bench.trial("undisturbed"), bench.start(whole, "--num_processes", "1", ranks=2) as run:
        run.require(run.end() == 0, "the run fails")
    killed = []
    with bench.trial("killed"), bench.start(result, "--num_processes", "1", ranks=2) as run:
        for step in ("train_cam", "make_recam_with_RIB", "train_irn", "train_seg"):
            run.reach(step)
            time.sleep(bench.rng.uniform(0, bench.seconds[step] / 2))
            killed.append(run.moment())
            os.kill(bench.rng.choice(run.children()), signal.SIGKILL)
        run.require(run.end(silent=False) == 0, "the run fails")
        bench.compare(result, expected=digests(whole))
    with bench.trial("given checkpoints"):
        _ranks_with_checkpoints(bench)
    return f"a rank was killed in {', '.join(killed)}"


def _ranks_with_checkpoints(bench: Bench) -> None:
    result = bench.folder / "ranks_given"
    given = (*_checkpoints_of(bench), "--num_processes", "1")
    with bench.start(result, *given, *(f"--{s}_pass" for s in SPLIT), ranks=2) as run:
        run.require(run.end() == 0, "the run fails")
    _compare_maps(bench, result)


SCENARIOS = {
    "kill": kill,
    "worker": worker,
    "signals": signals,
    "removed": removed,
    "disk full": disk_full,
    "clock": clock,
    "damaged": damaged,
    "flipped": flipped,
    "foreign": foreign,
    "named alike": named_alike,
    "named options": named_options,
    "two at once": two_at_once,
    "neighbour": neighbour,
    "processes": processes,
    "ranks": ranks,
}


def run_scenarios(bench: Bench, names: list[str]) -> bool:
    """Run undisturbed and then these scenarios, a line for each; whether all went well."""
    start = time.monotonic()
    bench.prepare()
    print(
        f"undisturbed: {len(bench.reference)} files, {time.monotonic() - start:.0f} s", flush=True
    )
    for name in names:
        start, before = time.monotonic(), len(bench.problems)
        summary = SCENARIOS[name](bench)
        problems = len(bench.problems) - before
        verdict = f"{problems} PROBLEMS" if problems else "ok"
        print(f"{name}: {verdict}; {summary} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{len(names)} scenarios, {len(bench.problems)} problems")
    return not bench.problems


def main() -> int:
    """Parse options and run; the exit code."""
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
