"""Figures as score cards carry them, and as they are printed."""

from __future__ import annotations

from collections.abc import Mapping

from beholder.core.errors import InputError
from beholder.core.records import RunRecord
from beholder.evaluation.intervals import Interval


def flatten(figures: Mapping[str, Interval]) -> dict[str, float]:
    """Figures as records hold them: `name`, and `name.low`, `name.high`, `name.samples` beside it."""
    values: dict[str, float] = {}
    for name, figure in figures.items():
        values |= {name: figure.value, f"{name}.low": figure.low, f"{name}.high": figure.high}
        values[f"{name}.samples"] = figure.samples
    return values


def read_figures(values: Mapping[str, float]) -> dict[str, Interval]:
    """The way back from `flatten`."""
    names = [name for name in values if f"{name}.samples" in values]
    if len(names) * 4 != len(values):
        raise InputError("these values are not figures with intervals; the record is none of `beholder eval`")
    return {
        name: Interval(
            values[name], values[f"{name}.low"], values[f"{name}.high"], int(values[name + ".samples"])
        )
        for name in names
    }


def factor(record: RunRecord, name: str) -> float:
    """100 for shares, which are printed in percent; 1 for figures that are points."""
    points = record.settings.get("points", ())
    return 1.0 if "*" in points or name.partition(".")[0] in points else 100.0


def table(record: RunRecord) -> str:
    """The figures with their intervals: one line for each, its parts (`figure.part`) beside it."""
    figures = read_figures(record.values)
    if not figures:
        return f"{record.measure}: {record.subject}, {record.samples} rows answered, no score here"
    names = list(dict.fromkeys(name.partition(".")[0] for name in figures))
    parts = list(dict.fromkeys(name.partition(".")[2] for name in figures))  # "" is the whole figure
    lines = [["", *(part or "all" for part in parts)]]
    for name in names:
        cells = (figures.get(f"{name}.{part}" if part else name) for part in parts)
        by = factor(record, name)
        lines.append(
            [name, *(f"{by * f.value:.1f} [{by * f.low:.1f}, {by * f.high:.1f}]" if f else "" for f in cells)]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    unit = "points" if "*" in record.settings.get("points", ()) else "percent"
    head = f"{record.measure}: {record.subject}, {record.samples} rows; {unit} with 95 % intervals"
    return "\n".join([head, *rows])
