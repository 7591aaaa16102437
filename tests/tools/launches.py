"""What a GPU would be asked to do: operations and waits, counted where there is none.

A GPU is given its work one operation after the other, each of which costs the processor some
microseconds; and it stands still whenever a value of its memory is asked for, until the processor
has read it and gone on.
"""

from collections import Counter
from typing import NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Another look at the same memory, or a note for the profiler: nothing for a GPU to do.
_VIEWS = {
    "_record_function_enter_new", "_RecordFunction", "_unsafe_view", "alias", "as_strided",
    "detach", "expand", "lift_fresh", "permute", "select", "slice", "split", "squeeze", "t",
    "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip


class Launches(NamedTuple):
    """Counts of a piece of work."""

    operations: int  # dispatched, views too
    launches: int  # without views
    waits: int  # values read: _local_scalar_dense, and lists of values


class Counting:
    """Counts what happens in its block: `with Counting() as counting: ...; counting.found()`."""

    def __init__(self) -> None:
        self._operations, self._reads = _Operations(), _Reads()

    def __enter__(self) -> "Counting":
        self._reads.__enter__()
        self._operations.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._operations.__exit__(*error)
        self._reads.__exit__(*error)

    @property
    def by_name(self) -> Counter:
        """How often each operation was dispatched."""
        return self._operations.counts

    def found(self) -> Launches:
        """The counts so far."""
        counts = self._operations.counts
        views = sum(number for name, number in counts.items() if name in _VIEWS)
        waits = counts["_local_scalar_dense"] + self._reads.lists
        return Launches(counts.total(), counts.total() - views, waits)


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.name().partition("::")[2].partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    """Lists of values, which a processor reads without an operation and a GPU waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.lists += func is torch.Tensor.tolist or func is torch.Tensor.numpy
        return func(*args, **(kwargs or {}))
