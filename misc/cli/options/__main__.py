"""Which options are not at their default, for the scripts."""

import sys

from misc.cli.options.parsing import parse, parsed
from misc.cli.options.sequence import ALL_MAPS


def main() -> None:
    """The options that are not at their default, which the scripts ask for: NAME, or recam=NAME."""
    recam = parsed(None)[1].recam
    words = [*sys.argv[1:], "--recam", "rib"] if recam == ALL_MAPS else None
    print(*parse(words).given, f"recam={recam}")


if __name__ == "__main__":
    main()
