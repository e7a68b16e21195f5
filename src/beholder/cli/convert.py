"""`beholder convert`: the same weights in another layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli import options

if TYPE_CHECKING:
    from beholder.checkpoints.writer import Conversion


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
        str | None,
        typer.Option(
            "--template",
            help="From sat: what it was trained for, chat, vqa or base; left out, as its files say, or chat.",
            show_default=False,
        ),
    ] = None,
    base: options.Base = None,
    allow_loss: Annotated[
        bool,
        typer.Option("--allow-loss", help="Also where it cannot be undone, as when an adapter is merged."),
    ] = False,
    show_map: Annotated[
        bool, typer.Option("--map", help="The map tensor by tensor, not once for all layers.")
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
        done = _convert_sat(folder, target, to, ranks, template, allow_loss)
    else:
        done = rewrite(folder, target, identify_folder(folder), to, base=base, allow_loss=allow_loss)
    if as_json:
        told = {**asdict(done), "target": str(done.target)}
        if not show_map:
            del told["map"]
        print(json.dumps(told, ensure_ascii=False))
        return
    print(f"{done.target}: {done.layout} layout, {done.tensors} tensors in {', '.join(done.files)}")
    print(f"checksum of the parameters, in every layout the same: {done.checksum}")
    lines = by_tensor(done.map) if show_map else by_role(done.map)
    print("\n".join(lines))
    if done.is_identical:
        print("the files are those that were published, byte for byte")
    for line in by_role(dict.fromkeys(done.dropped, ())):
        print(f"not carried over: {line}")


def by_tensor(made: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One line for each tensor that was written."""
    return [f"{' + '.join(made_of)} -> {name}" for name, made_of in made.items()]


def by_role(made: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One line for the same tensors of all layers, with their number; `{n}` stands for the layer's."""
    from beholder.checkpoints.lora import role_of

    alike: dict[tuple[str, ...], list[str]] = {}
    for name, made_of in made.items():
        alike.setdefault((role_of(name), *map(role_of, made_of)), []).append(name)
    lines: list[str] = []
    for (role, *roles), names in alike.items():
        if len(names) == 1:
            lines.append(" -> ".join(filter(None, (" + ".join(made[names[0]]), names[0]))))
        else:
            lines.append(" -> ".join(filter(None, (" + ".join(roles), role))) + f"  ({len(names)} tensors)")
    return lines


def _convert_sat(
    folder: Path, target: Path, to: str, ranks: int, template: str | None, allow_loss: bool
) -> Conversion:
    """From a SAT folder to the published layout, or from any folder to one for `ranks` processes."""
    from beholder.checkpoints.sat import is_sat
    from beholder.core.errors import ConfigError
    from beholder.families import identify_folder, identify_sat

    found = identify_sat(folder) if is_sat(folder) else identify_folder(folder)
    if to == "sat":
        if found.to_sat is None:
            raise ConfigError(f"{found.title} has no SAT layout")
        return found.to_sat(folder, target, ranks=ranks, allow_loss=allow_loss)
    if to != "published" or found.from_sat is None:
        raise ConfigError(f"{folder} is a SAT checkpoint; convert it --to published first, then to {to}")
    return found.from_sat(folder, target, template=template, allow_loss=allow_loss)
