"""`beholder models random`: a checkpoint of a published size, to try and to measure without a download."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from beholder.cli import options
from beholder.core.errors import ConfigError


def random(
    name: Annotated[
        str, typer.Argument(help="llava-1.5-7b, 360vl-8b, cogvlm-chat, ...; an error lists them.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Other values for the config.json, as hidden_size=64 or vision_config.image_size=56.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(help="At most so many layers (and 4 in the tower, or as many).", show_default=False),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; left out, as published.", show_default=False),
    ] = None,
    layout: Annotated[
        str, typer.Option(help="published, ours, or llava-hf where there is one.")
    ] = "published",
    seed: Annotated[int, typer.Option(help="Other seeds, other numbers.")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Write a checkpoint of a published size with random weights, shard by shard, and a tokenizer for it."""
    from beholder.families.random_weights import write_random

    made = write_random(
        name, folder, layout=layout, layers=layers, dtype=dtype, changes=_changes(changes or []), seed=seed
    )
    told = asdict(made) | {"folder": str(made.folder)}
    if as_json:
        print(json.dumps(told))
        return
    print(
        f"{made.folder}: {made.name}, {made.layout} layout, {made.tensors} tensors, {made.parameters:,} "
        f"numbers in {made.dtype}, {made.bytes / 2**20:,.1f} MiB in {len(made.files)} files"
    )


def _changes(given: list[str]) -> dict[str, Any]:
    """Values as JSON has them; what is no JSON is text."""
    changes: dict[str, Any] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise ConfigError(f"{one!r} is not of the form key=value")
        try:
            changes[key] = json.loads(value)
        except ValueError:
            changes[key] = value
    return changes
