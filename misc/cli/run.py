"""A run: everything is looked at first, then the chosen steps follow each other."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from misc.cli.check import Preflight, check_places, processes_to_start, say_disk
from misc.cli.lists import prepare_lists
from misc.cli.log import log_to_screen, require_log, start_log
from misc.cli.options import LISTS, OBJECT_MASKS, STEPS, Options, chosen_steps
from misc.cli.report import compare, load_expected, print_report
from misc.data.dataset_info import dataset_module
from misc.errors import UserError
from misc.runtime import distributed
from misc.runtime.devices import check_device, memory_can_end, set_up_process, uses_cuda
from misc.runtime.programs import said_plainly
from misc.storage.files import locked, no_folder_left, remove_leftovers
from misc.storage.manifest import make_writable
from misc.storage.outputs import Output
from misc.storage.scores import load_scores

log = logging.getLogger("run_sample")

Steps = Mapping[str, ModuleType]


class Parts(NamedTuple):
    """The modules of a run by name: the chosen steps, what follows them, both, and all steps."""

    steps: Steps
    after: Steps
    all: Steps
    known: Steps


def parts_of(args: Options, known: Steps) -> Parts:
    """Return what the options ask for."""
    steps = {name: known[name] for name in chosen_steps(args)}
    masks = getattr(dataset_module(args.dataset, "prepare"), "MASKS", None)
    after = {"masks": masks} if masks and "make_sem_seg_labels" in steps else {}
    after |= {"pictures": known["visualize"]} if args.visualize else {}
    after |= {"report": known["html_report"]} if args.report_html else {}
    return Parts(steps, after, {**steps, **after}, known)


def execute(args: Options, known: Steps) -> int:
    """Run what the options say; returns the exit code, after one line for what ended the run."""

    def work() -> None:
        if args.check == "processes":
            print(processes_to_start(args))
        elif args.report:
            show_report(args, known)
        else:
            check_device(args.device)
            with distributed.joined(uses_cuda(args.resources)):
                run(args, known)

    return said_plainly(work)


def run(args: Options, known: Steps) -> None:
    """All of a run; every rank calls it. known: all steps by name."""
    first = distributed.on_first_rank
    args.info.require_root()
    parts = parts_of(args, known)
    outputs = written(args, parts)
    first(lambda: check_places(args, outputs))
    first(lambda: require_log(args.log_name))
    set_up_process(args.resources)
    if args.check:
        first(lambda: check_only(args, parts))
        return
    with contextlib.ExitStack() as stack:
        first(lambda: stack.enter_context(own_folders(args, outputs)))
        remove_unfinished(outputs)  # by every rank: those of its machine
        start_log(args, distributed.rank() == 0)
        first(args.info.log_contents)
        first(lambda: prepare_lists(args, parts.steps))
        first(lambda: check_steps(args, parts))
        run_parts(args, parts)
        compare(args)


def written(args: Options, parts: Parts) -> tuple[Output, ...]:
    """Return everything that a run writes, each once."""
    log_file = Output("--result_dir", args.log_name, is_file=True)
    of_parts = (output for part in parts.all.values() for output in part.writes(args))
    return tuple(dict.fromkeys((log_file, Output("--result_dir", args.list_dir), *of_parts)))


@contextlib.contextmanager
def own_folders(args: Options, outputs: Sequence[Output]) -> Iterator[None]:
    """The run has the folders that it writes into for itself; those that stay empty go again."""
    flags = {args.result_dir: "--result_dir"}
    for output in outputs:
        flags.setdefault(output.folder, output.flag)
    with contextlib.ExitStack() as stack:
        for folder, flag in flags.items():
            stack.enter_context(no_folder_left(folder))
            make_writable(folder, flag)
        stack.enter_context(locked(flags))
        yield


def remove_unfinished(outputs: Sequence[Output]) -> None:
    """Remove what killed writers left, on this machine, wherever these outputs go."""
    for output in outputs:
        remove_leftovers(output.folder, below=not output.is_file)


def check_only(args: Options, parts: Parts) -> None:
    """Do what `--check` asks for: missing lists are made in a folder that goes again."""
    log_to_screen()
    args.info.log_contents()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            checked = prepare_lists(args, parts.steps, Path(scratch))
            check_steps(checked, parts)
            say_disk(checked, parts.steps)
        except UserError as error:
            raise UserError(str(error).replace(scratch, str(args.list_dir))) from None


def check_steps(args: Options, parts: Parts) -> None:
    """Look at everything that the steps will read and write; one UserError for all problems."""
    preflight = Preflight(args, parts.steps, parts.known)
    for step in parts.steps.values():
        preflight.collect(partial(step.check, args, preflight))
    preflight.collect(partial(load_expected, args.expect))
    for part in parts.after.values():
        preflight.collect(partial(part.check, args), "output")
    read = {f"{role}_list" for step in parts.steps.values() for role in step.LISTS}
    for name in (name for name in LISTS if name in args.given and name not in read):
        log.warning("--%s: no step of this run reads it", name)
    if "threshold_from" in args.said:
        log.warning("--threshold_from: has no effect any more; a score has its best threshold")
    if args.with_ins and not (objects := args.info.root / OBJECT_MASKS).is_dir():
        log.info("instance labels are not scored: %s, with masks of objects, is missing", objects)
    preflight.finish()


def run_parts(args: Options, parts: Parts) -> None:
    """Run the steps in the order of the method, make what follows them, then print the table."""
    log.info("steps: %s", ", ".join(parts.steps))
    for number, (name, step) in enumerate(parts.steps.items(), start=1):
        place, what = f"{number}/{len(parts.steps)}", STEPS[name].lstrip("0123456789 ")
        log.debug("[%s] %s: %s", place, name, what)
        with memory_can_end(name):
            step.run(args)
    for name, part in parts.after.items():
        log.debug("making the %s", name)
        if name == "masks":  # all ranks share the images
            part.run(args)
        else:
            distributed.on_first_rank(partial(part.run, args))
    if any("eval" in step.LISTS for step in parts.steps.values()):
        print_report(args)
    made = {out.path: name for name, part in parts.all.items() for out in part.writes(args)[:1]}
    for path, name in {**made, args.log_name: "log"}.items():
        if path.exists():
            log.info("%-20s %s", name, path)


def show_report(args: Options, known: Steps) -> None:
    """Do what `--report` asks for; in a folder that cannot be written the table is all."""
    log_to_screen()
    load_expected(args.expect)
    if load_scores(args.result_dir) or not args.report_html:
        print_report(args)
        pictures = known["visualize"]
        try:
            remove_unfinished(pictures.writes(args))
            pictures.save_curves(args)
        except OSError as error:
            why = f"cannot be written ({error.strerror}); no curves are drawn"
            log.warning("--result_dir %s: %s", args.result_dir, why)
    if args.report_html:
        args.info.require_root()  # a report without photographs would replace a good one
        try:
            known["html_report"].run(args)
        except OSError as error:
            why = f"{error.filename or args.result_dir} cannot be used ({error.strerror})"
            raise UserError(f"--report_html: {why}; give another --result_dir") from None
    compare(args)
