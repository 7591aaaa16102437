"""scores.json: every score of a result folder, by method."""

import json
from pathlib import Path

from misc.errors import UserError
from misc.storage.outputs import Output, State, output_state, write_json

NAME = "scores.json"
_OLD, FULL = "upper bound", "fully supervised"  # a method's name in older files, and now


def scores_file(folder: Path) -> Output:
    return Output("--result_dir", folder / NAME, is_file=True)


def load_scores(folder: Path) -> dict[str, dict]:
    """Read the scores by method, none where there are none; UserError where changed."""
    path, state = folder / NAME, output_state(folder / NAME)
    if state is State.MISSING:
        return {}
    if state is not State.WHOLE:
        said = "is damaged, or was not made by this program"
        raise UserError(f"{path}: {said}; move it away and score again")
    return with_new_names(json.loads(path.read_bytes())["rows"])


def with_new_names(rows: dict[str, dict]) -> dict[str, dict]:
    """The same by method, under the names of now."""
    return {row.replace(_OLD, FULL): content for row, content in rows.items()}


def save_score(folder: Path, row: str, score: dict) -> None:
    """Keep the score of a method beside those of the others; NaN becomes null."""
    plain = json.loads(json.dumps(score), parse_constant=lambda name: None)
    write_json(folder / NAME, {"made_by": "RIB", "rows": {**load_scores(folder), row: plain}})
