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


def is_complete(path: Path) -> bool:
    """Whether an output file is there and whole: not empty, with its format's last bytes."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(-min(8, file.tell()), os.SEEK_END)
            tail = file.read()
    except OSError:
        return False
    # A pickled .npy ends with the pickle's STOP, a PNG with the IEND chunk and its checksum.
    endings = {".npy": b".", ".png": b"IEND\xaeB`\x82"}
    return len(tail) > 0 and tail.endswith(endings.get(path.suffix, b""))
