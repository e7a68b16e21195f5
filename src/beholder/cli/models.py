"""`beholder models`: what can be opened by name."""

from __future__ import annotations

import json

from beholder.cli import options


def models(as_json: options.AsJson = False) -> None:
    """List the models that are known by name, and which of them are on this machine."""
    from beholder.api import BUILT_IN
    from beholder.families import FAMILIES, family

    rows = [{"name": BUILT_IN, "family": "qh360vl", "where": "in the package"}]
    for name in FAMILIES:
        rows += [{"name": hub, "family": name, "where": _where(hub)} for hub in family(name).hub_ids]
    if as_json:
        print(json.dumps(rows))
        return
    widths = [max(len(row[column]) for row in rows) for column in ("name", "family")]
    for row in rows:
        print(f"{row['name']:{widths[0]}}  {row['family']:{widths[1]}}  {row['where']}")


def _where(hub_id: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    return (
        "in the download cache"
        if isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
        else "on the hub"
    )
