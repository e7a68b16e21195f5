"""Writes the built-in model's card, src/beholder/mini/README.md, from the checkpoint and from records.

    python docs/model_card.py [--records benchmarks/results] [--check]

Figures come from records of exactly the weights that lie in the package; there is no other way to put a
number into the card. `--check` writes nothing and fails if the card would change.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from beholder import families
from beholder.checkpoints.inspect import examine
from beholder.core.records import RunRecord, hash_weights
from beholder.evaluation.cards import read_figures
from beholder.evaluation.intervals import Interval
from beholder.mini import FOLDER

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "results"
CARD = ROOT / "src" / "beholder" / "mini" / "README.md"
CURVE_POINTS = 8
# Figure, what it is, and the share that was to be reached.
FIGURES = (
    ("yes_no", "yes or no", 0.97),
    ("exists", "is there ...", None),
    ("colour", "what colour", 0.97),
    ("shape", "what shape", 0.97),
    ("count", "how many", 0.92),
    ("relation", "left, right, above, below", 0.92),
    ("read", "read the text, letter by letter", 0.85),
    ("read_any_case", "read the text, small and capital letters alike", None),
    ("where", "where is ..., box with IoU of 0.5 or more", 0.85),
    ("where_iou", "where is ..., mean IoU", None),
    ("size", "small, medium or large", None),
    ("overall", "all questions", None),
)
LANGUAGE_GAP = 0.03

HEAD = """<!-- Made by docs/model_card.py from benchmarks/results. Do not edit. -->

# beholder-mini

A small vision-language model of the 360VL architecture: five views of a picture go through a vision tower,
two C-Abstractors turn them into {slots_per_picture} slots, and a small Llama answers. It comes with the
package, so that everything works without a network and every feature has a real model to run on. It was
trained by Beholder's own training code, from nothing, on pictures that Beholder draws: coloured shapes and
lettering. It answers questions about such pictures in English and Chinese, and it is of no use for
photographs.
"""

ABOUT = """## What it can be asked

Is there ...; how many ...; what colour; what shape; left of, right of, above or below what; what is written
there (one to six characters); where is ... (answered as a box, `[[x1,y1,x2,y2]]` in thousandths of the
picture's sides); describe the picture. Twelve colours: red, green, blue, yellow, orange, purple, pink, brown,
black, white, grey, cyan. Nine shapes: circle, square, triangle, star, heart, cross, ring, moon, arrow. Up to
six things on plain, graded, textured or noisy backgrounds.
"""

LIMITS = """## Limits

- The targets above are missed because training ended there: every further hour on two cores still made it
  better, as `docs/log.md` tells with the figures on the way.
- It knows the drawn worlds and nothing else: no photographs, no documents, no facts, no reasoning.
- Other things than the shapes and colours above are called by the nearest name that it has.
- It reads Latin letters and digits in one line; a text of more than six characters, or of letters under about
  a twentieth of the picture's height, is beyond it.
- Pictures are stretched to a square, so very long or very tall ones lose detail.
- It says what is likely, never that it does not know.
"""

LICENCE = """## Licence

Apache-2.0, as the package. Every picture and sentence that it was trained on was made by the code in this
folder; no other data, weights or model took part. Some lettering was drawn in freely licensed typefaces,
which are not part of the package.
"""

AGAIN = """## Make it again

`docs/training-the-mini.md` has the commands from an empty folder to these weights, a recipe for each stage;
the first three stages of the table are one recipe there, which has what they taught. Then

    beholder eval worlds worlds-redrawn
    python docs/training_record.py runs/mini/tower ... runs/mini/instruct
    python docs/model_card.py
"""


def make_card(records: Path, checkpoint: Path) -> str:
    """The whole card."""
    found = {path: RunRecord.read(path) for path in sorted(records.glob("*.json"))}
    weights = hash_weights(checkpoint)
    ours = [record for record in found.values() if record.weights == weights]
    worlds = only(ours, "worlds v1")
    if worlds is None:
        raise SystemExit(
            f"no record of 'worlds v1' for the weights {weights[:12]} in {records}: "
            "run `beholder eval worlds` and copy its score.json there"
        )
    report = examine(checkpoint, families.identify_folder(checkpoint))
    size = {"parameters": f"{report.parameters:,}", "megabytes": f"{report.bytes / 1e6:.1f}"}
    parts = [
        HEAD.format(**report.geometry),
        geometry(report.geometry | size, weights),
        ABOUT,
        figures_section("## Figures", worlds, FIGURES_TEXT),
    ]
    if redrawn := only(ours, "worlds-redrawn v1"):
        parts.append(figures_section("## Figures on pictures drawn by other software", redrawn, REDRAWN_TEXT))
    if stages := {path: record for path, record in found.items() if path.name.startswith("mini-train-")}:
        parts += [training(list(stages.values())), learning_curve(stages)]
    if speed := only(ours, "mini speed"):
        parts.append(speed_section(speed))
    return "\n".join([*parts, LIMITS, LICENCE, AGAIN])


def only(records: Iterable[RunRecord], measure: str) -> RunRecord | None:
    """The record of a measure; two of them would leave open which one is told."""
    found = [record for record in records if record.measure == measure]
    if len(found) > 1:
        raise SystemExit(f"there are {len(found)} records of {measure!r} for the same weights; keep one")
    return found[0] if found else None


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def geometry(facts: dict[str, object], weights: str) -> str:
    """What the checkpoint is made of."""
    rows = [(name.replace("_", " "), value) for name, value in facts.items() if value is not None]
    return "## Geometry\n\n" + table(("part", "value"), [*rows, ("weights (SHA-256)", f"`{weights[:16]}`")])


FIGURES_TEXT = """{scenes} unseen scenes of the test split, one question of each kind that a scene allows, in
both languages: {samples:,} questions. The answer must be the expected one; case and punctuation at its end do
not count, and in reading every letter does. In brackets 95 % intervals (Wilson's, widened by what the
questions about one scene share).
"""
REDRAWN_TEXT = """The model never learned from pictures like these: {scenes} scenes drawn by matplotlib with
its own curves, edges, hatches and typefaces; {samples:,} questions, asked and counted as above.
"""


def figures_section(title: str, record: RunRecord, text: str) -> str:
    """One table of figures beside what was to be reached."""
    figures = read_figures(record.values)
    rows = [row(figures, *figure) for figure in FIGURES if figure[0] in figures]
    head = ("question", "target", "both", "English", "Chinese", "English less Chinese, points", "reached")
    text = text.format(samples=record.samples, scenes=f"{record.settings['pictures']:,}")
    return f"{title}\n\n{text}\n{table(head, rows)}\n{provenance(record)}"


def row(figures: dict[str, Interval], name: str, meaning: str, target: float | None) -> tuple[str, ...]:
    """One figure: reached if it is at least the target and Chinese is within three points of English."""
    value, gap = figures[name], figures.get(f"{name}.en-zh")
    reached = ""
    if target is not None:
        missed = [] if value.value >= target else ["figure"]
        missed += [] if gap is None or gap.value <= LANGUAGE_GAP else ["Chinese"]
        reached = "no: " + ", ".join(missed) if missed else "yes"
    languages = (percent(figures.get(f"{name}.{language}")) for language in ("en", "zh"))
    points = f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]" if gap else ""
    return meaning, f"{100 * target:.0f}" if target else "", percent(value), *languages, points, reached


def percent(figure: Interval | None) -> str:
    """Percent with the interval."""
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]" if figure else ""


def provenance(record: RunRecord) -> str:
    """Where a number comes from."""
    told = {name: record.packages.get(name) for name in ("torch", "transformers")}
    told |= {name: record.settings.get(name) for name in ("dtype", "batch", "threads", "data")}
    facts = ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)
    code = record.code if record.code.endswith("+dirty") else record.code[:12]
    return f"Measured at {code} with {facts}, on {record.machine}, in {record.seconds:.0f} s.\n"


TRAINING_TEXT = """From random weights, {hours} hours in all on {machine}. Scenes are numbers of the train
split under seed {seeds}; a scene of one split is never one of another. Optimiser {optimizer}, precision
{precision}, seed {seed}; the recipes are in `beholder/training/recipes/mini`.
"""


def training(stages: Sequence[RunRecord]) -> str:
    """The stages in order, with their data, settings and hours."""
    rows = []
    for record in stages:
        settings, values = record.settings, record.values
        scenes = "; ".join(
            f"{d['start']:,} to {d['start'] + d['pictures_drawn'] - 1:,}" for d in settings["data"]
        )
        rows.append(
            (
                f"`{settings['name']}`",
                ", ".join(settings["trainable"]),
                scenes,
                f"{values['steps']:,.0f}",
                settings["global_batch"],
                f"{values['samples_seen']:,.0f}",
                f"{settings['learning_rate']:g}, {settings['schedule']}",
                f"{record.seconds / 3600:.2f}",
            )
        )
    seeds = sorted({d["seed"] for record in stages for d in record.settings["data"]})
    hours, last = sum(record.seconds for record in stages) / 3600, stages[-1]
    text = TRAINING_TEXT.format(
        hours=f"{hours:.1f}", machine=last.machine, seeds=", ".join(map(str, seeds)), **last.settings
    )
    head = ("recipe", "trained", "scenes", "steps", "batch", "samples seen", "learning rate", "hours")
    return f"## Training\n\n{text}\n{table(head, rows)}"


def learning_curve(stages: dict[Path, RunRecord]) -> str:
    """The training loss at some points of each stage, from the log that lies beside its record."""
    rows = []
    for path, record in stages.items():
        stage = record.settings["name"].rpartition("/")[2]
        lines = path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
        points = [json.loads(line) for line in lines]
        for place in spread(len(points), CURVE_POINTS):
            point = points[place]
            seen = point["step"] * record.settings["global_batch"]
            rows.append((stage, f"{point['step']:,}", f"{seen:,}", f"{point['loss']:.3f}"))
    return "## Learning curve\n\n" + table(("stage", "step", "samples seen", "loss"), rows)


def spread(length: int, wanted: int) -> list[int]:
    """At most `wanted` places from first to last, evenly."""
    if length <= wanted:
        return list(range(length))
    return [round(place * (length - 1) / (wanted - 1)) for place in range(wanted)]


def speed_section(record: RunRecord) -> str:
    """How quickly it answers, as measured by benchmarks/mini_speed.py."""
    names = {"first_token_ms": "milliseconds to the first token", "tokens_per_s": "tokens per second"}
    rows = [
        (meaning, *(f"{record.values[f'{side}_{name}']:.1f}" for side in ("beholder", "transformers")))
        for name, meaning in names.items()
    ]
    return f"## Speed\n\n{table(('', 'Beholder', 'transformers generate'), rows)}\n{provenance(record)}"


def main() -> None:
    """Write the card, or tell that it is stale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the card is not current")
    options = parser.parse_args()
    card = make_card(options.records, FOLDER)
    if not options.check:
        CARD.write_text(card, encoding="utf-8")
        sys.stdout.write(f"{CARD}\n")
    elif not CARD.exists() or CARD.read_text(encoding="utf-8") != card:
        raise SystemExit(f"{CARD} is not current: run python docs/model_card.py")


if __name__ == "__main__":
    main()
