"""Makes laboratory.md and its plots from the records of `beholder lab`.

    python docs/laboratory_page.py [--records benchmarks/results/laboratory]

Copy the records there first (`runs/lab/records`); draw_stages.py leaves its own where they belong. Words
stand in laboratory.txt, where {table}, {kinds}, {plots}, {provenance} and {stages} mark what is made.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beholder.core.records import RunRecord
from beholder.laboratory.experiment import read_records
from beholder.laboratory.summary import SPEED, Point, by_rate, points

HERE = Path(__file__).resolve().parent
RECORDS = HERE.parent / "benchmarks" / "results" / "laboratory"
STAGES = HERE.parent / "benchmarks" / "results" / "stages"
MADE = "<!-- Made by docs/laboratory_page.py. Do not edit. -->\n\n"
NONE = "There are no records yet: `beholder lab` has not been run to its end on this code."
NONE_OF_STAGES = "There are no records yet: `draw_stages.py run` has not come to its end on this code."
PLOTS = (
    ("training_petaflops", "training, petaflops", "accuracy against compute"),
    ("tokens_per_picture", "tokens that a picture takes", "accuracy against tokens per picture"),
    ("first_token_ms", "milliseconds to the first token", "accuracy against speed"),
)


def spread(point: Point, name: str, scale: float = 1.0, digits: int = 1) -> str:
    """A mean with the least and the most over seeds."""
    mean, least, most = (scale * side[name] for side in (point.mean, point.least, point.most))
    return f"{mean:.{digits}f} [{least:.{digits}f}, {most:.{digits}f}]"


def last_points(found: Sequence[Point]) -> list[Point]:
    """Each subject at the end of its training."""
    return list({point.subject: point for point in found}.values())


def table(found: Sequence[Point]) -> str:
    """One row for each subject."""
    lines = [
        "| idea | right, % | tokens per picture | training, PFLOP | first token, ms | parameters, M |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for point in last_points(found):
        lines.append(
            f"| {point.title} | {spread(point, 'overall', 100)} | {point.mean['tokens_per_picture']:.0f} | "
            f"{point.mean['training_petaflops']:.2f} | {spread(point, 'first_token_ms')} | "
            f"{point.mean['parameters'] / 1e6:.2f} |"
        )
    return "\n".join(lines)


def kinds(found: Sequence[Point]) -> str:
    """The kinds of questions, one column for each subject."""
    last = last_points(found)
    known = ("yes_no", "exists", "count", "colour", "shape", "relation", "where", "read", "size")
    lines = ["| question | " + " | ".join(p.title for p in last) + " |", "|---|" + "--:|" * len(last)]
    for kind in known:
        if all(kind in point.mean for point in last):
            told = " | ".join(spread(point, kind, 100) for point in last)
            lines.append(f"| {kind.replace('_', ' or ')} | {told} |")
    return "\n".join(lines)


def draw(found: Sequence[Point], folder: Path) -> str:
    """The plots, and the lines of the page that show them."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    by_subject: dict[str, list[Point]] = defaultdict(list)
    for point in found:
        by_subject[point.subject].append(point)
    lines: list[str] = []
    for name, label, title in PLOTS:
        pyplot.rcParams["svg.hashsalt"] = name
        figure, axes = pyplot.subplots(figsize=(6, 3.6))
        for ours in by_subject.values():
            curve = ours if name == "training_petaflops" else ours[-1:]
            _errorbars(axes, curve, name)
        axes.set_xlabel(label)
        axes.set_ylabel("right answers, %")
        axes.legend(fontsize=7)
        figure.tight_layout()
        target = folder / f"laboratory-{name.replace('_', '-')}.svg"
        figure.savefig(target, metadata={"Date": None})
        pyplot.close(figure)
        lines.append(f"![{title}](pictures/{target.name})")
    return "\n\n".join(lines)


def _errorbars(axes: Any, curve: Sequence[Point], name: str) -> None:
    """A subject's points, with the range of its seeds."""
    middle = [100 * point.mean["overall"] for point in curve]
    ends = [
        [100 * (point.mean["overall"] - point.least["overall"]) for point in curve],
        [100 * (point.most["overall"] - point.mean["overall"]) for point in curve],
    ]
    places = [point.mean[name] for point in curve]
    axes.errorbar(places, middle, yerr=ends, marker="o", capsize=3, label=curve[0].title)


def provenance(records: Sequence[RunRecord]) -> str:
    """What the numbers hang on."""
    first = next(record for record in records if record.subject != SPEED)
    threads = {record.settings["threads"] for record in records if record.subject == SPEED}
    seeds = sorted({record.settings["seed"] for record in records})
    told = first.settings
    return (
        f"Seeds {', '.join(map(str, seeds))}. The language model had {told['language_steps']:,} steps of "
        f"reading texts, a tower {told['tower_steps']:,} of its warm-up with {told['sheets']:,} sheets, "
        f"each subject {told['align_steps']:,} of the first stage with {told['batch'] // 4} rows each, "
        f"{told['tune_steps']:,} of the second with {told['batch']}, of {told['scenes']:,} scenes; scored on "
        f"{told['test_scenes']:,} others, {first.samples:,} "
        f"questions, times with {' or '.join(map(str, sorted(threads)))} thread(s). "
        f"Measured at {first.code} on {first.machine} with torch {first.packages['torch']}."
    )


def stages(records: Sequence[RunRecord], pictures: Path) -> str:
    """Two stages at each rate of the projector, and one stage, of as many rows."""
    if not records:
        return NONE_OF_STAGES
    values, told = by_rate(records), records[0].settings
    lines = ["| stages | projector's rate in the first | right, % |", "|---|--:|--:|"]
    for rate in sorted(values, key=lambda rate: rate or 0.0):
        found = values[rate]
        kind, at = ("one", "") if rate is None else ("two", f"{rate:g}")
        middle = statistics.fmean(found)
        lines.append(f"| {kind} | {at} | {middle:.1f} [{min(found):.1f}, {max(found):.1f}] |")
    seeds = sorted({record.settings["seed"] for record in records})
    lines += ["", f"![two stages and one]({pictures.name}/stages.svg)", ""]
    lines.append(
        f"Seeds {', '.join(map(str, seeds))}; {told['align_steps']:,} steps of the first stage and "
        f"{told['tune_steps']:,} of the second, or as many of one; {records[0].samples:,} questions about "
        f"{told['test_scenes']:,} unseen scenes. Measured at {records[0].code} on {records[0].machine}."
    )
    return "\n".join(lines)


def page(records: Sequence[RunRecord], of_stages: Sequence[RunRecord], words: str, pictures: Path) -> str:
    """The whole page."""
    made = dict.fromkeys(("kinds", "plots", "provenance"), "") | {"table": NONE}
    if records:
        found = points(records)
        made = {"table": table(found), "kinds": kinds(found), "plots": draw(found, pictures)}
        made["provenance"] = provenance(records)
    made["stages"] = stages(of_stages, pictures)
    for name, text in made.items():
        words = words.replace(f"{{{name}}}", text)
    return MADE + re.sub("\n{3,}", "\n\n", words).rstrip() + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    records = read_records(options.records) if options.records.is_dir() else []
    words = (HERE / "laboratory.txt").read_text("utf-8")
    of_stages = [RunRecord.read(path) for path in sorted(STAGES.glob("*.json"))]
    (HERE / "laboratory.md").write_text(page(records, of_stages, words, HERE / "pictures"), "utf-8")
    sys.stdout.write(f"laboratory.md: {len(records)} records\n")


if __name__ == "__main__":
    main()
