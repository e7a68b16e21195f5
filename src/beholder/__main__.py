"""`python -m beholder` is the `beholder` command."""

import sys

from beholder.cli import main

if __name__ == "__main__":
    sys.exit(main())
