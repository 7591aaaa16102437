"""Run the steps of RIB: image-level labels in, pseudo masks out. See --help and the README."""

# ruff: noqa: E402
if __name__ == "__main__":  # before torch is loaded, which reads it
    from misc.runtime.threads import wait_briefly

    wait_briefly()

import contextlib
import importlib
import json
import logging
import stat
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import ModuleType

from misc.cli.options import (
    DATASETS,
    STEPS,
    Options,
    chosen_steps,
    parse,
    unread_lists,
)
from misc.cli.places import check_places, claimed
from misc.cli.preflight import Preflight
from misc.errors import StoppedError, UserError, counted
from misc.metrics import mean_iou
from misc.runtime import distributed, interrupts
from misc.runtime.devices import (
    check_device,
    main_device,
    set_up_process,
    training_threads,
    uses_cuda,
)
from misc.runtime.image_task import readers_can_end
from misc.storage.manifest import OutputFolder, check_folder, claim_folder, make_writable
from misc.storage.seals import require_own

log = logging.getLogger("run_sample")

LOG_MARK = "RIB run log"  # the first line of a log
SCORING = frozenset({"eval_cam", "eval_sem_seg"})  # steps that need ground truth masks


def main(argv: list[str] | None = None, ends_process: bool = False) -> int:
    """Parse options, look at all input, run the chosen steps; returns the exit code.

    ends_process: the caller does nothing but exit with it; see `interrupts.noticed`.
    """
    args = parse(argv)
    try:
        with interrupts.noticed(ends_process):
            check_device(args.device)
            with distributed.joined(uses_cuda(args.resources)):
                run(args)
    except UserError as error:
        if not isinstance(error, distributed.SaidElsewhereError):
            _say_each("error", str(error))
        return 2
    except (StoppedError, OSError) as error:  # such as a full disk, or a folder that is gone
        _say_each("stopped", f"{error}; the same command goes on where it stopped")
        return 1
    except interrupts.Interrupted as interrupt:
        if distributed.rank() == 0:
            _say_each("interrupted", "the same command goes on where it stopped")
        return 128 + interrupt.number
    return 0


def _say_each(kind: str, text: str) -> None:
    for line in text.splitlines():
        print(f"{kind}: {line}", file=sys.stderr)


def run(args: Options) -> None:
    """All of a run; every rank calls it."""
    args.info.require_root()
    steps = {name: importlib.import_module(f"step.{name}") for name in chosen_steps(args)}
    distributed.on_first_rank(lambda: check_places(args, steps))
    set_up_process(
        main_device(args.resources), training_threads(args.resources), args.deterministic
    )
    if args.check:
        distributed.on_first_rank(lambda: check_only(args, steps))
        return
    with contextlib.ExitStack() as stack:
        distributed.on_first_rank(lambda: stack.enter_context(claimed(args, steps)))
        start_log(args)
        distributed.on_first_rank(lambda: prepare_lists(args, not SCORING.isdisjoint(steps)))
        distributed.on_first_rank(lambda: check_steps(args, steps))
        run_steps(args, steps)


def check_only(args: Options, steps: dict[str, ModuleType]) -> None:
    """What `--check` does: nothing is written but lists that are missing, into a passing folder."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    with tempfile.TemporaryDirectory() as scratch:
        checked = args
        try:
            if args.made_lists() and lists_are_missing(args):
                checked = args.with_list_dir(Path(scratch))
                make_lists(checked, with_masks=False)
            check_steps(checked, steps)
        except UserError as error:
            raise UserError(str(error).replace(scratch, str(args.list_dir))) from None


class _LogFile(logging.FileHandler):
    """Ends the run where it cannot be written, instead of a traceback for every line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        with contextlib.suppress(OSError):  # it would try to write the rest again
            self.close()
        raise


def start_log(args: Options) -> None:
    """Log to the screen and to a file; the file gets all options, the screen those that differ.

    Of several ranks the first does; the others show warnings only.
    """
    if distributed.rank() > 0:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
        return
    make_writable(args.log_name.parent, "--log_name")
    require_log(args.log_name)
    try:
        handlers = [logging.StreamHandler(sys.stdout), _LogFile(args.log_name)]
    except OSError as error:
        raise UserError(
            f"--log_name {args.log_name}: cannot be written ({error.strerror}); give another file"
        ) from None
    form = {"format": "%(asctime)s %(message)s", "datefmt": "%H:%M:%S"}
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True, **form)
    handlers[0].setLevel(logging.INFO)
    log.setLevel(logging.DEBUG)
    if args.log_name.stat().st_size == 0:
        handlers[1].stream.write(f"{LOG_MARK}\n")
    log.debug("all options: %s", json.dumps(args.plain(), default=str))
    log.info("options: %s", json.dumps(args.changed(), default=str))


def require_log(path: Path) -> None:
    """Raise UserError where a file is not a log of this program, nor a device such as /dev/null."""
    mode = path.stat().st_mode if path.exists() else 0
    if stat.S_ISREG(mode) and path.stat().st_size:
        with open(path, "rb") as file:
            if file.read(len(LOG_MARK)) == LOG_MARK.encode():
                return
    elif not mode or stat.S_ISREG(mode) or stat.S_ISCHR(mode):
        return
    raise UserError(f"--log_name {path}: is not a log of this program; give another file")


def prepare_lists(args: Options, with_masks: bool) -> None:
    """Make the lists and labels that were not given, from the dataset's own files.

    with_masks: a step needs ground truth, which some datasets draw.
    """
    if not args.made_lists():
        return
    if missing := lists_are_missing(args):
        claim_folder(*list_folder(args), {}, args.overwrite)
    if missing or (with_masks and masks_are_missing(args)):
        make_lists(args, with_masks)


def masks_are_missing(args: Options) -> bool:
    """Whether ground truth has to be drawn."""
    ids = args.image_ids("eval", limited=False) if args.info.draws_masks else ()
    return any(not args.info.mask_path(image_id).is_file() for image_id in ids)


def list_folder(args: Options) -> tuple[OutputFolder, dict]:
    """Where lists are made, and what they depend on."""
    source = {"root": str(args.info.root.resolve()), **args.settings("dataset", "skip_mismatched")}
    return OutputFolder("--result_dir", args.list_dir, ".txt"), source


def lists_are_missing(args: Options) -> bool:
    """Whether lists or labels have to be made; UserError where files of others are in the way."""
    redone = check_folder(*list_folder(args), args.overwrite)
    # A folder claimed anew has no lists, and labels that it still has are made again with them.
    needed = (*args.made_lists(), args.list_dir / f"{args.info.train_split}.txt")
    missing = redone or not all(path.is_file() for path in needed)
    if missing:
        names = (*DATASETS[args.dataset][1].LISTS, args.info.label_file)
        for path in (args.list_dir / name for name in names):
            require_own(path, "move it, or give it by name (--train_list, --cls_labels, ...)")
    return missing


def make_lists(args: Options, with_masks: bool) -> None:
    """Make the lists, and the labels where they were not given."""
    _, preparation = DATASETS[args.dataset]
    with_labels = args.cls_labels in args.made_lists()
    preparation.prepare(args.info, args.list_dir, args.skip_mismatched, with_labels, with_masks)


def check_steps(args: Options, steps: dict[str, ModuleType]) -> None:
    """Look at everything that the steps will read and write; one UserError for all problems."""
    preflight = Preflight(args, list(steps))
    for step in steps.values():
        preflight.collect(partial(step.check, args, preflight))
    if unread := unread_lists(args, steps):
        log.warning("%s: no step of this run reads it", ", ".join(unread))
    preflight.finish()


def run_steps(args: Options, steps: dict[str, ModuleType]) -> None:
    """Run the steps in the order of the method, and report."""
    results = {}
    for number, (name, step) in enumerate(steps.items(), start=1):
        log.info("[%d/%d] %s: %s", number, len(steps), name, STEPS[name].lstrip("0123456789 "))
        interrupts.check()
        with readers_can_end(name):
            results[name] = step.run(args)
    if args.visualize:
        importlib.import_module("step.visualize").run(args, results.get("eval_cam"))
    report(args, results)


def report(args: Options, results: dict) -> None:
    """The table of scores and where everything was written."""
    rows = score_rows(results)
    if rows:
        log.info("\n%s", "\n".join(score_table(args, rows)))
    written = {
        "classifier": args.cam_weights_name,
        "plain maps": args.plain_cam_out_dir,
        "RIB maps": args.cam_out_dir,
        "IR labels": args.ir_label_out_dir,
        "IRN": args.irn_weights_name,
        "pseudo masks": args.sem_seg_out_dir,
        "RIB iterations": args.result_dir / "visualize" / "iterations",
        "log": args.log_name,
    }
    for what, path in written.items():
        if path.exists():
            log.info("%-14s %s", what, path)


def score_rows(results: dict) -> list[tuple[str, float, float | None]]:
    """(row of the table, mIoU in per cent, threshold) of everything that was scored."""
    rows = [
        (row, 100 * scores.mean_ious()[scores.best()], float(scores.thresholds[scores.best()]))
        for row, scores in results.get("eval_cam", {}).items()
    ]
    if "eval_sem_seg" in results:
        rows.append(("pseudo masks", 100 * mean_iou(results["eval_sem_seg"]), None))
    return rows


def score_table(args: Options, rows: list[tuple[str, float, float | None]]) -> list[str]:
    """Lines of the table; the paper's figures stand beside when the list is the official one."""
    count = len(args.scored_ids())
    official = count == args.info.official_eval_size
    lines = [f"{'':14}{'mIoU (%)':>9}{'threshold':>11}{'paper' if official else '':>8}"]
    for row, miou, threshold in rows:
        if threshold is None:
            threshold = args.sem_seg_bg_thres
        paper = f"{args.info.paper_scores[row]:8.1f}" if official else ""
        lines.append(f"{row:14}{miou:9.2f}{threshold:11.2f}{paper}")
    lines.append(f"on {counted({'image': count})} of {args.eval_list}")
    return lines


if __name__ == "__main__":
    sys.exit(main(ends_process=True))
