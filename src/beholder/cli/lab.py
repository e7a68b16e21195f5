"""`beholder lab`: train the four architectures alike and score them on the same unseen scenes."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def lab(
    out: Annotated[
        Path, Argument(help="Holds pictures, stages and records; a stopped run goes on from here.")
    ] = Path("runs/lab"),
    budget: Annotated[
        str, Option(help="How much each architecture gets: full (hours on two cores), small or tiny.")
    ] = "full",
    seeds: Annotated[list[int] | None, Option(help="Give it several times.", show_default="0 1 2")] = None,
    only: Annotated[
        list[str] | None,
        Option(
            help="mlp, large-tower, abstractors or experts; give it several times.", show_default="all four"
        ),
    ] = None,
    fonts: Annotated[
        Path | None, Option(help="A folder of font files for the lettering.", show_default=False)
    ] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Compare four ways to bring pictures to a language model: same tower, language model, data, budget."""
    from beholder.core.errors import ConfigError
    from beholder.laboratory.budget import BUDGETS
    from beholder.laboratory.subjects import SUBJECTS

    if budget not in BUDGETS:
        raise ConfigError(f"there is no budget {budget!r}; known: {', '.join(BUDGETS)}")
    if unknown := [name for name in only or () if name not in SUBJECTS]:
        raise ConfigError(f"there is no architecture {unknown[0]!r}; known: {', '.join(SUBJECTS)}")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    from beholder.laboratory.experiment import run_laboratory
    from beholder.laboratory.summary import points, table

    with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its figures
        records = run_laboratory(out, BUDGETS[budget], seeds or [0, 1, 2], only or list(SUBJECTS), fonts)
    found = points(records)
    print(json.dumps([asdict(point) for point in found]) if as_json else table(found))
