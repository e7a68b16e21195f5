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
        str, typer.Option("--to", help="published, or ours (parameters named as transformers names them).")
    ],
    as_json: options.AsJson = False,
) -> None:
    """Rewrite a checkpoint in another layout, bit for bit. A whole model never has to fit into memory."""
    from beholder.api import checkpoint_folder
    from beholder.checkpoints.writer import convert as rewrite
    from beholder.families import identify_folder

    folder = checkpoint_folder(source)
    done = rewrite(folder, target, identify_folder(folder), to)
    if as_json:
        print(json.dumps({**asdict(done), "target": str(done.target)}, ensure_ascii=False))
        return
    print(f"{done.target}: {done.layout} layout, {done.tensors} tensors in {', '.join(done.files)}")
    if done.is_identical:
        print("the files are those that were published, byte for byte")
    for name in done.dropped:
        print(f"not carried over: {name}")
