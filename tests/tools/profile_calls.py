"""Counts the project's functions and files that RIB on one image enters.

    python -m tests.tools.profile_calls

Once for `misc.rib.fine_tune` alone, and once for the whole step `--make_recam_with_RIB_pass` from
the command line to the saved maps: what somebody has to read who follows one image.
"""

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import torch

import run_sample
from Dataset.make_sample import make_sample
from misc.rib import RIBSettings, fine_tune
from net.checkpoint import save_checkpoint
from net.resnet50_cam import CAM, Net
from tests.conftest import PROJECT, THIN, TINY


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


def of_step() -> Entered:
    """The functions that a run of the step enters on one image, once its lists are made."""
    with tempfile.TemporaryDirectory() as scratch:
        root, weights = Path(scratch) / "voc", Path(scratch) / "cam.pth"
        make_sample(root, num_train=8, num_val=2)
        save_checkpoint(weights, Net(20, **THIN))
        words = [*TINY, "--voc12_root", str(root), "--cam_weights_name", str(weights)]
        words += ["--result_dir", str(Path(scratch) / "r"), "--limit", "1"]
        run_sample.main([*words, "--make_cam_pass"])  # loads the modules, makes the lists
        return entered(lambda: run_sample.main([*words, "--make_recam_with_RIB_pass"]))


def main() -> None:
    """Print the figures, and the files of the whole step."""
    torch.manual_seed(0)
    loop, step = of_fine_tune(), of_step()
    for name, found in (("fine_tune", loop), ("the whole step", step)):
        print(f"{name}: {len(found.functions)} functions in {len(found.files)} files")
    for file in sorted(step.files):
        names = [name for where, name in sorted(step.functions) if where == file]
        print(f"{len(names):4} {file}: {', '.join(names)}")


if __name__ == "__main__":
    main()
