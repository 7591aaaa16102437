"""How threads wait for each other, which has to be said before torch is loaded."""

import os

# Turns of a waiting loop before a thread sleeps. OpenMP's own choice, some millions, costs a busy
# machine dearly: threads wait in full speed for one that the neighbour's program has displaced.
# Sleeping at once costs a quiet machine a third. The figures are in misc/PERFORMANCE.md.
SPINS = "2000"
_CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_briefly() -> None:
    """Let OpenMP's threads, of this process and of those it starts, spin a while and then sleep.

    What the user has set in the environment stays. No effect once torch is loaded.
    """
    if not any(name in os.environ for name in _CHOICES):
        os.environ["GOMP_SPINCOUNT"] = SPINS
