"""scores.json: every score of a result folder, by row of the table."""

import json
from pathlib import Path

from misc.errors import UserError
from misc.storage.outputs import Output, write_json
from misc.storage.untrusted import read_bytes

NAME = "scores.json"
_MADE_BY = "RIB"
_MAX_BYTES = 64 << 20


def scores_file(folder: Path) -> Output:
    """Where the scores of a result folder are kept."""
    return Output("--result_dir", folder / NAME, is_file=True)


def load_scores(folder: Path) -> dict[str, dict]:
    """Scores by row of the table, empty where there are none; UserError for another file."""
    path = folder / NAME
    try:
        content = json.loads(read_bytes(path, _MAX_BYTES).decode("utf-8"))
        if content["made_by"] != _MADE_BY:
            raise ValueError
        for row in content["rows"].values():
            if not len(row["thresholds"]) == len(row["miou"]) > row["best"] >= 0:
                raise ValueError
        return content["rows"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path}: is damaged, or was not made by this program; move it away and score again"
        ) from None


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
