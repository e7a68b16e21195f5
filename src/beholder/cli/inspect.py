"""`beholder inspect`: what a checkpoint is, from its configuration and headers; no weight is read."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from beholder.cli import options

if TYPE_CHECKING:
    from beholder.checkpoints.inspect import Report

CHECK_FAILED = 3
SHOWN = 10


def inspect(
    path: options.Checkpoint = None,
    base: options.Base = None,
    as_json: options.AsJson = False,
) -> None:
    """Tell what a checkpoint is and whether it is whole: exit code 3 if tensors are missing or do not fit."""
    from beholder.api import checkpoint_folder
    from beholder.checkpoints.inspect import examine, examine_ranks
    from beholder.checkpoints.sat import is_sat
    from beholder.families import identify_folder, identify_sat

    folder = checkpoint_folder(path, download=False)
    if is_sat(folder):
        report = examine_ranks(folder, identify_sat(folder))
    else:
        report = examine(folder, identify_folder(folder), base=base)
    print(json.dumps(asdict(report), ensure_ascii=False) if as_json else "\n".join(_lines(report)))
    if not report.is_whole:
        raise typer.Exit(CHECK_FAILED)


def _lines(report: Report) -> list[str]:
    """The report for a person: names on the left, values on the right, then what is wrong."""
    facts: dict[str, Any] = {
        "path": report.path,
        "family": f"{report.title} ({report.family})",
        "layout": report.layout,
        "parameters": f"{report.parameters:,}",
        "tensors": report.tensors,
        "stored as": ", ".join(report.dtypes) or "nothing",
        "size": f"{report.bytes / 2**20:,.1f} MiB",
        "weight files": len(report.files),
        **{name.replace("_", " "): value for name, value in report.geometry.items()},
    }
    width = max(map(len, facts))
    lines = [f"{name:{width}}  {value}" for name, value in facts.items()]
    lines += (
        [""] + [f"problem: {problem}" for problem in report.problems]
        if report.problems
        else ["", "whole: yes"]
    )
    kinds = (
        ("missing", report.missing),
        ("does not fit", report.mismatched),
        ("unknown", report.unknown),
        ("not used", report.dropped),
        ("from the base model", report.elsewhere),
    )
    for kind, names in kinds:
        lines += [f"{kind}: {name}" for name in names[:SHOWN]]
        if len(names) > SHOWN:
            lines.append(f"{kind}: ... and {len(names) - SHOWN} more (--json lists all)")
    return lines
