"""scores.json: every score of a result folder, by row of the table."""

import json
from pathlib import Path

from misc.errors import UserError
from misc.storage.files import read_bytes
from misc.storage.outputs import Output, write_json

NAME = "scores.json"
_MADE_BY = "RIB"
_MAX_BYTES = 64 << 20
_BY_CLASS = ("iou", "precision", "recall", "ap")  # shares by name of the class
# Types of what a row may have beside `thresholds`, `miou` and `best`.
_KINDS = {"images": int, "official": bool, "list": str, "list_digest": str, "dataset": str,
          "folder": str, "options": dict, "runs": list, "precision_at_recall": dict,
          **dict.fromkeys(_BY_CLASS, dict)}  # fmt: skip


def scores_file(folder: Path) -> Output:
    """Where the scores of a result folder are kept."""
    return Output("--result_dir", folder / NAME, is_file=True)


def load_scores(folder: Path) -> dict[str, dict]:
    """Scores by row of the table, empty where there are none; UserError for another file."""
    path = folder / NAME
    try:
        text = read_bytes(path, _MAX_BYTES).decode("utf-8")
        content = json.loads(text, parse_constant=_refused)
        if content["made_by"] != _MADE_BY:
            raise ValueError
        for name, row in content["rows"].items():
            _check(name, row)
        return content["rows"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path}: is damaged, or was not made by this program; move it away and score again"
        ) from None


def _refused(text: str) -> None:
    """NaN and Infinity, which JSON does not have."""
    raise ValueError(text)


def _check(name: str, row: dict) -> None:
    """Raise ValueError, TypeError, KeyError or AttributeError where a row is not one of scores."""
    if type(row["best"]) is not int or not 0 <= row["best"] < len(row["miou"]):
        raise ValueError
    if len(row["thresholds"]) != len(row["miou"]):
        raise ValueError
    if None in row["thresholds"] and ("seed" in name or len(row["miou"]) > 1):
        raise ValueError  # masks alone may have no threshold
    if any(type(row[key]) is not kind for key, kind in _KINDS.items() if key in row):
        raise TypeError
    shares = [row["thresholds"], row["miou"], row.get("runs", [])]
    shares += [list(row[key].values()) for key in _BY_CLASS if key in row]
    shares += list(row.get("precision_at_recall", {}).values())
    for values in shares:
        if type(values) is not list or not all(v is None or 0 <= v <= 1 for v in values):
            raise ValueError


def save_score(folder: Path, row: str, score: dict) -> None:
    """Keep the score of a row of the table, beside those of the others.

    score: plain values; at least `thresholds` and `miou`, lists of one length, and `best`, an index
    of them. Values that are not a number are kept as null.
    """
    rows = {**load_scores(folder), row: _plain(score)}
    write_json(folder / NAME, {"made_by": _MADE_BY, "rows": rows})


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if value != value else value  # nan alone differs from itself
