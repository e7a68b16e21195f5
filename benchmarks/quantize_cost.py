"""What 8 and 4 bits cost a model: how far its next tokens move, how often it still says the same, its size.

    python benchmarks/quantize_cost.py [--model FOLDER] [--picture FILE] [--question TEXT ...] [--out FILE]
        [--most-divergence X] [--least-agreement X]

The dense model answers every question greedily; then both are scored on all of those answers' tokens. With
the last two it is a gate, which ends with 3 where the cost is higher. Records go to --out, one for each.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from beholder.api import checkpoint_folder
from beholder.checkpoints.loader import open_model
from beholder.checkpoints.quantize import BITS, Cost, measure
from beholder.core.errors import ConfigError
from beholder.core.records import RunRecord, capture, hash_weights
from beholder.core.types import Message
from beholder.families import identify_folder
from beholder.processing.images import open_picture

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parent / "examples" / "shapes.png"
QUESTIONS = ("Describe the picture.", "What shape is red?", "How many shapes are there?")
LENGTH = 24
CHECK_FAILED = 3


def costs(folder: Path, picture: Path, questions: list[str], place: str) -> dict[str, tuple[Cost, float]]:
    """What each number of bits costs, and the seconds that finding it out took."""
    family = identify_folder(folder)
    processor: Any = family.processor_class().from_pretrained(folder)
    shown = open_picture(str(picture))
    asked = [dict(processor.encode([Message.user(shown, question)])) for question in questions]
    options: dict[str, Any] = {"device": place, "dtype": "float32" if place == "cpu" else None}
    dense = open_model(folder, family, **options)
    prompts = [{name: value.to(dense.device) for name, value in inputs.items()} for inputs in asked]
    found: dict[str, tuple[Cost, float]] = {}
    for bits in BITS:
        begun = time.perf_counter()
        cost = measure(dense, open_model(folder, family, quantize=bits, **options), prompts, length=LENGTH)
        found[bits] = cost, time.perf_counter() - begun
    return found


def record_of(name: str, folder: Path, bits: str, cost: Cost, seconds: float, place: str) -> RunRecord:
    """One cost with what it was measured on."""
    values = {key: float(value) for key, value in asdict(cost).items()}
    return capture(
        subject=name, weights=hash_weights(folder), measure=f"quantize {bits}", values=values,
        samples=cost.places, settings={"bits": bits, "device": place, "length": LENGTH}, seconds=seconds,
    )  # fmt: skip


def main() -> None:
    """See above."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--model", help="a folder or hub id; left out, the built-in model")
    asked.add_argument("--picture", type=Path, default=PICTURE)
    asked.add_argument("--question", action="append", dest="questions")
    asked.add_argument("--device", default="cpu")
    asked.add_argument(
        "--out", type=Path, default=HERE / "results", help="folder of the records, one of each"
    )
    asked.add_argument("--most-divergence", type=float, default=float("inf"))
    asked.add_argument("--least-agreement", type=float, default=0.0)
    given = asked.parse_args()
    folder = checkpoint_folder(given.model)
    found = costs(folder, given.picture, given.questions or list(QUESTIONS), given.device)
    name = given.model or "beholder-mini"
    for bits, told in found.items():
        record = record_of(name, folder, bits, *told, given.device)
        record.write(given.out / f"quantize-{bits}-{date.today()}.json")
    print("| bits | divergence, mean | worst | same token | bytes | of the dense |")
    print("|---|--:|--:|--:|--:|--:|")
    for bits, (cost, _) in found.items():
        share = cost.bytes_quantized / cost.bytes_dense
        print(
            f"| {bits} | {cost.mean_divergence:.5f} | {cost.worst_divergence:.4f} | {cost.agreement:.1%} "
            f"| {cost.bytes_quantized:,} | {share:.0%} |"
        )
    try:
        for cost, _ in found.values():
            cost.confirm(most_divergence=given.most_divergence, least_agreement=given.least_agreement)
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(CHECK_FAILED)


if __name__ == "__main__":
    main()
