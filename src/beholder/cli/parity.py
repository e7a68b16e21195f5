"""`beholder parity`: a certificate that this copy computes what the originals computed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from beholder.families.parity import Stage

CHECK_FAILED = 3
GOLDEN = Path("tests/golden")


def parity(
    family: Annotated[
        list[str] | None,
        typer.Argument(
            help="360vl, llava, internvl, cogvlm; left out, all that are there.", show_default=False
        ),
    ] = None,
    golden: Annotated[Path, typer.Option(help="The folder with the goldens of the families.")] = GOLDEN,
    out: Annotated[
        Path | None, typer.Option("--json", help="Write the certificate to this file.", show_default=False)
    ] = None,
) -> None:
    """Run the goldens through this copy: the largest difference per stage; exit code 3 if one is too big."""
    from beholder.checkpoints.loader import without_progress_bars
    from beholder.families.parity import run

    with without_progress_bars():
        stages = run(golden, family or ())
    for line in _lines(stages):
        print(line)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(certificate(stages), indent=2) + "\n", encoding="utf-8")
    if not all(stage.holds for stage in stages):
        raise typer.Exit(CHECK_FAILED)


def certificate(stages: list[Stage]) -> dict[str, Any]:
    """What was compared, with what it ran on."""
    from beholder.core.records import code_version, describe_machine, package_versions

    told = [asdict(stage) | {"holds": stage.holds} for stage in stages]
    return {
        "holds": all(stage.holds for stage in stages),
        "stages": told,
        "code": code_version(),
        "machine": describe_machine(),
        "packages": package_versions(),
    }


def _lines(stages: list[Stage]) -> list[str]:
    """Aligned columns: family, stage, cases, difference, tolerance, and whether it holds."""
    rows = [
        (
            stage.family,
            stage.stage,
            str(stage.cases),
            f"{stage.difference:.1e}" if stage.difference else "0",
            f"{stage.tolerance:.0e}" if stage.tolerance else "equal",
            "holds" if stage.holds else f"DOES NOT HOLD ({stage.worst})",
        )
        for stage in stages
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ["  ".join([*(f"{row[n]:{widths[n]}}" for n in range(5)), row[5]]).rstrip() for row in rows]
