"""Data inside a page."""

import json


def embedded(content: object) -> str:
    """JSON that may stand in a script element, whatever names it has."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c")
