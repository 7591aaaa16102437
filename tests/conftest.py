"""Fixtures shared by all tests."""

import os
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(
    os.environ.get("RIB_TEST_DATA", Path(__file__).resolve().parent.parent.parent / "shared")
)


def shared_path(relative: str) -> Path:
    """A file of the reference data beside the project; skips the test where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"{path} is not here: the reference data is kept outside the repository")
    return path


@pytest.fixture(scope="session")
def golden():
    """Loads arrays recorded from the original implementation, e.g. golden("eval.npz")."""

    def load(name: str):
        return np.load(shared_path(f"golden/{name}"), allow_pickle=False)

    return load
