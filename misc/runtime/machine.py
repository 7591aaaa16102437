"""What a run computes with: versions of the libraries, and the processor."""

import contextlib
import platform
import re
from importlib import metadata
from pathlib import Path

import torch

_LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "opencv-python-headless")


def machine() -> dict[str, str]:
    """Names and versions as text."""
    found = {"Python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    found["processor"] = _processor()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        found["GPU"] = ", ".join(f"{names.count(n)} x {n}" for n in dict.fromkeys(names))
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        named = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        if named:
            return named[1]
    return platform.processor() or platform.machine()
