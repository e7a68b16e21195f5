"""Turns the folders of finished training stages into records that can be committed.

    python docs/training_record.py runs/mini/tower runs/mini/words ... [--out benchmarks/results]

A stage's folder holds `recipe.json` and `log.jsonl`, as `beholder train` writes them. Of each stage this
makes `mini-train-N-STAGE.json` (the record) and `mini-train-N-STAGE.jsonl` (its learning curve). Folders are
told by their last name only: where they lay on the machine says nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beholder.core.records import RunRecord, capture, hash_weights

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
OF_THE_MACHINE = ("output", "workers", "keep", "save_every", "log_every")


def record_stage(folder: Path, out: Path, number: int) -> RunRecord:
    """Write record and curve of the stage that came as number `number`."""
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    curve = read_curve(folder / "log.jsonl")
    steps, batch = curve[-1]["step"], recipe["global_batch"]
    seconds = training_seconds(curve, batch)
    settings = {key: value for key, value in recipe.items() if key not in OF_THE_MACHINE}
    settings |= {"model": short(recipe["model"]), "data": [describe_data(part) for part in recipe["data"]]}
    record = capture(
        subject="beholder-mini",
        measure=f"train {recipe['name']}",
        values={
            "steps": steps,
            "samples_seen": steps * batch,
            "first_loss": curve[0]["loss"],
            "last_loss": curve[-1]["loss"],
            "samples_per_second": steps * batch / seconds,
        },
        samples=sum(part["pictures_drawn"] for part in settings["data"]),
        settings=settings,
        seconds=round(seconds, 1),
        weights=hash_weights(folder / "model"),
    )
    stem = f"mini-train-{number}-{recipe['name'].rpartition('/')[2]}"
    record.write(out / f"{stem}.json")
    lines = "".join(json.dumps(point) + "\n" for point in curve)
    (out / f"{stem}.jsonl").write_text(lines, encoding="utf-8")
    return record


def read_curve(path: Path) -> list[dict[str, float]]:
    """The log by steps; where a stage was resumed, what was logged twice counts as it was logged last."""
    points = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_step = {point["step"]: point for point in points}
    if not by_step:
        raise SystemExit(f"{path} holds no steps")
    return [by_step[step] for step in sorted(by_step)]


def training_seconds(curve: Sequence[dict[str, float]], batch: int) -> float:
    """How long the stage took: the log tells the samples per second of the process up to each point."""
    before, seconds = 0.0, 0.0
    for point in curve:
        seconds += (point["step"] - before) * batch / point["samples_per_second"]
        before = point["step"]
    return seconds


def describe_data(part: dict[str, Any]) -> dict[str, Any]:
    """Which scenes a data folder holds, from the manifest that was written with them."""
    manifest = json.loads((Path(part["rows"]).parent / "manifest.json").read_text(encoding="utf-8"))
    return {
        **{key: manifest[key] for key in ("split", "seed", "start", "rounds")},
        "pictures_drawn": manifest["scenes"],
        "questions": manifest["counts"]["questions"],
        "typefaces": len(manifest["fonts"]),
    }


def short(path: str) -> str:
    """The last two names of a path."""
    return "/".join(Path(path).parts[-2:])


def main() -> None:
    """Record every folder that is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for number, folder in enumerate(options.folders, start=1):
        record = record_stage(folder, options.out, number)
        sys.stdout.write(f"{record.measure}: {record.values['steps']} steps, {record.seconds / 3600:.2f} h\n")


if __name__ == "__main__":
    main()
