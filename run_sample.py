"""Run the steps of RIB: image-level labels in, pseudo masks out. See --help and the README."""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import sys

from misc.cli.options import parse


def main(argv: list[str] | None = None) -> int:
    """Parse options, look at all input, run the chosen steps; returns the exit code."""
    args = parse(argv)  # before torch is loaded, which takes seconds
    from misc.cli.run import execute
    from step import all_steps

    return execute(args, all_steps())


if __name__ == "__main__":
    sys.exit(main())
