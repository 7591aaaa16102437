"""The figures of the pages that also stand in scores.json of finished runs.

python -m tests.tools.doc_figures RESULT_DIR ...

Prints each such figure with its page, line and score. Scores that no page names are listed last.
"""

import argparse
import re
from pathlib import Path

from misc.storage.scores import load_scores

PROJECT = Path(__file__).resolve().parents[2]


def scores_of(folder: Path) -> dict[str, str]:
    """Best mIoU of each method in a result folder, as the pages print it ("48.25"), to its name."""
    best = {name: s["miou"][s["best"]] for name, s in load_scores(folder).items()}
    return {f"{100 * value:.2f}": f"{folder.name}: {name}" for name, value in best.items() if value}


def main(argv: list[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.doc_figures", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT_DIR")
    wanted, named = {}, set()
    for folder in parser.parse_args(argv).results:
        wanted |= scores_of(folder)
    for path in sorted(PROJECT.rglob("*.md")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            for figure in set(re.findall(r"\b\d+\.\d\d\b", line)) & set(wanted):
                named.add(figure)
                print(f"{path.relative_to(PROJECT)}:{number}: {figure} ({wanted[figure]})")
    for figure in sorted(set(wanted) - named):
        print(f"on no page: {figure} ({wanted[figure]})")


if __name__ == "__main__":
    main()
