"""`beholder inspect`: what a checkpoint is, from its configuration and headers; no weight is read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
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
    from beholder.checkpoints.adapter_folder import is_adapter_folder
    from beholder.checkpoints.inspect import examine, examine_ranks
    from beholder.checkpoints.sat import is_sat
    from beholder.families import identify_folder, identify_sat

    folder = checkpoint_folder(path, download=False)
    if is_adapter_folder(folder):
        _show_adapter(folder, base, as_json)
        return
    if is_sat(folder):
        report = examine_ranks(folder, identify_sat(folder))
    else:
        report = examine(folder, identify_folder(folder), base=base)
    print(json.dumps(asdict(report), ensure_ascii=False) if as_json else "\n".join(_lines(report)))
    if not report.is_whole:
        raise typer.Exit(CHECK_FAILED)


def _show_adapter(folder: Path, base: str | None, as_json: bool) -> None:
    """Print what an adapter of `beholder train` is; exit code 3 if it would not open."""
    told = describe_adapter(folder, base)
    problems = told["problems"]
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
    else:
        facts = {name: value for name, value in told.items() if name not in ("problems", "bytes")}
        facts |= {"parameters": f"{told['parameters']:,}", "size": f"{told['bytes'] / 2**20:,.1f} MiB"}
        width = max(map(len, facts))
        lines = [f"{name.replace('_', ' '):{width}}  {value}" for name, value in facts.items()]
        print("\n".join([*lines, "", *([f"problem: {one}" for one in problems] or ["whole: yes"])]))
    if problems:
        raise typer.Exit(CHECK_FAILED)


def describe_adapter(folder: Path, base: str | None = None) -> dict[str, Any]:
    """Which model an adapter of `beholder train` changes, how large it is, what keeps it from opening."""
    from beholder.api import checkpoint_folder
    from beholder.checkpoints.adapter_folder import BESIDE, WEIGHTS, read_story
    from beholder.checkpoints.doctor import diagnose
    from beholder.checkpoints.reader import read_file
    from beholder.families import identify_folder

    found = diagnose(folder, identify_folder, base=base, find=checkpoint_folder)
    files = [name for name in (WEIGHTS, BESIDE) if (folder / name).is_file()] if found.is_healthy else []
    headers = [header for name in files for header in read_file(folder / name).values()]
    story = read_story(folder)
    recipe: dict[str, Any] = story.get("recipe") or {}
    lora: dict[str, Any] = recipe.get("lora") or {}
    return {
        "path": str(folder),
        "adapter_of": base or story.get("base") or "unknown",
        "trained_by": recipe.get("name", "unknown"),
        "rank": lora.get("rank", "unknown"),
        "parameters": sum(header.size for header in headers),
        "tensors": len(headers),
        "bytes": sum(header.bytes for header in headers),
        "problems": [finding.problem for finding in found.findings],
    }


def _lines(report: Report) -> list[str]:
    """The report for a person: names on the left, values on the right, then what is wrong."""
    facts: dict[str, Any] = {
        "path": report.path,
        "family": f"{report.title} ({report.family})",
        "layout": report.layout,
        "parameters": f"{report.parameters:,}",
        "tensors": report.tensors,
        "stored as": ", ".join(report.dtypes) or "nothing",
        **({"quantized": report.quantization} if report.quantization else {}),
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
