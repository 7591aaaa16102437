"""Folders of small photographs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from misc.data.folder.dataset import describe
from misc.data.folder.photographs import Tree


def save_photo(path: Path, size=(16, 24), **options) -> Path:
    """A photograph of height x width whose colours change from left to right and downwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([rows * 250 // size[0], columns * 250 // size[1], rows * 0 + 90], axis=2)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path):
    """Six photographs in nested folders, of four formats; the folder."""
    root = tmp_path / "photos"
    for name in ("a.jpg", "b.png", "x/c.webp", "x/d e.tif", "x/y/ä#%1.JPG", "x/y/a.jpeg"):
        form = {"format": "JPEG"} if name.lower().endswith(("jpg", "jpeg")) else {}
        save_photo(root / name, **form)
    return root


@pytest.fixture
def tree_of(tmp_path):
    """A folder of photographs with these names, which are not opened."""

    def call(*names):
        for name in names:
            (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "tree" / name).touch()
        return Tree(tmp_path / "tree")

    return call


@pytest.fixture
def described(photos, tmp_path):
    """Describes the photographs with the text of a table and further options."""

    def call(table: str | None = None, root: Path = photos, **options):
        if table is not None:
            options["labels"] = tmp_path / "labels.csv"
            options["labels"].write_text(table, encoding="utf-8")
        return describe(root, **{"unlabelled": "skip", **options})

    return call
