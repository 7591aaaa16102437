"""The table of a result folder's scores, and how they compare with those that are expected."""

import json
import logging
from pathlib import Path

from misc.cli.options import IMPORTED, ROW_ENDING, Options
from misc.errors import NotReproducedError, UserError, counted
from misc.runtime import distributed
from misc.storage.files import read_bytes, reason
from misc.storage.scores import FULL, NAME, load_scores, with_new_names

log = logging.getLogger(__name__)

# Methods of the table in the order of the paper.
_MAPS = ("none", "advcam", "rib", IMPORTED)
_CRF = ("", " + CRF")
_SEEDS = [f"{maps} seed{crf}" for maps in ("CAM", "AdvCAM", "RIB", IMPORTED) for crf in _CRF]
_MASKS = ("pseudo masks", "instances AP50", "instances AP75")
_OTHERS = [f"{what}{ROW_ENDING[maps]}" for what in _MASKS for maps in _MAPS]
_TRAINED = [f"segmentation{ROW_ENDING[maps]}" for maps in _MAPS]
ROWS = (*_SEEDS, *_OTHERS, *(f"{network}{crf}" for network in (*_TRAINED, FULL) for crf in _CRF))

_MADE_BY = "RIB expected scores"
_MAX_BYTES = 16 << 20


def print_report(args: Options) -> None:
    """Print the table; UserError where nothing was scored yet."""
    rows = load_scores(args.result_dir)
    if not rows:
        advice = "run --eval_cam_pass or --eval_sem_seg_pass"
        raise UserError(f"{args.result_dir / NAME}: no scores yet; {advice}")
    log.info("\n%s", "\n".join(table(args, rows)))


def ordered(rows: dict[str, dict]) -> list[str]:
    """Return the names of the methods in their order, others behind."""
    return [row for row in ROWS if row in rows] + sorted(set(rows) - set(ROWS))


def table(args: Options, rows: dict[str, dict]) -> list[str]:
    """Return the lines of the table; the paper's figures stand beside scores of official lists."""
    rows = {row: rows[row] for row in ordered(rows)}
    official = any(score.get("official") for score in rows.values())
    width = max([23, *(len(row) + 1 for row in rows)])
    lines = [f"{'':{width}}{'mIoU (%)':>9}{'threshold':>11}{'paper' if official else '':>8}"]
    for row, score in rows.items():
        miou, paper = score_line(args, row, score)
        at = score["thresholds"][score["best"]]  # None: masks that were not cut at one
        shown, figure = "-" if at is None else f"{at:.2f}", "" if paper is None else f"{paper:8.1f}"
        lines.append(f"{row:{width}}{100 * miou:9.2f}{shown:>11}{figure}")
    for network, crf in ((network, crf) for network in _TRAINED for crf in _CRF):
        if f"{network}{crf}" in rows and f"{FULL}{crf}" in rows:
            ratio = _best(rows[f"{network}{crf}"]) / _best(rows[f"{FULL}{crf}"])
            lines.append(f"{network}{crf} reaches {ratio:.3f} of the fully supervised")
    for score in rows.values():
        images = counted({"image": score.get("images", 0)})
        lines.append(f"on {images} of {score.get('list', 'another list')}")
    lines += [args.info.paper_note] if official else []
    if args.info.draws_masks:
        lines.append("masks drawn from annotations are another ground truth than published ones")
    return list(dict.fromkeys(lines))


def score_line(args: Options, row: str, score: dict) -> tuple[float, float | None]:
    """Return the best mIoU (nan without one), and the paper's where the lists are official."""
    return _best(score), args.info.paper_scores.get(row) if score.get("official") else None


def _best(score: dict) -> float:
    miou = score["miou"][score["best"]]
    return float("nan") if miou is None else miou


def load_expected(path: Path | None) -> list[dict]:
    """Return what a file such as Demo/expected.json expects of each set of images."""
    if path is None:
        return []
    try:
        content = json.loads(read_bytes(path, _MAX_BYTES).decode("utf-8"))
        if content["made_by"] != _MADE_BY:
            raise ValueError("another program made it")
        for entry in content["expected"]:
            entry["rows"] = with_new_names(entry["rows"])
            for expected in entry["rows"].values():
                if not 0 <= expected["low"] <= expected["high"] <= 100:
                    raise ValueError("a range is not one of per cent")
        return content["expected"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"does not say what scores are expected ({reason(error)})"
        raise UserError(f"{path}: {what}; give a file such as Demo/expected.json") from None


def expected_of(score: dict, row: str, expected: list[dict]) -> dict | None:
    """Return what is expected of a method on the images of its score; None where nothing is."""
    for entry in expected:
        ids, dataset = entry.get("list_digest"), entry.get("dataset")
        if ids is None:
            same = score.get("official") and dataset == score.get("dataset")
        else:  # scores of instances do not say their dataset
            same = ids == score.get("list_digest") and score.get("dataset") in (None, dataset)
        if same and row in entry["rows"]:
            return entry["rows"][row]
    return None


def compare(args: Options) -> None:
    """Raise NotReproducedError where scores are not those of --expect. Every rank calls it."""
    if args.expect and (text := distributed.on_first_rank(lambda: _not_reproduced(args))):
        raise NotReproducedError(f"--expect {args.expect}: {text}")


def _not_reproduced(args: Options) -> str:
    expected, rows = load_expected(args.expect), load_scores(args.result_dir)
    lines, missed, known = [], [], 0
    for row in ordered(rows):
        wanted, miou = expected_of(rows[row], row, expected), 100 * (_best(rows[row]) or 0)
        says = "nothing is expected of it on these images"
        if wanted:
            known += 1
            inside = wanted["low"] <= miou <= wanted["high"]
            missed += [] if inside else [row]
            note = f" ({wanted['note']})" if wanted.get("note") else ""
            verdict = "reproduced" if inside else "NOT REPRODUCED"
            says = f"{wanted['low']:.2f}..{wanted['high']:.2f}  {verdict}{note}"
        lines.append(f"{row:24}{miou:8.2f}  {says}")
    log.info("\nexpected by %s\n%s", args.expect, "\n".join(lines))
    if not known:
        return "has no scores of these images; give a file that has"
    return f"not reproduced: {', '.join(missed)}" if missed else ""
