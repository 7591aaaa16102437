"""`--expect`: whether the scores of a run lie where they are expected.

A file has ranges by row of the table: those of the paper for the official lists, and those recorded
from a run (`--expect_record FILE`) for any other images.
"""

import json
import logging
from pathlib import Path

from misc.cli.options import Options
from misc.cli.report import ordered
from misc.errors import UserError
from misc.storage.files import atomic_path
from misc.storage.scores import load_scores
from misc.storage.untrusted import read_bytes, reason

log = logging.getLogger(__name__)

_MADE_BY = "RIB expected scores"
_MAX_BYTES = 16 << 20
# Points of mIoU by which recorded scores may be missed on another machine: what rests on a
# training is a variable of its own.
_TOLERANCE, _TRAINED_TOLERANCE = 0.5, 3.0
_NOT_TRAINED = ("seed", "seed + CRF")


def check(args: Options) -> None:
    """Raise UserError where a file that --expect or --expect_record names is not one of ranges."""
    if args.expect:
        load_expected(args.expect)
    if args.expect_record and args.expect_record.exists():
        load_expected(args.expect_record)


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
        return (f"--expect {args.expect}: has no scores of these images; --expect_record FILE "
                "records them")  # fmt: skip
    return f"--expect {args.expect}: not reproduced: {', '.join(missed)}" if missed else ""


def record(args: Options) -> None:
    """Keep the scores of a result folder, with a tolerance, as what is expected of these images."""
    path, rows = args.expect_record, load_scores(args.result_dir)
    if not rows:
        raise UserError(f"--expect_record {path}: {args.result_dir} has no scores yet")
    kept = load_expected(path) if path.exists() else []
    for digest, of_list in _by_list(rows).items():
        about = {key: value for score in of_list.values() for key, value in score.items()}
        kept = [entry for entry in kept if entry.get("list_digest") != digest]
        kept.append({
            "dataset": about.get("dataset"), "images": about.get("images"),
            "list_digest": digest, "options": _without_places(about.get("options", {})),
            "rows": {row: _range(row, score) for row, score in of_list.items()},
        })  # fmt: skip
    with atomic_path(path) as temporary:
        text = json.dumps({"made_by": _MADE_BY, "expected": kept}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    log.info("expected scores: %s", path)


def _by_list(rows: dict[str, dict]) -> dict[str, dict[str, dict]]:
    found: dict[str, dict[str, dict]] = {}
    for row in ordered(rows):
        if "list_digest" in rows[row]:
            found.setdefault(rows[row]["list_digest"], {})[row] = rows[row]
    return found


def _without_places(options: dict) -> dict:
    """Options without folders and files, which are other ones elsewhere."""
    return {
        name: value for name, value in options.items()
        if not (name.endswith("_pass") or (isinstance(value, str) and "/" in value))
    }  # fmt: skip


def _range(row: str, score: dict) -> dict:
    miou = 100 * (score["miou"][score["best"]] or 0)
    tolerance = _TOLERANCE if row.endswith(_NOT_TRAINED) else _TRAINED_TOLERANCE
    low, high = max(0.0, miou - tolerance), min(100.0, miou + tolerance)
    return {"low": round(low, 2), "high": round(high, 2), "note": f"recorded {miou:.2f}"}
