"""The table and the curves of a result folder, from its scores.json alone."""

import logging

from misc.cli.options import IMPORTED, ROW_ENDING, Options
from misc.errors import UserError, counted
from misc.storage.scores import NAME, load_scores

log = logging.getLogger(__name__)

# Rows of the table in the order of the method.
BOUND = "upper bound"
_MAPS = ("none", "advcam", "rib", IMPORTED)
_SEEDS = [
    f"{maps} seed{crf}" for maps in ("CAM", "AdvCAM", "RIB", IMPORTED) for crf in ("", " + CRF")
]
_OTHERS = [
    f"{what}{ROW_ENDING[maps]}"
    for what in ("pseudo masks", "instances AP50", "instances AP75")
    for maps in _MAPS
]
_TRAINED = [f"segmentation{ROW_ENDING[maps]}" for maps in _MAPS]
_NETWORKS = [f"{network}{crf}" for network in (*_TRAINED, BOUND) for crf in ("", " + CRF")]
ROWS = (*_SEEDS, *_OTHERS, *_NETWORKS)


def print_report(args: Options) -> None:
    """Print the table; UserError where nothing was scored yet."""
    rows = load_scores(args.result_dir)
    if not rows:
        raise UserError(
            f"{args.result_dir / NAME}: no scores yet; run --eval_cam_pass or --eval_sem_seg_pass"
        )
    log.info("\n%s", "\n".join(table(args, rows)))


def ordered(rows: dict[str, dict]) -> list[str]:
    """Names of the rows in the order of the method, others behind."""
    return [row for row in ROWS if row in rows] + sorted(set(rows) - set(ROWS))


def table(args: Options, rows: dict[str, dict]) -> list[str]:
    """Lines of the table; the paper's figures stand beside rows of the official lists."""
    names = ordered(rows)
    official = any(rows[row].get("official") for row in names)
    width = max([23, *(len(row) + 1 for row in names)])
    lines = [f"{'':{width}}{'mIoU (%)':>9}{'threshold':>11}{'paper' if official else '':>8}"]
    for row in names:
        score, paper = rows[row], ""
        if score.get("official") and row in args.info.paper_scores:
            paper = f"{args.info.paper_scores[row]:8.1f}"
        at = _threshold(score) or "-"
        lines.append(f"{row:{width}}{100 * _best(score):9.2f}{at:>11}{paper}")
    lines += _ratios(rows)
    for where in dict.fromkeys(_where(rows[row]) for row in names):
        lines.append(where)
    if official:
        lines.append(args.info.paper_note)
    if args.info.draws_masks:
        lines.append("masks drawn from annotations are another ground truth than published ones")
    return lines


def _ratios(rows: dict[str, dict]) -> list[str]:
    """How near each segmentation network comes to the one that was trained on ground truth."""
    pairs = [(f"{row}{crf}", f"{BOUND}{crf}") for row in _TRAINED for crf in ("", " + CRF")]
    return [
        f"{row} reaches {_best(rows[row]) / _best(rows[bound]):.3f} of its upper bound"
        for row, bound in pairs
        if row in rows and bound in rows
    ]


def score_line(args: Options, row: str, score: dict) -> tuple[float, float | None]:
    """Best mIoU of a row (nan without one), and the paper's where the lists are official."""
    paper = args.info.paper_scores.get(row) if score.get("official") else None
    return _best(score), paper


def _threshold(score: dict) -> str:
    """The best threshold; empty for masks that were not cut at one."""
    at = score["thresholds"][score["best"]]
    return "" if at is None else f"{at:.2f}"


def _best(score: dict) -> float:
    miou = score["miou"][score["best"]]
    return float("nan") if miou is None else miou


def _where(score: dict) -> str:
    return f"on {counted({'image': score.get('images', 0)})} of {score.get('list', 'another list')}"
