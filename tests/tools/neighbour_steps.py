"""IRN training steps in a process of its own, for `tests.tools.comparisons.Neighbour`.

    python -m tests.tools.neighbour_steps CROP WIDTH THREADS

For every number on stdin so many steps are taken; their seconds and the loss go to stdout.
"""

import sys
import time

import torch

from tests.tools.comparisons import CPU, IRNStep


def main() -> None:
    """Answer until stdin is closed."""
    crop, width, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    step = IRNStep(batch=4, crop=crop, radius=min(10, crop // 16), width=width)
    step.use(CPU)
    step.here()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            losses, _ = step.here()
        print(time.perf_counter() - start, losses[-1].item(), flush=True)


if __name__ == "__main__":
    main()
