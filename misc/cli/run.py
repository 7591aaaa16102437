"""A run: everything is looked at first, then the chosen steps follow each other."""

import contextlib
import importlib
import logging
import tempfile
from functools import partial
from pathlib import Path
from types import ModuleType

from misc.cli import expect
from misc.cli.disk import say_disk
from misc.cli.lists import (
    lists_are_outdated,
    made,
    made_by_name,
    make_lists,
    prepare_lists,
    say_differences,
)
from misc.cli.log import log_to_screen, start_log
from misc.cli.options import OBJECT_MASKS, STEPS, Options, chosen_steps, unread_lists
from misc.cli.places import check_places, claimed, remove_unfinished, written
from misc.cli.preflight import Preflight
from misc.cli.report import print_report
from misc.cli.steps import load_steps
from misc.data.registry import preparation
from misc.errors import NotReproducedError, UserError
from misc.runtime import distributed, interrupts
from misc.runtime.devices import (
    check_device,
    main_device,
    set_up_process,
    training_threads,
    uses_cuda,
)
from misc.runtime.image_task import readers_can_end
from misc.runtime.programs import said_plainly
from misc.storage.scores import load_scores

log = logging.getLogger("run_sample")


def execute(args: Options, ends_process: bool = False) -> int:
    """Run what the options say; returns the exit code, after one line for what ended the run.

    ends_process: the caller does nothing but exit with it; see `interrupts.noticed`.
    """

    def work() -> None:
        if args.report:
            log_to_screen()
            check_comparisons(args)
            show_report(args)
            compare(args)
        else:
            check_device(args.device)
            with distributed.joined(uses_cuda(args.resources)):
                run(args)

    return said_plainly(work, ends_process)


def run(args: Options) -> None:
    """All of a run; every rank calls it."""
    first = distributed.on_first_rank
    args.info.require_root()
    steps = load_steps(chosen_steps(args))
    first(lambda: check_places(args, steps))
    set_up_process(main_device(args.resources), training_threads(args.resources), args.resources)
    if args.check:
        first(lambda: check_only(args, steps))
        return
    with contextlib.ExitStack() as stack:
        first(lambda: stack.enter_context(claimed(args, steps)))
        remove_unfinished(written(args, steps))  # by every rank: those of its machine
        start_log(args, distributed.rank() == 0)
        first(args.info.log_contents)
        first(lambda: prepare_lists(args, steps))
        first(lambda: check_steps(args, steps))
        run_steps(args, steps)
        compare(args)


def check_only(args: Options, steps: dict[str, ModuleType]) -> None:
    """What `--check` does: nothing is written but lists that are missing, into a passing folder."""
    log_to_screen()
    args.info.log_contents()
    with tempfile.TemporaryDirectory() as scratch:
        checked = args
        try:
            if lists_are_outdated(args, steps) and made_by_name(args, steps):
                checked = args.with_list_dir(Path(scratch))
                make_lists(checked, with_masks=False)
                say_differences(checked, made(args))
            check_steps(checked, steps)
            say_disk(checked, steps)
        except UserError as error:
            raise UserError(str(error).replace(scratch, str(args.list_dir))) from None


def check_steps(args: Options, steps: dict[str, ModuleType]) -> None:
    """Look at everything that the steps will read and write; one UserError for all problems."""
    preflight = Preflight(args, list(steps))
    for step in steps.values():
        preflight.collect(partial(step.check, args, preflight))
    preflight.collect(partial(check_comparisons, args))
    if args.report_html:
        page = importlib.import_module("step.html_report")
        preflight.collect(partial(page.check, args), "output")
    if args.visualize:
        pictures = importlib.import_module("step.visualize")
        preflight.collect(partial(pictures.check, args), "output")
    if "make_sem_seg_labels" in steps and hasattr(preparation(args.dataset), "finish"):
        preflight.collect(partial(preparation(args.dataset).check, args), "output")
    if unread := unread_lists(args, steps):
        log.warning("%s: no step of this run reads it", ", ".join(unread))
    if "threshold_from" in args.said:
        log.warning("--threshold_from: has no effect any more; a row has the best threshold of the "
                    "images that are scored")  # fmt: skip
    if args.with_ins and not (objects := args.info.root / OBJECT_MASKS).is_dir():
        log.info("instance labels are not scored: %s, with masks of objects, is missing", objects)
    preflight.finish()


def show_report(args: Options) -> None:
    """What `--report` does: the table and the curves; a page also where nothing was scored.

    In a folder that cannot be written the table is all, and that is said.
    """
    if load_scores(args.result_dir) or not args.report_html:
        print_report(args)
        pictures = importlib.import_module("step.visualize")
        try:
            remove_unfinished(pictures.writes(args))
            pictures.save_curves(args)
        except OSError as error:
            log.warning("--result_dir %s: cannot be written (%s); no curves are drawn",
                        args.result_dir, error.strerror)  # fmt: skip
    if args.report_html:
        args.info.require_root()  # a page without photographs would replace a good one
    try:
        make_page(args)
    except OSError as error:
        raise UserError(
            f"--report_html: {error.filename or args.result_dir} cannot be used "
            f"({error.strerror}); give a --result_dir that can be written"
        ) from None


def make_page(args: Options) -> None:
    """Write report.html where it was asked for."""
    if args.report_html:
        importlib.import_module("step.html_report").run(args)


def check_comparisons(args: Options) -> None:
    """Raise UserError where what a run is to be compared with cannot be read."""
    expect.check(args)


def compare(args: Options) -> None:
    """Compare the scores of a finished run where this was asked for.

    Raises NotReproducedError where it is another one. Every rank calls it.
    """

    if text := distributed.on_first_rank(lambda: expect.run(args) if args.expect else ""):
        raise NotReproducedError(text)


def run_steps(args: Options, steps: dict[str, ModuleType]) -> None:
    """Run the steps in the order of the method, then draw pictures and print the table."""
    for number, (name, step) in enumerate(steps.items(), start=1):
        log.info("[%d/%d] %s: %s", number, len(steps), name, STEPS[name].lstrip("0123456789 "))
        interrupts.check()
        with readers_can_end(name):
            step.run(args)
    finish = getattr(preparation(args.dataset), "finish", None)
    if finish and "make_sem_seg_labels" in steps:
        finish(args)
    if args.visualize:
        log.info("drawing pictures")
        importlib.import_module("step.visualize").run(args)
    if any("eval" in step.LISTS for step in steps.values()):
        print_report(args)
    distributed.on_first_rank(lambda: make_page(args))
    made = {name: step.writes(args)[0].path for name, step in steps.items() if step.writes(args)}
    places = {}
    if finish and "make_sem_seg_labels" in steps:
        places["masks"] = args.result_dir / "masks"
    if args.report_html:
        places["page"] = args.result_dir / "report.html"
    if args.visualize:
        places["pictures"] = args.result_dir / "visualize"
    for name, path in {**made, **places, "log": args.log_name}.items():
        if path.exists():
            log.info("%-20s %s", name, path)
