"""`beholder doctor`: what is wrong with a checkpoint, and what to do about it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from beholder.cli import options

CHECK_FAILED = 3


def doctor(
    path: options.Checkpoint = None,
    base: options.Base = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read all numbers too: NaN, zeros, checksums.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Tell what is wrong with a checkpoint and what to do: exit code 3 unless `load` would open it whole."""
    from beholder.api import checkpoint_folder
    from beholder.checkpoints.adapter_symptoms import holds_adapter_alone
    from beholder.checkpoints.doctor import diagnose
    from beholder.core.troubles import trouble_of
    from beholder.families import identify_folder

    folder = checkpoint_folder(path, download=False)
    found = diagnose(folder, identify_folder, base=base, deep=deep, find=checkpoint_folder)
    if as_json:
        told: dict[str, Any] = {**asdict(found), "is_healthy": found.is_healthy}
        for finding in told["findings"]:
            trouble = trouble_of(finding["problem"])
            finding["code"] = trouble.code if trouble else None
        print(json.dumps(told, ensure_ascii=False))
    else:
        kind = (
            f"{found.title}, {found.layout} layout, {found.tensors} tensors"
            if found.layout
            else "an adapter"
            if holds_adapter_alone(folder)
            else "not identified"
        )
        print(f"{found.path}: {found.title if found.title and not found.layout else kind}")
        for finding in found.findings:
            print(f"problem: {finding.problem}\n     do: {finding.remedy}")
            if trouble := trouble_of(finding.problem):
                print(f"    see: {trouble.told}")
        for note in found.notes:
            print(f"note: {note}")
        if found.is_healthy:
            print("healthy" if deep else "healthy (--deep reads the numbers too)")
    if not found.is_healthy:
        raise typer.Exit(CHECK_FAILED)
