"""Makes captcha.md and its plot from the records of a captcha run.

    python docs/captcha_page.py collect RUNS        records of RUNS/{tower,base,...,tune} and of their scores
    python docs/captcha_page.py                     the page from benchmarks/results/captcha

`collect` takes the stages' logs and the score cards that captcha.txt's commands leave in RUNS/eval.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from beholder.core.records import RunRecord, capture, hash_weights

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "benchmarks" / "results" / "captcha"
MADE = "<!-- Made by docs/captcha_page.py. Do not edit. -->\n\n"
NONE = "There are no records yet: the run has not come to its end."
STAGES = ("tower", "base", "crowded", "look", "read", "lora", "tune")
MODELS = {
    "read": "before captchas",
    "lora": "adapters on the experts, beside the model",
    "lora-merged": "the same, merged",
    "tune": "more parameters, beside the model",
    "tune-merged": "the same, merged",
}
TESTS = {"test": "test split", "other": "drawn by other code", "hardest": "by hand `heavy`"}
TARGETS = {"lora": 95, "lora-merged": 95, "tune": 98, "tune-merged": 98}


def collect(runs: Path) -> None:
    """Copy score cards and make a record and a curve of each stage."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        for test in TESTS:
            card = runs / "eval" / f"{name}-{test}" / "captcha" / "score.json"
            if card.is_file():
                shutil.copy(card, RESULTS / f"score-{name}-{test}.json")
    for stage in STAGES:
        log = runs / stage / "log.jsonl"
        if not log.is_file():
            continue
        points = {point["step"]: point for point in map(json.loads, log.read_text("utf-8").splitlines())}
        curve = [points[step] for step in sorted(points)]
        recipe = json.loads((runs / stage / "recipe.json").read_text("utf-8"))
        kept = {key: value for key, value in recipe.items() if key not in ("output", "model", "data")}
        final = runs / stage / ("model" if recipe["lora"] is None else "adapter")
        steps, last = curve[-1]["step"], curve[-1]
        seen = steps * recipe["global_batch"]
        capture(
            subject="beholder-captcha",
            measure=f"train captcha/{stage}",
            values={"steps": steps, "samples_seen": seen, "last_loss": last["loss"]},
            samples=seen,
            settings=kept,
            seconds=round(seen / last["samples_per_second"], 1),  # a log tells the mean pace since its start
            weights=hash_weights(final) if final.is_dir() else "",
        ).write(RESULTS / f"train-{stage}.json")
        lines = "".join(json.dumps({"step": p["step"], "loss": p["loss"]}) + "\n" for p in curve)
        (RESULTS / f"train-{stage}.jsonl").write_text(lines, "utf-8")


def scores() -> str:
    """Accuracy of each model on each test set."""
    lines = ["| model | aim | " + " | ".join(TESTS.values()) + " |", "|---|--:|" + "--:|" * len(TESTS)]
    any_there = False
    for name, title in MODELS.items():
        cells: list[str] = []
        for test in TESTS:
            path = RESULTS / f"score-{name}-{test}.json"
            record = RunRecord.read(path) if path.is_file() else None
            any_there = any_there or record is not None
            cells.append(f"{100 * record.values['accuracy']:.1f} of {record.samples:,}" if record else "")
        aim = f"> {TARGETS[name]}" if name in TARGETS else ""
        lines.append(f"| {title} | {aim} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if any_there else NONE


def lengths() -> str:
    """Accuracy by how many letters a captcha has."""
    lines: list[str] = []
    for name in ("read", "lora", "tune"):
        for test, title in TESTS.items():
            path = RESULTS / f"score-{name}-{test}.json"
            if not path.is_file():
                continue
            values = RunRecord.read(path).values
            known = [f"letters.{count}" for count in (4, 5, 6)]
            told = " | ".join(f"{100 * values[key]:.1f}" for key in known)
            lines.append(f"| {MODELS[name]} | {title} | {told} |")
    if not lines:
        return ""
    return "\n".join(["| model | test | 4 letters | 5 | 6 |", "|---|---|--:|--:|--:|", *lines])


def stages() -> str:
    """What each stage took."""
    lines = ["| stage | steps | samples | last loss | hours |", "|---|--:|--:|--:|--:|"]
    for stage in STAGES:
        path = RESULTS / f"train-{stage}.json"
        if path.is_file():
            record = RunRecord.read(path)
            values = record.values
            lines.append(
                f"| `captcha/{stage}` | {values['steps']:,.0f} | {values['samples_seen']:,.0f} | "
                f"{values['last_loss']:.3f} | {record.seconds / 3600:.2f} |"
            )
    return "\n".join(lines) if len(lines) > 2 else ""


def plot(to: Path) -> str:
    """The loss of every stage over its steps, and the line of the page that shows it."""
    found = {stage: RESULTS / f"train-{stage}.jsonl" for stage in STAGES}
    found = {stage: path for stage, path in found.items() if path.is_file()}
    if not found:
        return ""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "captcha"
    figure, axes = pyplot.subplots(1, len(found), figsize=(2.4 * len(found), 2.6), squeeze=False)
    for axis, (stage, path) in zip(axes[0], found.items(), strict=True):
        curve = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        axis.plot([point["step"] for point in curve], [point["loss"] for point in curve], linewidth=0.8)
        axis.set_title(stage, fontsize=9)
        axis.set_yscale("log")
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, metadata={"Date": None})
    return f"![loss of each stage](pictures/{to.name})"


def main() -> None:
    """Collect records, or write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("page", "collect"), default="page")
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs/captcha"))
    options = parser.parse_args()
    if options.what == "collect":
        collect(options.runs)
    made = {
        "scores": scores(),
        "lengths": lengths(),
        "stages": stages(),
        "plot": plot(HERE / "pictures" / "captcha-loss.svg"),
    }
    words = (HERE / "captcha.txt").read_text("utf-8")
    for name, text in made.items():
        words = words.replace(f"{{{name}}}\n\n" if not text else f"{{{name}}}", text)
    (HERE / "captcha.md").write_text(MADE + words, "utf-8")
    sys.stdout.write("captcha.md\n")


if __name__ == "__main__":
    main()
