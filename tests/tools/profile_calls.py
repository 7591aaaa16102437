"""Counts the project's functions and files that `misc.rib.fine_tune` enters on one image.

python -m tests.tools.profile_calls
"""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import torch

from misc.rib import RIBSettings, fine_tune
from net.resnet50_cam import CAM
from tests.conftest import PROJECT, THIN


class Entered(NamedTuple):
    """The functions that were entered, as (file, name)."""

    functions: set[tuple[str, str]]

    @property
    def files(self) -> set[str]:
        """The files that they are in."""
        return {file for file, _ in self.functions}


def entered(work: Callable[[], object]) -> Entered:
    """Return what a call enters of the project, in all threads; tests and imports left out."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.add(frame.f_code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return Entered({place for code in seen if (place := _place(code))})


def _place(code: CodeType) -> tuple[str, str] | None:
    """File and name of a function of the project; None of all other code."""
    path = Path(code.co_filename)
    # A comprehension is no function of its own to a reader, nor is a class body or a module.
    inner = code.co_name.startswith("<") and code.co_name != "<lambda>"
    if inner or not code.co_flags & 0x2 or not path.is_relative_to(PROJECT):
        return None
    file = path.relative_to(PROJECT)
    return None if file.parts[0] == "tests" else (str(file), f"{code.co_qualname}")


def of_fine_tune() -> Entered:
    """The functions that `fine_tune` enters on one image, three iterations."""
    model, settings = CAM(2, **THIN), RIBSettings(iterations=3, scales=(1.0, 0.5))
    pairs, label = [torch.rand(2, 3, 64, 64), torch.rand(2, 3, 32, 32)], torch.tensor([1.0, 0.0])
    batch = (torch.rand(4, 3, 64, 64), torch.tensor([[0.0, 1.0]] * 4))
    return entered(lambda: list(fine_tune(model, pairs, label, iter([batch] * 3), settings)))


def main() -> None:
    """Print the figures and the functions."""
    found = of_fine_tune()
    print(f"fine_tune: {len(found.functions)} functions in {len(found.files)} files")
    print(*(f"{file}: {name}" for file, name in sorted(found.functions)), sep="\n")


if __name__ == "__main__":
    main()
