"""A run: everything is looked at first, then the chosen steps follow each other."""

import contextlib
import logging
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from misc.cli import expect
from misc.cli.check import Preflight
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
from misc.cli.report import print_report
from misc.data.registry import preparation
from misc.errors import NotReproducedError, UserError
from misc.runtime import distributed
from misc.runtime.devices import check_device, memory_can_end, set_up_process, uses_cuda
from misc.runtime.programs import said_plainly
from misc.storage.scores import load_scores

log = logging.getLogger("run_sample")


class Parts(NamedTuple):
    """The modules of a run: the chosen steps, what is made of their results, and all steps."""

    steps: Mapping[str, ModuleType]
    after: Mapping[str, ModuleType]
    known: Mapping[str, ModuleType]

    @property
    def all(self) -> dict[str, ModuleType]:
        """The chosen steps and what follows them, in their order."""
        return {**self.steps, **self.after}


def parts_of(args: Options, known: Mapping[str, ModuleType]) -> Parts:
    """Return what the options ask for. known: all steps, pictures and report, by name."""
    steps = {name: known[name] for name in chosen_steps(args)}
    masks = getattr(preparation(args.dataset), "MASKS", None)
    after = {"masks": masks} if masks and "make_sem_seg_labels" in steps else {}
    after |= {"pictures": known["visualize"]} if args.visualize else {}
    after |= {"report": known["html_report"]} if args.report_html else {}
    return Parts(steps, after, known)


def execute(args: Options, known: Mapping[str, ModuleType]) -> int:
    """Run what the options say; returns the exit code, after one line for what ended the run.

    known: all steps by name.
    """

    def work() -> None:
        if args.report:
            log_to_screen()
            expect.check(args)
            show_report(args, known)
            compare(args)
        else:
            check_device(args.device)
            with distributed.joined(uses_cuda(args.resources)):
                run(args, known)

    return said_plainly(work)


def run(args: Options, known: Mapping[str, ModuleType]) -> None:
    """All of a run; every rank calls it. known: all steps by name."""
    first = distributed.on_first_rank
    args.info.require_root()
    parts = parts_of(args, known)
    first(lambda: check_places(args, parts.all.values()))
    set_up_process(args.resources)
    if args.check:
        first(lambda: check_only(args, parts))
        return
    with contextlib.ExitStack() as stack:
        outputs = written(args, parts.all.values())
        first(lambda: stack.enter_context(claimed(args, outputs)))
        remove_unfinished(outputs)  # by every rank: those of its machine
        start_log(args, distributed.rank() == 0)
        first(args.info.log_contents)
        first(lambda: prepare_lists(args, parts.steps))
        first(lambda: check_steps(args, parts))
        run_parts(args, parts)
        compare(args)


def check_only(args: Options, parts: Parts) -> None:
    """What `--check` does: nothing is written but lists that are missing, into a passing folder."""
    log_to_screen()
    args.info.log_contents()
    steps = parts.steps
    with tempfile.TemporaryDirectory() as scratch:
        checked = args
        try:
            if lists_are_outdated(args, steps) and made_by_name(args, steps):
                checked = args.with_list_dir(Path(scratch))
                make_lists(checked, with_masks=False)
                say_differences(checked, made(args))
            check_steps(checked, parts)
            say_disk(checked, steps)
        except UserError as error:
            raise UserError(str(error).replace(scratch, str(args.list_dir))) from None


def check_steps(args: Options, parts: Parts) -> None:
    """Look at everything that the steps will read and write; one UserError for all problems."""
    preflight = Preflight(args, parts.steps, parts.known)
    for step in parts.steps.values():
        preflight.collect(partial(step.check, args, preflight))
    preflight.collect(partial(expect.check, args))
    for part in parts.after.values():
        preflight.collect(partial(part.check, args), "output")
    if unread := unread_lists(args, parts.steps):
        log.warning("%s: no step of this run reads it", ", ".join(unread))
    if "threshold_from" in args.said:
        log.warning("--threshold_from: has no effect any more; a row has the best threshold of the "
                    "images that are scored")  # fmt: skip
    if args.with_ins and not (objects := args.info.root / OBJECT_MASKS).is_dir():
        log.info("instance labels are not scored: %s, with masks of objects, is missing", objects)
    preflight.finish()


def show_report(args: Options, known: Mapping[str, ModuleType]) -> None:
    """What `--report` does: the table and the curves; a page also where nothing was scored.

    In a folder that cannot be written the table is all, and that is said.
    """
    if load_scores(args.result_dir) or not args.report_html:
        print_report(args)
        pictures = known["visualize"]
        try:
            remove_unfinished(pictures.writes(args))
            pictures.save_curves(args)
        except OSError as error:
            log.warning("--result_dir %s: cannot be written (%s); no curves are drawn",
                        args.result_dir, error.strerror)  # fmt: skip
    if not args.report_html:
        return
    args.info.require_root()  # a page without photographs would replace a good one
    try:
        known["html_report"].run(args)
    except OSError as error:
        raise UserError(
            f"--report_html: {error.filename or args.result_dir} cannot be used "
            f"({error.strerror}); give a --result_dir that can be written"
        ) from None


def compare(args: Options) -> None:
    """Compare the scores of a finished run where this was asked for.

    Raises NotReproducedError where it is another one. Every rank calls it.
    """
    if text := distributed.on_first_rank(lambda: expect.run(args) if args.expect else ""):
        raise NotReproducedError(text)


def run_parts(args: Options, parts: Parts) -> None:
    """Run the steps in the order of the method, print the table, then make what follows them."""
    for number, (name, step) in enumerate(parts.steps.items(), start=1):
        what = STEPS[name].lstrip("0123456789 ")
        log.info("[%d/%d] %s: %s", number, len(parts.steps), name, what)
        with memory_can_end(name):
            step.run(args)
    if any("eval" in step.LISTS for step in parts.steps.values()):
        print_report(args)
    for name, part in parts.after.items():
        log.info("making the %s", name)
        if name == "masks":  # all ranks share the images
            part.run(args)
        else:
            distributed.on_first_rank(partial(part.run, args))
    for name, part in parts.all.items():
        for output in part.writes(args)[:1]:
            if output.path.exists():
                log.info("%-20s %s", name, output.path)
    log.info("%-20s %s", "log", args.log_name)
