"""Writing files so that a reader never meets half of one."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what is written there becomes `path` at the end.

    When the block raises, the temporary file is removed and an older `path` stays as it was. The
    temporary name keeps the suffix, by which writers such as `np.save` and Pillow go. The folder
    has to exist.
    """
    path = Path(path)
    # Not tempfile.mkstemp: its files are readable by their owner alone, and so would the result be.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
