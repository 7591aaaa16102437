"""Runs run_sample.py with trainings that save their state after every step, for tests of ends."""

import logging
import sys

from misc.runtime.programs import begin

if __name__ == "__main__":
    begin()
    from misc.cli import log
    from misc.runtime import training
    from run_sample import main

    training.CHECKPOINT_MINUTES, log.SCREEN = 0, logging.DEBUG  # the screen says what runs
    sys.exit(main())
