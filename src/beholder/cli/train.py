"""`beholder train RECIPE [key=value …]`: run one training stage; started again, it goes on where it was."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, cast

from typer import Argument, Option

if TYPE_CHECKING:
    from beholder.training.stages import Recipe

NAMED = ("name", "about", "model", "output")  # what the first line tells, or need not


def train(
    recipe: Annotated[str, Argument(help="A packaged recipe (family/stage) or a YAML file.")],
    overrides: Annotated[
        list[str] | None, Argument(help="Settings to change, as key=value; dots reach inside.")
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the whole recipe, what it trains and what it takes; stop.")
    ] = False,
    verbose: Annotated[
        bool, Option("--verbose", help="Print the whole recipe before it runs, not only what differs.")
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
    from beholder.training.processes import rank
    from beholder.training.run import open_start, plan, planned_model, rows_known, run

    told = summary(recipe, resolved)
    shown = f"{told}\n{whole(resolved)}" if verbose or dry_run else told
    if dry_run:
        print(f"{shown}\n{plan(resolved, planned_model(resolved), rows_known(resolved), processes)}")
        return
    start = open_start(resolved)
    if rank() == 0:
        print(f"{shown}\n{plan(resolved, start[0], rows_known(resolved))}")
        print(f"all settings: {resolved.output / 'recipe.json'}")
    with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its last figures
        trained = run(resolved, start, accept_changes=accept_changes)
    if rank() == 0:
        print(trained)


def whole(resolved: Recipe) -> str:
    """Every setting, as a recipe that can be read again."""
    import yaml

    settings = resolved.model_dump(mode="json")
    told = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return told.rstrip()


def summary(given: str, resolved: Recipe) -> str:
    """What starts where, and the settings that somebody chose.

    Of a recipe from the package those that are not as it has them; of a file those that are not the defaults.
    """
    from beholder.training.stages import read_recipe, recipe_names

    if given in recipe_names():
        before = dict(flat(read_recipe(given).model_dump(mode="json")))
        now = resolved.model_dump(mode="json")
    else:
        before, now = {}, resolved.model_dump(mode="json", exclude_defaults=True)
    chosen = [
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in flat(now)
        if key not in NAMED and (key not in before or before[key] != value)
    ]
    lines = [f"recipe {resolved.name}: from {resolved.model} to {resolved.output}"]
    return "\n".join([*lines, *(["set: " + ", ".join(chosen)] if chosen else [])])


def flat(settings: dict[str, Any], inside: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by the names that a command line has for them: `lora.rank`, `data.0.pictures`."""
    for name, value in settings.items():
        key = f"{inside}{name}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(number): one for number, one in enumerate(cast("list[Any]", value))}
        if isinstance(value, dict):
            yield from flat(cast("dict[str, Any]", value), f"{key}.")
        else:
            yield key, value
