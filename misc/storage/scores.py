"""scores.json: every score of a result folder, by row of the table."""

import json
from pathlib import Path

from misc.errors import UserError
from misc.storage.outputs import Output, State, output_state, write_json

NAME = "scores.json"


def scores_file(folder: Path) -> Output:
    """Return the file that keeps the scores of a result folder."""
    return Output("--result_dir", folder / NAME, is_file=True)


def load_scores(folder: Path) -> dict[str, dict]:
    """Read the scores by row of the table, none where there are none; UserError where changed."""
    path = folder / NAME
    state = output_state(path)
    if state is State.MISSING:
        return {}
    if state is not State.WHOLE:
        raise UserError(
            f"{path}: is damaged, or was not made by this program; move it away and score again"
        )
    return json.loads(path.read_bytes())["rows"]


def save_score(folder: Path, row: str, score: dict) -> None:
    """Keep the score of a row of the table, beside those of the others.

    score: plain values; at least `thresholds` and `miou`, lists of one length, and `best`, an index
    of them. Values that are not a number are kept as null.
    """
    rows = {**load_scores(folder), row: _plain(score)}
    write_json(folder / NAME, {"made_by": "RIB", "rows": rows})


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if value != value else value  # nan alone differs from itself
