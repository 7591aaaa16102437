"""The parser of all options, grouped by step."""

import argparse
import re
import sys

from misc.cli.options import method_flags as of_method
from misc.cli.options import run_flags as of_run

_GROUPS = (
    ("environment", of_run.environment_options),
    ("dataset", of_run.dataset_options),
    ("your own photographs (--dataset folder)", of_run.folder_options),
    ("which steps to run (numbers: the method's order)", of_run.step_options),
    ("classifier and maps (1, make_cam)", of_method.classifier_options),
    ("RIB (2)", of_method.rib_options),
    ("AdvCAM (make_recam_with_AdvCAM)", of_method.advcam_options),
    ("scores (3, eval_sem_seg)", of_method.score_options),
    ("inter-pixel relations (4, 5)", of_method.irn_options),
    ("random walk and pseudo masks (6)", of_method.walk_options),
    ("instance labels", of_method.instance_options),
    (
        "segmentation network (7 to 9)",
        of_method.segmentation_options,
        of_method.segmentation_result_options,
    ),
    ("output", of_run.output_options),
    ("page", of_run.page_options),
    ("exchange with other programs", of_run.exchange_options),
    ("comparison with other runs", of_run.comparison_options),
)


class _Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line."""

    def error(self, message: str) -> None:
        numbers = re.search(r"unrecognized arguments: -?[\d.]+", message)
        message += "; several numbers of one option have commas between them" if numbers else ""
        print(f"error: {message}; python run_sample.py --help lists all options", file=sys.stderr)
        sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all options, grouped by step."""
    parser = _Parser(
        prog="run_sample.py",
        usage="python run_sample.py [options]",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=100),
        description="RIB: pseudo masks for segmentation from image-level labels. Without any "
        "*_pass option the whole sequence runs; with some, exactly those steps.",
    )
    for title, *groups in _GROUPS:
        group = parser.add_argument_group(title)
        for add_options in groups:
            add_options(group)
    return parser
