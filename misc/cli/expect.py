"""`--expect`: whether the scores of a run lie where they are expected.

A file has ranges by row of the table, for the official lists and for any other images.
"""

import json
import logging
from pathlib import Path

from misc.cli.options import Options
from misc.cli.report import ordered
from misc.errors import UserError
from misc.storage.files import read_bytes, reason
from misc.storage.scores import load_scores

log = logging.getLogger(__name__)

_MADE_BY = "RIB expected scores"
_MAX_BYTES = 16 << 20


def check(args: Options) -> None:
    """Raise UserError where the file that --expect names is not one of ranges."""
    if args.expect:
        load_expected(args.expect)


def load_expected(path: Path) -> list[dict]:
    """What is expected, a dict for each set of images; UserError where the file is another one.

    `dataset`, `images` (their number), `list_digest` (of the ids; None: the official list) and
    `rows`: by row of the table `low` and `high` in per cent, and `note`.
    """
    try:
        content = json.loads(read_bytes(path, _MAX_BYTES).decode("utf-8"))
        if content["made_by"] != _MADE_BY:
            raise ValueError("it has another maker")
        for entry in content["expected"]:
            for expected in entry["rows"].values():
                if not 0 <= expected["low"] <= expected["high"] <= 100:
                    raise ValueError("a range is not one of per cent")
        return content["expected"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: does not say what scores are expected ({reason(error)}); give a file such as "
            "Demo/expected.json"
        ) from None


def judged(score: dict, row: str, expected: list[dict]) -> tuple[float, dict | None]:
    """A row's mIoU in per cent, and what is expected of it on these images."""
    miou = score["miou"][score["best"]]
    for entry in expected:
        digest = entry.get("list_digest")
        if digest is None:
            same = score.get("official") and entry.get("dataset") == score.get("dataset")
        else:  # scores of instances do not say their dataset
            same = digest == score.get("list_digest")
            same &= score.get("dataset") in (None, entry.get("dataset"))
        if same and row in entry["rows"]:
            return 100 * (miou or 0), entry["rows"][row]
    return 100 * (miou or 0), None


def run(args: Options) -> str:
    """Say of every row whether it is reproduced; what to say where one is not, or none is known."""
    expected, rows = load_expected(args.expect), load_scores(args.result_dir)
    lines, missed, known = [], [], 0
    for row in ordered(rows):
        miou, wanted = judged(rows[row], row, expected)
        if wanted is None:
            lines.append(f"{row:24}{miou:8.2f}  nothing is expected of it on these images")
            continue
        known += 1
        inside = wanted["low"] <= miou <= wanted["high"]
        missed += [] if inside else [row]
        says = "reproduced" if inside else "NOT REPRODUCED"
        note = f" ({wanted['note']})" if wanted.get("note") else ""
        lines.append(
            f"{row:24}{miou:8.2f}  {wanted['low']:.2f}..{wanted['high']:.2f}  {says}{note}"
        )
    log.info("\nexpected by %s\n%s", args.expect, "\n".join(lines))
    if not known:
        return f"--expect {args.expect}: has no scores of these images; give a file that has"
    return f"--expect {args.expect}: not reproduced: {', '.join(missed)}" if missed else ""
