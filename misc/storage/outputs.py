"""What a run writes, and the state of such a file: whole, damaged, or made by another program."""

import enum
from dataclasses import dataclass
from pathlib import Path

from misc.errors import UserError
from misc.storage.npydict import load_dict
from misc.storage.seals import Seal, is_own, seal_of
from misc.storage.untrusted import decode_image


@dataclass(frozen=True)
class Output:
    """A folder or a file that is written, and the option that names it or the place around it."""

    flag: str
    path: Path
    is_file: bool = False

    @property
    def folder(self) -> Path:
        """The folder that files are written into."""
        return self.path.parent if self.is_file else self.path


class State(enum.Enum):
    """State of an output file."""

    MISSING = enum.auto()
    WHOLE = enum.auto()
    DAMAGED = enum.auto()  # cut, or with changed bytes: it is made again
    FOREIGN = enum.auto()  # a readable file without a seal, such as a mask that was drawn by hand


def output_state(path: Path) -> State:
    """The state of an output, by its seal; a file without one is opened."""
    try:
        seal = seal_of(path.read_bytes())
    except FileNotFoundError:
        return State.MISSING
    except OSError:
        return State.DAMAGED
    if seal is Seal.NONE:
        return State.FOREIGN if _opens(path) else State.DAMAGED
    return State.WHOLE if seal is Seal.WHOLE else State.DAMAGED


def is_foreign(path: Path) -> bool:
    """Whether a file is FOREIGN; of the program's own ones only the ends are read."""
    return path.is_file() and not is_own(path) and output_state(path) is State.FOREIGN


def foreign_line(path: Path) -> str:
    """What to say of a foreign file where an output should go."""
    return (
        f"{path}: was not made by this program, or was changed since, and stays as it is; move it "
        "away or give another folder"
    )


def _opens(path: Path) -> bool:
    try:
        if path.suffix == ".png":
            decode_image(path, ("PNG",))
        else:
            load_dict(path, fix="")
    except (UserError, ValueError, OSError):
        return False
    return True
