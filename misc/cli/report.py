"""The table and the curves of a result folder, from its scores.json alone."""

import logging

from misc.cli.options import ROW_ENDING, Options
from misc.errors import UserError, counted
from misc.storage.scores import NAME, load_scores

log = logging.getLogger(__name__)

# Rows of the table in the order of the method.
SEG, BOUND = "segmentation", "upper bound"
_SEEDS = [f"{maps} seed{crf}" for maps in ("CAM", "AdvCAM", "RIB") for crf in ("", " + CRF")]
_OTHERS = [
    f"{what}{ROW_ENDING[maps]}"
    for what in ("pseudo masks", "instances AP50", "instances AP75")
    for maps in ("none", "advcam", "rib")
]
_NETWORKS = [f"{network}{crf}" for network in (SEG, BOUND) for crf in ("", " + CRF")]
ROWS = (*_SEEDS, *_OTHERS, *_NETWORKS)


def print_report(args: Options) -> None:
    """Print the table; UserError where nothing was scored yet."""
    for folder in (args.result_dir, *args.compare):
        rows = load_scores(folder)
        if not rows:
            raise UserError(
                f"{folder / NAME}: no scores yet; run --eval_cam_pass or --eval_sem_seg_pass"
            )
        lines = table(args, rows) if args.report_format == "text" else listed(args, rows)
        log.info("%s\n%s", f"\n{folder}" if args.compare else "", "\n".join(lines))


def listed(args: Options, rows: dict[str, dict]) -> list[str]:
    """The table as CSV, or as the lines of a LaTeX tabular."""
    between, end = (" & ", r" \\") if args.report_format == "latex" else (",", "")
    lines = [between.join(("row", "mIoU", "threshold", "paper", "images")) + end]
    for row in _ordered(rows):
        score = rows[row]
        paper = args.info.paper_scores.get(row, "") if score.get("official") else ""
        values = (f"{100 * _best(score):.2f}", f"{score['thresholds'][score['best']]:.2f}")
        name = row if args.report_format == "latex" else f'"{row}"'
        lines.append(between.join((name, *values, str(paper), str(score.get("images", "")))) + end)
    return lines


def _ordered(rows: dict[str, dict]) -> list[str]:
    return [row for row in ROWS if row in rows] + sorted(set(rows) - set(ROWS))


def table(args: Options, rows: dict[str, dict]) -> list[str]:
    """Lines of the table; the paper's figures stand beside rows of the official lists."""
    names = _ordered(rows)
    official = any(rows[row].get("official") for row in names)
    lines = [f"{'':23}{'mIoU (%)':>9}{'threshold':>11}{'paper' if official else '':>8}"]
    for row in names:
        score, paper = rows[row], ""
        best = score["best"]
        if score.get("official") and row in args.info.paper_scores:
            paper = f"{args.info.paper_scores[row]:8.1f}"
        lines.append(f"{row:23}{100 * _best(score):9.2f}{score['thresholds'][best]:11.2f}{paper}")
    for crf in ("", " + CRF"):
        if f"{SEG}{crf}" in rows and f"{BOUND}{crf}" in rows:
            ratio = _best(rows[f"{SEG}{crf}"]) / _best(rows[f"{BOUND}{crf}"])
            lines.append(f"{SEG}{crf} reaches {ratio:.3f} of its upper bound")
    for where in dict.fromkeys(_where(rows[row]) for row in names):
        lines.append(where)
    if official:
        lines.append(args.info.paper_note)
    if args.info.draws_masks:
        lines.append("masks drawn from annotations are another ground truth than published ones")
    return lines


def _best(score: dict) -> float:
    miou = score["miou"][score["best"]]
    return float("nan") if miou is None else miou


def _where(score: dict) -> str:
    return f"on {counted({'image': score.get('images', 0)})} of {score.get('list', 'another list')}"
