"""`beholder convert`: the same weights in another layout."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from beholder.cli import options


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A folder or hub id.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A new folder.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="published, ours (parameters named as transformers names them), llava-hf, or sat (CogVLM).",
        ),
    ],
    ranks: Annotated[int, typer.Option("--ranks", help="To sat: for how many processes.")] = 1,
    template: Annotated[
        str, typer.Option("--template", help="From sat: what it was trained for, chat, vqa or base.")
    ] = "chat",
    base: options.Base = None,
    allow_loss: Annotated[
        bool,
        typer.Option("--allow-loss", help="Also where it cannot be undone, as when an adapter is merged."),
    ] = False,
    show_map: Annotated[
        bool, typer.Option("--map", help="List every tensor and what it was made of.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Rewrite a checkpoint in another layout, bit for bit. A whole model never has to fit into memory."""
    from beholder.api import checkpoint_folder
    from beholder.checkpoints.sat import is_sat
    from beholder.checkpoints.writer import convert as rewrite
    from beholder.families import identify_folder

    folder = checkpoint_folder(source)
    if to == "sat" or is_sat(folder):
        _convert_sat(folder, target, to, ranks, template, as_json)
        return
    done = rewrite(folder, target, identify_folder(folder), to, base=base, allow_loss=allow_loss)
    if as_json:
        told = {**asdict(done), "target": str(done.target)}
        if not show_map:
            del told["map"]
        print(json.dumps(told, ensure_ascii=False))
        return
    print(f"{done.target}: {done.layout} layout, {done.tensors} tensors in {', '.join(done.files)}")
    print(f"checksum of the parameters, in every layout the same: {done.checksum}")
    for name, made_of in done.map.items() if show_map else ():
        print(f"{' + '.join(made_of)} -> {name}")
    if done.is_identical:
        print("the files are those that were published, byte for byte")
    for name in done.dropped:
        print(f"not carried over: {name}")


def _convert_sat(folder: Path, target: Path, to: str, ranks: int, template: str, as_json: bool) -> None:
    """From a SAT folder to the published layout, or to one for `ranks` processes."""
    from beholder.checkpoints.sat import is_sat
    from beholder.core.errors import ConfigError
    from beholder.families import identify_folder, identify_sat

    if is_sat(folder):
        found = identify_sat(folder)
        if to != "published" or found.from_sat is None:
            raise ConfigError(f"{folder} is a SAT checkpoint; convert it --to published first, then to {to}")
        found.from_sat(folder, target, template=template)
    else:
        found = identify_folder(folder)
        if found.to_sat is None:
            raise ConfigError(f"{found.title} has no SAT layout")
        found.to_sat(folder, target, ranks=ranks)
    print(json.dumps({"target": str(target), "layout": to}) if as_json else f"{target}: {to} layout")
