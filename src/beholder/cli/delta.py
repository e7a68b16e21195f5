"""`beholder delta apply` and `delta make`: weights published as differences from a base model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli import options

if TYPE_CHECKING:
    from beholder.checkpoints.delta import Step

Base = Annotated[str, typer.Option("--base", help="The model that they are differences from.")]
Target = Annotated[Path, typer.Argument(metavar="DST", help="A new folder.")]


def apply(
    delta: Annotated[str, typer.Argument(metavar="DELTA", help="A folder or hub id of differences.")],
    target: Target,
    base: Base,
    as_json: options.AsJson = False,
) -> None:
    """Add differences to their base model: the whole model, in the published layout."""
    _combine("apply", delta, target, base, as_json)


def make(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder or hub id of a whole model.")],
    target: Target,
    base: Base,
    as_json: options.AsJson = False,
) -> None:
    """Take the base model off a whole model: what is left may be published."""
    _combine("make", model, target, base, as_json)


def _combine(step: Step, source: str, target: Path, base: str, as_json: bool) -> None:
    from beholder.api import checkpoint_folder
    from beholder.checkpoints.delta import combine
    from beholder.core.errors import ConfigError
    from beholder.families import identify_folder

    folder = checkpoint_folder(source)
    family = identify_folder(folder)
    if not family.beside_base:
        raise ConfigError(f"{family.title} is not published as differences from a base model")
    done = combine(
        step, folder, checkpoint_folder(base), target, own=family.beside_base, growing=family.growing
    )
    if as_json:
        print(json.dumps({**asdict(done), "target": str(done.target)}))
        return
    print(f"{done.target}: {done.tensors} tensors with those of the base, {len(done.own)} as they are")
    for name in done.grown:
        print(f"longer than the base's: {name}")
