"""`beholder train RECIPE [key=value …]`: run one training stage; started again, it goes on where it was."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

from typer import Argument, Option


def train(
    recipe: Annotated[str, Argument(help="A packaged recipe (family/stage) or a YAML file.")],
    overrides: Annotated[
        list[str] | None, Argument(help="Settings to change, as key=value; dots reach inside.")
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the resolved recipe, what it trains and takes; stop.")
    ] = False,
    accept_changes: Annotated[
        bool, Option("--accept-changes", help="Go on with a run whose recipe has changed since it began.")
    ] = False,
    processes: Annotated[
        int | None, Option(min=1, help="For a dry run: how many processes the plan is for.")
    ] = None,
) -> None:
    """Train a stage of a model from a recipe."""
    from beholder.training.stages import read_recipe

    resolved = read_recipe(recipe, overrides or [])
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from beholder.training.run import open_start, plan, planned_model, rows_known, run

    if dry_run:
        print(plan(resolved, planned_model(resolved), rows_known(resolved), processes))
        return
    start = open_start(resolved)
    print(plan(resolved, start[0], rows_known(resolved)))
    print(run(resolved, start, accept_changes=accept_changes))
