"""Every option of `run_sample.py`: name, type, range, default, meaning, and what follows from them.

values, by_dataset             how values are read, and defaults that differ by dataset
method_flags, run_flags        the options: of the method's steps, and of all else
presets                        published settings of the segmentation network
parser, parsing                from a command line ...
namespace                      ... to the options of a run
sequence                       the steps, and which of them a run takes
"""

from misc.cli.options.namespace import Options, as_plain
from misc.cli.options.parser import build_parser
from misc.cli.options.parsing import parse
from misc.cli.options.presets import SEG_PRESETS
from misc.cli.options.run_flags import EXPECTED
from misc.cli.options.sequence import (
    IMPORTED,
    OBJECT_MASKS,
    RECAM,
    ROW_ENDING,
    SEG_STEPS,
    SEQUENCE,
    STEPS,
    chosen_steps,
    unread_lists,
)
from misc.cli.options.values import EXPORTS

__all__ = [
    "EXPECTED",
    "EXPORTS",
    "IMPORTED",
    "OBJECT_MASKS",
    "RECAM",
    "ROW_ENDING",
    "SEG_PRESETS",
    "SEG_STEPS",
    "SEQUENCE",
    "STEPS",
    "Options",
    "as_plain",
    "build_parser",
    "chosen_steps",
    "parse",
    "unread_lists",
]
