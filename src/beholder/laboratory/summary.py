"""What a finished run of the laboratory says: means over seeds, and how far the seeds lie apart."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from beholder.core.errors import InputError
from beholder.core.records import RunRecord

SPEED = "speed"  # the subject of records of all subjects' milliseconds to the first token under one seed


@dataclass(frozen=True)
class Point:
    """One subject at one point of its training: each figure's mean, least and most over seeds."""

    subject: str
    title: str
    step: int
    seeds: tuple[int, ...]
    mean: dict[str, float]
    least: dict[str, float]
    most: dict[str, float]


def points(records: Sequence[RunRecord]) -> list[Point]:
    """The points of all subjects, each subject's in the order of its training.

    Raises InputError where a subject's speed is in no record, because the run was stopped before.
    """
    groups: dict[tuple[str, int], list[RunRecord]] = defaultdict(list)
    speeds: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record.subject == SPEED:
            for name, milliseconds in record.values.items():
                speeds[name].append(milliseconds)
        else:
            groups[record.subject, record.settings["step"]].append(record)
    if slow := sorted({name for name, _ in groups} - speeds.keys()):
        raise InputError(f"no record has the speed of {', '.join(slow)}; run `beholder lab` to its end")
    return [
        _point(group, speeds[subject])
        for (subject, _), group in sorted(groups.items(), key=lambda pair: pair[0])
    ]


def _point(group: Sequence[RunRecord], speeds: Sequence[float]) -> Point:
    names = [name for name in group[0].values if all(name in record.values for record in group)]
    columns = {name: [record.values[name] for record in group] for name in names}
    columns["first_token_ms"] = list(speeds)
    return Point(
        subject=group[0].subject,
        title=group[0].settings["title"],
        step=group[0].settings["step"],
        seeds=tuple(sorted(record.settings["seed"] for record in group)),
        mean={name: statistics.fmean(values) for name, values in columns.items()},
        least={name: min(values) for name, values in columns.items()},
        most={name: max(values) for name, values in columns.items()},
    )


def by_rate(found: Sequence[RunRecord]) -> dict[float | None, list[float]]:
    """Right answers, in percent, of runs in two stages by the projector's rate in the first; None: in one."""
    values: dict[float | None, list[float]] = defaultdict(list)
    for record in found:
        values[record.settings["projector_rate"]].append(100 * record.values["overall"])
    return values


def table(found: Sequence[Point]) -> str:
    """The last point of each subject, as text."""
    last = {point.subject: point for point in found}
    head = f"{'idea':38} {'right':>7} {'spread':>13} {'tokens':>7} {'PFLOP':>8} {'ms':>7} {'M params':>9}"
    lines = [head]
    for point in last.values():
        spread = f"{100 * point.least['overall']:.1f}-{100 * point.most['overall']:.1f}"
        lines.append(
            f"{point.title:38} {100 * point.mean['overall']:7.1f} {spread:>13} "
            f"{point.mean['tokens_per_picture']:7.0f} {point.mean['training_petaflops']:8.3f} "
            f"{point.mean['first_token_ms']:7.1f} {point.mean['parameters'] / 1e6:9.2f}"
        )
    return "\n".join(lines)
