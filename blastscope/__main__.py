"""`python -m blastscope`, and the command `blastscope`, are the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line. Importing it takes a moment, in which Ctrl-C ends as quietly as it does later."""
    try:
        from blastscope.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
