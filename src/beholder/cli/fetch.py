"""`beholder fetch`: a model and all that it needs, so that it opens without a network afterwards."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from beholder.cli import options
from beholder.core.errors import ConfigError

MIB = 2**20
ONLY = ("model", "tokenizer")


def fetch(
    name: Annotated[str, typer.Argument(help="A hub id (owner/name, owner/name@revision) or a folder.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model of an adapter or a projector that does not name it.", show_default=False
        ),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Take the newest commits and pin those.")] = False,
    only: Annotated[
        str | None,
        typer.Option(
            help="model or tokenizer: only that of NAME, nothing that it needs.", show_default=False
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Fetch a model with its tower, base model and tokenizer, and pin the commits; again resumes."""
    from beholder.core.fetching import lock_path
    from beholder.families.fetching import fetch as fetch_all

    if only not in (None, *ONLY):
        raise ConfigError(f"--only is {only!r}; use one of {', '.join(ONLY)}")
    parts = fetch_all(name, base=base, update=update, only=only)  # type: ignore[arg-type]
    if as_json:
        told = {"parts": [asdict(part) for part in parts], "lock": str(lock_path())}
        print(json.dumps(told, ensure_ascii=False))
        return
    widths = [max(len(part.role) for part in parts), max(len(part.name) for part in parts)]
    for part in parts:
        commit = part.commit[:12] if part.commit else "a folder"
        size = f"{part.files} files, {part.bytes / MIB:,.1f} MiB"
        print(f"{part.role:{widths[0]}}  {part.name:{widths[1]}}  {commit:12}  {size}")
    print(f"pinned in {lock_path()}; works with HF_HUB_OFFLINE=1 now", file=sys.stderr)
