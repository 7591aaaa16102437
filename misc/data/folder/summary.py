"""What the check and a run say first of a folder of photographs: a person sees a shifted table."""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from misc.errors import counted
from misc.storage.files import reason

log = logging.getLogger(__name__)

FEW = 20  # images of a class; with fewer its maps are rarely worth anything
_SHOWN = 10
_CLASSES_SHOWN = 100
_EXAMPLES = 2  # photographs that are shown with their labels


def log_contents(root: Path, source: Path | None, scan) -> None:
    """Log the classes with their numbers of photographs, and what may be wrong with a folder.

    source: the file of the labels. scan: what is in the folder, a `dataset.Scan`.
    """
    labels = scan.labels
    counts = Counter(labels.classes[number] for of in labels.of.values() for number in of)
    log.info("%s: %s with labels of %s: %s", root, counted({"photograph": len(labels.of)}),
             counted({"class": len(labels.classes)}),
             _some([f"{reason(n)} {counts[n]}" for n in labels.classes], _CLASSES_SHOWN)
             )  # fmt: skip
    for path, of in sorted(labels.of.items())[:_EXAMPLES]:
        names = "; ".join(reason(labels.classes[number]) for number in of)
        log.info("for example %s: %s", path, names or "no class")
    for note in scan.notes:
        log.info("%s", note)
    if empty := sum(not of for of in labels.of.values()):
        log.info("%s without any class: background alone", counted({"photograph": empty}))
    if text := scan.tree.left_out():
        log.warning("%s: left out: %s", root, text)
    for link, number in scan.tree.links.items():
        log.warning("%s: is a link that leaves the folder; %s came through it. If they are not "
                    "meant, take the link away", root / link,
                    counted({"photograph": number}))  # fmt: skip
    if scan.repeated:
        log.warning("%s: %s there twice", source, counted({"row": scan.repeated}))
    if scan.unlabelled:
        log.warning("%s, left out (lists/unlabelled.txt): %s",
                    counted({"photograph without a label": len(scan.unlabelled)}),
                    _some(scan.unlabelled))  # fmt: skip
    if absent := [name for name in labels.classes if not counts[name]]:
        log.warning("%s of no photograph, which can never be found: %s",
                    counted({"class": len(absent)}), _some(absent))  # fmt: skip
    if few := [n for n in labels.classes if 0 < counts[n] < FEW]:
        log.warning("%s of fewer than %d photographs, too few for good maps; add some: %s",
                    counted({"class": len(few)}), FEW,
                    _some([f"{reason(n)} {counts[n]}" for n in few]))  # fmt: skip


def _some(words: Iterable[str], number: int = _SHOWN) -> str:
    words = list(words)
    more = f" and {len(words) - number} more" if len(words) > number else ""
    return ", ".join(map(reason, words[:number])) + more
