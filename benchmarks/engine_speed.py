"""How quickly the engine answers: the figures of `beholder bench`, each in a record of its own.

    python benchmarks/engine_speed.py [MODEL | --random SIZE] [--figures first,decode] [--results FOLDER]
                                      [options of `beholder bench`]

A figure of a large model takes minutes, and a record for each can be repeated by itself. What is not known
here goes to `beholder bench`: see there. `benchmarks/tables.py` makes README.md's table from the records.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import date
from pathlib import Path

from beholder.benchmarking.run import chosen
from beholder.cli import main as beholder

HERE = Path(__file__).resolve().parent


def record_name(subject: str, figure: str) -> str:
    """A file name that tells model, figure and day."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", Path(subject).name).strip("-").lower()
    return f"engine-{plain}-{figure}-{date.today()}.json"


def main() -> None:
    """Measure, print, record; ends with the exit code of the first figure that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--random", default="")
    parser.add_argument("--figures", default="")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = sys.argv[1:]
    model = given.pop(0) if given and not given[0].startswith("-") else ""
    options, others = parser.parse_known_args(given)
    for figure in chosen([name for name in options.figures.split(",") if name]):
        out = options.results / record_name(model or options.random or "beholder-mini", figure)
        place = [model] if model else []
        place += ["--random", options.random] if options.random else []
        print(f"== {figure}", file=sys.stderr)
        if code := beholder(["bench", *place, "--figures", figure, "--out", str(out), *others]):
            sys.exit(code)


if __name__ == "__main__":
    main()
